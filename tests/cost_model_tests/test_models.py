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
from cost_model.dataset import Flat
from cost_model.features import COLUMN
from cost_model.pretrained import load_pretrained
from cost_model.xgb import PackSum, XGBModel, XGBSettings
from schedules.hardware import Hardware

FLAT = Flat(
    np.zeros((3, 2), np.float32),
    np.array([0, 2]),
    np.array([1.0, 0.0]),
    np.array([0, 0]),
)


def test_the_analytic_score_falls_with_the_cycles() -> None:
    features = measured(np.random.default_rng(0), 50).blocks[0].features
    order = np.argsort(-AnalyticModel().predict(features))
    assert (np.diff(features[order, 0, COLUMN["program_cycles"]]) >= 0).all()


def test_an_untrained_model_ranks_by_cycles() -> None:
    features = measured(np.random.default_rng(0), 5).blocks[0].features
    np.testing.assert_array_equal(XGBModel().predict(features), AnalyticModel().predict(features))


def test_pack_sum_compares_the_sum_of_the_statements() -> None:
    scores = np.array([0.25, 0.5, 0.5], np.float32)
    np.testing.assert_allclose(PackSum(FLAT, 0.1).residuals(scores), [-0.25, 0.5])


def test_statements_of_a_program_share_its_gradient() -> None:
    error = PackSum(FLAT, 0.1)
    gradient, curvature = error.objective(np.zeros(3, np.float32), None)  # type: ignore[arg-type]
    np.testing.assert_allclose(gradient, [-1, -1, 0])
    np.testing.assert_allclose(curvature, [2, 2, 0.1])


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


def test_shipped_weights_load_and_are_small() -> None:
    for path in (Path(__file__).parents[2] / "cost_model" / "pretrained").glob("*.model"):
        model = load_pretrained(Hardware(kind=path.stem))
        assert model is not None and model.trained and path.stat().st_size < 2**20


def test_the_package_does_not_load_xgboost() -> None:
    code = "import cost_model.xgb, cost_model.pretrained, sys; assert 'xgboost' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
