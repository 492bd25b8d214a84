"""The learned model: boosted trees on statements that correct the analytic score of a program.

Read ``dataset.py`` first. "Pack-sum" of Ansor (Zheng et al., OSDI 2020, section 5.2): squared
error of the summed prediction, weighted by throughput so that fast programs count most. Ours is
taken on logarithms and starts from the analytic score, so that few measurements are enough.
XGBoost's plain ``xgb.train(obj=, custom_metric=)`` interface alone is used, loaded on first use.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cost_model.base import CostModelError
from cost_model.baseline import AnalyticModel
from cost_model.dataset import Dataset, Flat
from cost_model.features import COLUMN, FEATURES
from cost_model.storage import read_model, write_model

if TYPE_CHECKING:
    import xgboost

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

SHARE = COLUMN["program_share"]
SLOWEST = 1 / 64  # label of a program that failed, or is slower still


@dataclass(frozen=True, slots=True)
class XGBSettings:
    """Shallow trees: scoring a population costs more than training.

    ``minimum_weight`` is the weight of a program of no throughput; the best of a task weighs 1.
    ``patience``: rounds without a better held-out error before training stops; data of fewer than
    ``validate_from`` programs hold nothing out and take ``small_trees``.
    """

    trees: int = 300
    small_trees: int = 60
    depth: int = 4
    learning_rate: float = 0.12
    column_share: float = 0.3
    bins: int = 64
    ridge: float = 3.0
    minimum_weight: float = 0.1
    patience: int = 25
    held_out: float = 0.1
    validate_from: int = 400


class XGBModel:
    """Boosted trees; ranks by estimated cycles (``AnalyticModel``) until it has been fitted.

    ``prior``: trees trained elsewhere, which every fit continues instead of starting from none.
    """

    def __init__(
        self, seed: int = 0, threads: int = 1, settings: XGBSettings | None = None
    ) -> None:
        self.seed = seed
        self.threads = threads
        self.settings = settings or XGBSettings()
        self.booster: xgboost.Booster | None = None
        self.prior: xgboost.Booster | None = None

    @property
    def trained(self) -> bool:
        return self.booster is not None

    def fit(self, dataset: Dataset) -> None:
        """Train from zero, or from the prior, on all programs; needs one that ran."""
        if dataset.best():
            self.booster = self._train(_essential(dataset.flat()))
            count = self.prior.num_boosted_rounds() if self.prior else 0
            self.booster.set_attr(prior=str(count))

    def become_prior(self) -> None:
        """Let later fits continue the trees as they are now."""
        self.prior = self.booster

    def predict(self, features: F32) -> F64:
        """``[N]``: analytic scores plus sums over the statements of ``[N, S, F]``."""
        if self.booster is None:
            return AnalyticModel().predict(features)
        kept = _counts(features[:, :, SHARE], features.shape[1])
        scores = self.booster.inplace_predict(features[kept], validate_features=False)
        counts = np.count_nonzero(kept, axis=1)
        starts = np.cumsum(counts) - counts
        learned: F64 = np.add.reduceat(scores.astype(np.float64), starts)
        return learned + _analytic(features[:, 0])

    def save(self, path: Path) -> None:
        raw = b"" if self.booster is None else bytes(self.booster.save_raw("ubj"))
        write_model(path, "xgboost", raw)

    def load(self, path: Path) -> None:
        raw = read_model(path, "xgboost")
        self.booster = _booster(raw, self.threads, path) if raw else None
        count = int(self.booster.attr("prior") or 0) if self.booster else 0
        self.prior = self.booster[:count] if self.booster and count else None

    def _train(self, flat: Flat) -> xgboost.Booster:
        import xgboost

        settings = self.settings
        train, held_out = _split(flat, settings, self.seed)
        data = xgboost.DMatrix(train.rows, nthread=self.threads)
        error = PackSum(train, settings.minimum_weight)
        arguments: dict[str, Any] = {"num_boost_round": settings.small_trees}
        if held_out is not None:
            arguments = {
                "num_boost_round": settings.trees,
                "evals": [(xgboost.DMatrix(held_out.rows, nthread=self.threads), "held_out")],
                "custom_metric": PackSum(held_out, settings.minimum_weight).metric,
                "early_stopping_rounds": settings.patience,
            }
        booster = xgboost.train(
            _parameters(settings, self.seed, self.threads),
            data,
            obj=error.objective,
            xgb_model=self.prior,
            verbose_eval=False,
            **arguments,
        )
        return booster if held_out is None else booster[: booster.best_iteration + 1]


def _booster(raw: bytes, threads: int, path: Path) -> xgboost.Booster:
    import xgboost

    booster = xgboost.Booster({"nthread": threads})
    try:
        booster.load_model(bytearray(raw))
    except xgboost.core.XGBoostError as error:
        raise CostModelError(f"{path} is damaged: XGBoost cannot read it") from error
    if booster.num_features() != len(FEATURES):
        raise CostModelError(f"{path} has {booster.num_features()} features, not {len(FEATURES)}")
    return booster


def _parameters(settings: XGBSettings, seed: int, threads: int) -> dict[str, Any]:
    return {
        "tree_method": "hist",
        "max_depth": settings.depth,
        "eta": settings.learning_rate,
        "colsample_bytree": settings.column_share,
        "max_bin": settings.bins,
        "lambda": settings.ridge,
        "min_child_weight": 0,
        "base_score": 0.0,
        "disable_default_eval_metric": True,
        "nthread": threads,
        "seed": seed,
        "verbosity": 0,
    }


def _split(flat: Flat, settings: XGBSettings, seed: int) -> tuple[Flat, Flat | None]:
    """Programs to learn from, and some to stop by when there are enough."""
    count = len(flat.starts)
    if count < settings.validate_from:
        return flat, None
    order = np.random.default_rng(seed).permutation(count)
    cut = int(count * settings.held_out)
    return flat.programs(np.sort(order[cut:])), flat.programs(np.sort(order[:cut]))


def _counts(share: F32, statements: int | Ints) -> Mask:
    """Which statements the trees look at, given their share of the program's cycles.

    One of less than a quarter of an even share is left to the analytic score; the largest of a
    program never is.
    """
    mask: Mask = share >= -np.log2(4 * np.asarray(statements, dtype=np.float32))
    return mask


def _essential(flat: Flat) -> Flat:
    """``flat`` with only the rows that count."""
    lengths = flat.lengths
    kept = _counts(flat.rows[:, SHARE], np.repeat(lengths, lengths))
    before = np.concatenate([[0], np.cumsum(kept)])
    return Flat(flat.rows[kept], before[flat.starts], flat.labels, flat.tasks)


class PackSum:
    """Weighted squared error of the predicted order, in the form XGBoost asks for.

    A program's score is its analytic score plus the sum of its statements' trees; it should differ
    from that of another program of its task by the logarithm of their speeds. How fast the task is
    as a whole is nothing to learn, so the error is taken around the mean of the task.
    """

    def __init__(self, flat: Flat, minimum_weight: float) -> None:
        self.flat = flat
        self.weights = np.maximum(flat.labels, minimum_weight)
        self.lengths = flat.lengths
        self.offset = _analytic(flat.rows[flat.starts]) - np.log2(np.maximum(flat.labels, SLOWEST))
        self.task_weights = np.bincount(flat.tasks, self.weights)

    def residuals(self, scores: F32) -> F64:
        """How far each program stands from its place in its task, in octaves, ``[P]``."""
        summed = np.add.reduceat(scores.astype(np.float64), self.flat.starts)
        error: F64 = summed + self.offset
        total = np.bincount(self.flat.tasks, self.weights * error)
        mean = total / np.maximum(self.task_weights, SLOWEST)
        return error - mean[self.flat.tasks]

    def objective(self, scores: F32, _: xgboost.DMatrix) -> tuple[F64, F64]:
        """Gradient and an upper bound of the curvature per row.

        All rows of a program move at once, so that its number of rows bounds the step.
        """
        gradient = self.weights * self.residuals(scores)
        curvature = self.weights * self.lengths
        return np.repeat(gradient, self.lengths), np.repeat(curvature, self.lengths)

    def metric(self, scores: F32, _: xgboost.DMatrix) -> tuple[str, float]:
        """Weighted root mean squared error."""
        mean = np.average(self.residuals(scores) ** 2, weights=self.weights)
        return "pack_rmse", float(np.sqrt(mean))


def _analytic(rows: F32) -> F64:
    """Analytic score of programs ``[P]`` from one row of each, ``[P, F]``."""
    return AnalyticModel().predict(rows[:, None])
