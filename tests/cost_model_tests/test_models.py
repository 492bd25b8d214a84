"""What is particular to one model: the analytic draft, pack-sum, priors, shipped weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from followed_nests import measured

from cost_model.base import CostModelError
from cost_model.baseline import AnalyticModel
from cost_model.dataset import Dataset, Flat
from cost_model.features import COLUMN, FEATURES
from cost_model.pretrained import load_pretrained
from cost_model.xgb import PackSum, XGBModel, XGBSettings
from schedules.hardware import Hardware


def flat(cycles: list[float], labels: list[float]) -> Flat:
    """Programs of one task, of two statements each; ``cycles`` are logarithms."""
    rows = np.zeros((2 * len(cycles), len(FEATURES)), np.float32)
    rows[:, COLUMN["program_cycles"]] = np.repeat(cycles, 2)
    starts = 2 * np.arange(len(cycles))
    return Flat(rows, starts, np.array(labels), np.zeros(len(cycles), dtype=np.int64))


def test_the_analytic_score_falls_with_the_cycles() -> None:
    features = measured(np.random.default_rng(0), 50).blocks[0].features
    order = np.argsort(-AnalyticModel().predict(features))
    assert (np.diff(features[order, 0, COLUMN["program_cycles"]]) >= 0).all()


def test_an_untrained_model_ranks_by_cycles() -> None:
    features = measured(np.random.default_rng(0), 5).blocks[0].features
    np.testing.assert_array_equal(XGBModel().predict(features), AnalyticModel().predict(features))


def test_nothing_is_left_to_learn_when_cycles_tell_the_speed() -> None:
    error = PackSum(flat([20.0, 21.0], [1.0, 0.5]), 0.1)
    np.testing.assert_allclose(error.residuals(np.zeros(4, np.float32)), 0, atol=1e-6)


def test_pack_sum_adds_the_statements() -> None:
    error = PackSum(flat([20.0, 20.0], [1.0, 0.5]), 0.1)
    np.testing.assert_allclose(error.residuals(np.array([1, 0, 0.25, -0.25])), 0, atol=1e-6)


def test_the_trees_ignore_statements_of_little_weight() -> None:
    block = measured(np.random.default_rng(0), 40).blocks[0]
    features = block.features.copy()
    features[:, 1, COLUMN["program_share"]] = -9
    model = XGBModel(settings=XGBSettings(small_trees=5))
    model.fit(Dataset().extended("t", features, block.seconds))
    other = features.copy()
    other[:, 1, :100] = 0
    np.testing.assert_array_equal(model.predict(other), model.predict(features))


def test_the_speed_of_a_whole_task_is_no_error() -> None:
    error = PackSum(flat([20.0, 20.0], [1.0, 0.5]), 0.1)
    scores = np.array([1, 2, 3, 4], np.float32)
    np.testing.assert_allclose(error.residuals(scores), error.residuals(scores + 7), atol=1e-5)


def test_statements_of_a_program_share_its_gradient() -> None:
    error = PackSum(flat([20.0, 20.0], [1.0, 0.5]), 0.1)
    gradient, curvature = error.objective(np.zeros(4, np.float32), None)  # type: ignore[arg-type]
    np.testing.assert_allclose(gradient, np.array([-1, -1, 1, 1]) / 3, atol=1e-6)
    np.testing.assert_allclose(curvature, [2, 2, 1, 1])


def test_the_fastest_programs_weigh_most() -> None:
    assert PackSum(flat([20.0] * 3, [1.0, 0.5, 0.0]), 0.1).weights.tolist() == [1.0, 0.5, 0.1]


def test_a_fit_continues_the_prior() -> None:
    rng = np.random.default_rng(0)
    model = XGBModel(settings=XGBSettings(small_trees=5))
    model.fit(measured(rng, 30))
    model.become_prior()
    model.fit(measured(rng, 30))
    assert model.booster is not None and model.booster.num_boosted_rounds() == 10


def test_a_loaded_model_still_knows_its_prior(tmp_path: Path) -> None:
    data = measured(np.random.default_rng(0), 30)
    model, loaded = XGBModel(settings=XGBSettings(small_trees=5)), XGBModel()
    model.fit(data)
    model.become_prior()
    model.fit(data)
    model.save(tmp_path / "m")
    loaded.load(tmp_path / "m")
    assert loaded.prior is not None and loaded.prior.num_boosted_rounds() == 5


def test_held_out_programs_stop_the_training() -> None:
    settings = XGBSettings(trees=60, validate_from=100, patience=3, learning_rate=0.6)
    model = XGBModel(settings=settings)
    model.fit(measured(np.random.default_rng(0), 120))
    assert model.booster is not None and model.booster.num_boosted_rounds() < 60


def test_refuses_a_damaged_file(tmp_path: Path) -> None:
    model = XGBModel(settings=XGBSettings(small_trees=2))
    model.fit(measured(np.random.default_rng(0), 20))
    model.save(tmp_path / "m")
    (tmp_path / "m").write_bytes((tmp_path / "m").read_bytes()[:-40])
    with pytest.raises(CostModelError, match="is damaged"):
        XGBModel().load(tmp_path / "m")


def test_no_weights_for_an_unknown_kind_of_machine() -> None:
    assert load_pretrained(Hardware(kind="abacus")) is None


def test_the_package_does_not_load_xgboost() -> None:
    code = "import cost_model.xgb, cost_model.pretrained, sys; assert 'xgboost' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
