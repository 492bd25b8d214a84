"""Labels, groups and failures."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cost_model.dataset import Dataset
from cost_model.features import FEATURES


def rows(n: int, statements: int = 2) -> np.ndarray:
    return np.arange(n * statements * len(FEATURES), dtype=np.float32).reshape(n, statements, -1)


def test_labels_are_throughput_over_the_best_of_the_task() -> None:
    data = Dataset().extended("a", rows(2), [2.0, 4.0]).extended("b", rows(1), [9.0])
    assert data.extended("a", rows(1), [1.0]).flat().labels.tolist() == [0.5, 0.25, 1.0, 1.0]


def test_a_failure_has_no_throughput_and_a_reason() -> None:
    data = Dataset().extended("a", rows(2), [1.0, math.nan], ["", "timeout"])
    assert data.flat().labels.tolist() == [1.0, 0.0]
    assert data.blocks[0].failures == ("", "timeout")


def test_a_task_that_only_failed_has_no_best() -> None:
    data = Dataset().extended("a", rows(1), [math.nan], ["crash"])
    assert data.best() == {} and data.flat().labels.tolist() == [0.0]


def test_programs_of_different_length_are_ragged_rows() -> None:
    flat = Dataset().extended("a", rows(2, 3), [1, 1]).extended("a", rows(1, 1), [1]).flat()
    assert flat.starts.tolist() == [0, 3, 6]
    assert flat.lengths.tolist() == [3, 3, 1]
    assert flat.tasks.tolist() == [0, 0, 0]


def test_a_choice_of_programs_keeps_their_rows() -> None:
    flat = Dataset().extended("a", rows(3, 2), [1, 2, 4]).flat()
    chosen = flat.programs(np.array([0, 2]))
    np.testing.assert_array_equal(chosen.rows, flat.rows[[0, 1, 4, 5]])
    assert chosen.starts.tolist() == [0, 2] and chosen.labels.tolist() == [1.0, 0.25]


def test_an_empty_dataset_is_flat_too() -> None:
    flat = Dataset().flat()
    assert flat.rows.shape == (0, len(FEATURES)) and len(flat.starts) == 0 and len(Dataset()) == 0


def test_extending_leaves_the_old_dataset_alone() -> None:
    old = Dataset().extended("a", rows(1), [1.0])
    assert (len(old.extended("a", rows(1), [1.0])), len(old)) == (2, 1)


@pytest.mark.parametrize(
    ("seconds", "failures", "message"),
    [
        ([1.0], (), "2 programs, 1 seconds"),
        ([1.0, 0.0], (), "must be positive"),
        ([1.0, math.nan], (), "must be positive"),
        ([1.0, 2.0], ("", "timeout"), "nan where it failed"),
    ],
)
def test_refuses_what_neither_ran_nor_failed(
    seconds: list[float], failures: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Dataset().extended("a", rows(2), seconds, failures)


def test_refuses_features_of_another_width() -> None:
    with pytest.raises(ValueError, match=r"features are \(1, 1, 3\)"):
        Dataset().extended("a", np.zeros((1, 1, 3), np.float32), [1.0])
