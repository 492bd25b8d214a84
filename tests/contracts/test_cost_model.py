"""What every cost model promises. To add a model: a row in ``MODELS``."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cost_model.base import CostModel, CostModelError
from cost_model.baseline import AnalyticModel, RandomModel
from cost_model.dataset import Dataset
from cost_model.metrics import pairwise_accuracy
from cost_model.xgb import XGBModel

sys.path.insert(0, str(Path(__file__).parents[1] / "cost_model_tests"))

from followed_nests import known_seconds, measured

Make = Callable[[], CostModel]
MODELS: dict[str, Make] = {
    "random": lambda: RandomModel(np.random.default_rng(3)),
    "analytic": AnalyticModel,
    "xgboost": lambda: XGBModel(seed=3, threads=1),
}
LEARNING = ("xgboost",)


@pytest.fixture(params=sorted(MODELS))
def make(request: pytest.FixtureRequest) -> Make:
    return MODELS[request.param]


@pytest.fixture(params=LEARNING)
def make_learning(request: pytest.FixtureRequest) -> Make:
    return MODELS[request.param]


def fitted(make: Make, dataset: Dataset) -> CostModel:
    model = make()
    model.fit(dataset)
    return model


def held_out(seed: int = 9) -> Dataset:
    return measured(np.random.default_rng(seed), 60)


def test_scores_are_finite_doubles_one_per_program(make: Make) -> None:
    scores = fitted(make, held_out()).predict(held_out().blocks[0].features)
    assert scores.shape == (60,) and scores.dtype == np.float64 and np.isfinite(scores).all()


def test_equal_seeds_give_equal_scores(make: Make) -> None:
    data = held_out()
    first, second = (fitted(make, data).predict(data.blocks[0].features) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_saved_and_loaded_scores_alike(make: Make, tmp_path: Path) -> None:
    data = held_out()
    fitted(make, data).save(tmp_path / "m")
    fresh, loaded = fitted(make, data), make()
    loaded.load(tmp_path / "m")
    assert loaded.trained == fresh.trained
    features = data.blocks[0].features
    np.testing.assert_array_equal(loaded.predict(features), fresh.predict(features))


def test_an_untrained_model_can_be_saved(make: Make, tmp_path: Path) -> None:
    make().save(tmp_path / "m")
    loaded = make()
    loaded.load(tmp_path / "m")
    assert not loaded.trained
    features = held_out().blocks[0].features
    np.testing.assert_array_equal(loaded.predict(features), make().predict(features))


def test_saving_leaves_one_file(make: Make, tmp_path: Path) -> None:
    make().save(tmp_path / "m")
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize("content", [b"", b"\x00\x01", b"[1]\n", b'{"format": "other"}\n'])
def test_refuses_a_foreign_file(make: Make, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m").write_bytes(content)
    with pytest.raises(CostModelError, match="is no cost model"):
        make().load(tmp_path / "m")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'"version": 1', b'"version": 2', "has version 2, this is 1"),
        (b'"kind": "', b'"kind": "x', "holds a model of kind x"),
        (b'"features": "', b'"features": "x', "another feature table: train it again"),
    ],
)
def test_refuses_an_unfitting_file(
    make: Make, tmp_path: Path, old: bytes, new: bytes, message: str
) -> None:
    make().save(tmp_path / "m")
    (tmp_path / "m").write_bytes((tmp_path / "m").read_bytes().replace(old, new))
    with pytest.raises(CostModelError, match=message):
        make().load(tmp_path / "m")


@pytest.mark.parametrize(
    "seconds",
    [[1.0], [1.0, 1.0, 1.0], [1.0, math.nan], [math.nan], []],
    ids=["one sample", "equal labels", "a failure", "failures alone", "nothing"],
)
def test_any_dataset_can_be_fitted(make: Make, seconds: list[float]) -> None:
    features = measured(np.random.default_rng(1), 3).blocks[0].features
    reasons = ["timeout" if math.isnan(s) else "" for s in seconds]
    model = fitted(make, Dataset().extended("t", features[: len(seconds)], seconds, reasons))
    assert np.isfinite(model.predict(features)).all()


def test_an_empty_dataset_teaches_nothing(make: Make) -> None:
    assert not fitted(make, Dataset()).trained


def test_ranks_unseen_programs_of_a_known_cost(make_learning: Make) -> None:
    model = fitted(make_learning, measured(np.random.default_rng(1), 300))
    features = held_out().blocks[0].features
    assert pairwise_accuracy(model.predict(features), 1 / known_seconds(features)) > 0.9


def test_learns_from_other_tasks(make_learning: Make) -> None:
    rng = np.random.default_rng(1)
    data = measured(rng, 300, "small", 32)
    other = measured(rng, 300, "large", 128).blocks[0]
    both = data.extended("large", other.features, 1000 * other.seconds)
    features = held_out().blocks[0].features
    scores = fitted(make_learning, both).predict(features)
    assert pairwise_accuracy(scores, 1 / known_seconds(features)) > 0.75


def test_programs_of_several_lengths_learn_together(make_learning: Make) -> None:
    one = measured(np.random.default_rng(1), 40).blocks[0]
    data = Dataset().extended("t", one.features, one.seconds)
    data = data.extended("t", one.features[:, :1], one.seconds)
    model = fitted(make_learning, data)
    assert model.predict(one.features[:, :1]).shape == (40,)
