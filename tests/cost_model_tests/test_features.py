"""The table is a contract: documented, unique, and as wide as what extraction fills."""

from __future__ import annotations

import numpy as np
from followed_nests import program

from cost_model.extract import features
from cost_model.features import FEATURES, LOG1, LOGGED, NAMES, digest
from schedules.hardware import Hardware


def test_names_are_unique() -> None:
    assert len(set(NAMES)) == len(NAMES)


def test_every_feature_has_a_meaning() -> None:
    assert [f.name for f in FEATURES if len(f.meaning) < 10] == []


def test_the_table_is_at_least_as_rich_as_ansors() -> None:
    assert len(FEATURES) >= 164


def test_logged_columns_come_first() -> None:
    assert [f.scale == LOG1 for f in FEATURES] == [i < LOGGED for i in range(len(FEATURES))]


def test_extraction_fills_the_table() -> None:
    nest = program(np.random.default_rng(0), 3)
    assert features(nest, Hardware()).shape == (3, 2, len(FEATURES))


def test_digest_depends_on_the_meaning_alone() -> None:
    assert digest() == digest() and len(digest()) == 16
