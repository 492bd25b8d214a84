"""How many candidates a second the search can judge on one core: nest, features, 300 trees.

``python -m benchmarks.candidates --model-dir DIR --profile``

The population is that of tuning: the sketches of a network's convolutions, rows as sampling and
evolution propose them around programs that were observed. Nothing is compiled or run: the observed
seconds are the estimated cycles with noise, which shapes the population like a measured one does.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ansor_lite.errors import InputError
from ansor_lite.options import TuningOptions
from ansor_lite.search import Candidate, Floats, SearchSettings, TaskSearch
from ansor_lite.target import native
from ansor_lite.tasks import Task
from benchmarks.common import resolve_model, show, write_result
from benchmarks.tasks import convolutions
from cost_model.baseline import AnalyticModel
from cost_model.dataset import Dataset
from cost_model.extract import features
from cost_model.sketch_features import SketchFeatures
from cost_model.xgb import XGBModel, XGBSettings
from schedules.hardware import Hardware
from schedules.nest import follow
from schedules.sketch import Choices, Sketch
from search_space.sketch_generation import default_steps, generate_sketches

BAR = 50_000
NOISE = 0.05
PROFILED = 20


@dataclass(slots=True)
class Spent:
    """Seconds by phase, and the candidates they were spent on."""

    rows: list[int] = field(default_factory=list)
    nest: float = 0.0
    features: float = 0.0
    model: float = 0.0
    cpu: float = 0.0
    whole: float = 0.0  # the scoring above, and sampling, evolution and picking

    @property
    def seconds(self) -> float:
        return self.nest + self.features + self.model

    @property
    def candidates(self) -> int:
        return sum(self.rows)

    @property
    def rate(self) -> float:
        """Candidates a second, scoring alone."""
        return self.candidates / self.seconds

    def plus(self, other: Spent) -> Spent:
        return Spent(
            self.rows + other.rows,
            self.nest + other.nest,
            self.features + other.features,
            self.model + other.model,
            self.cpu + other.cpu,
            self.whole + other.whole,
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "candidates": self.candidates,
            "candidates_per_second": self.rate,
            "candidates_per_cpu_second": self.candidates / self.cpu,
            "candidates_per_second_with_evolution": self.candidates / self.whole,
            "rows_per_call_median": float(np.median(self.rows)),
            "nest_share": self.nest / self.seconds,
            "features_share": self.features / self.seconds,
            "model_share": self.model / self.seconds,
        }


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 whatever the rate, 2 for bad input."""
    arguments = _parser().parse_args(argv)
    try:
        path = resolve_model(arguments.model, arguments.model_dir)
        tasks = convolutions(path)[: arguments.tasks]
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    hardware = native(arguments.threads).hardware()
    profiler = cProfile.Profile() if arguments.profile else None
    with _one_core():
        found = [_search(task, hardware, arguments.observed, arguments.seed) for task in tasks]
        searches = [search for search, _ in found]
        model = _fit(searches, tasks, hardware, arguments.trees, arguments.seed)
        spent = [
            _propose(search, cost, model, hardware, arguments, profiler) for search, cost in found
        ]
    _report(tasks, spent, arguments, profiler)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="benchmarks.candidates", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--model", default="resnet50", help="name or path of an ONNX file")
    parser.add_argument("--model-dir", type=Path, default=Path("build/models"))
    parser.add_argument("--tasks", type=int, help="the first so many convolutions; default: all")
    parser.add_argument("--threads", type=int, default=2, help="of the target, not of this program")
    parser.add_argument("--observed", type=int, default=64, help="programs observed per task")
    parser.add_argument("--rounds", type=int, default=3, help="proposals per task")
    parser.add_argument("--trees", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--profile", action="store_true", help="where the time goes (slower)")
    parser.add_argument("--output", type=Path)
    return parser


@contextmanager
def _one_core() -> Iterator[None]:
    """Keep this process on one core, where the system lets it."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


Cost = Callable[[Candidate], float]


def _search(task: Task, hardware: Hardware, observed: int, seed: int) -> tuple[TaskSearch, Cost]:
    """A search that has seen ``observed`` random programs, and the seconds it is told."""
    options = TuningOptions()
    settings = SearchSettings(population=options.population, generations=options.generations)
    sketches = generate_sketches(task.dag, hardware)
    search = TaskSearch(sketches, default_steps(task.dag, hardware), settings)
    rng = np.random.default_rng(seed)

    def cost(candidate: Candidate) -> float:
        nest = follow(sketches[candidate.sketch], candidate.choices[None, :])
        score = float(AnalyticModel().predict(features(nest, hardware))[0])
        return float(np.exp2(-score) * (1 + NOISE * abs(rng.standard_normal())))

    batch = [c for c in search.propose(observed, rng) if c.sketch >= 0]
    search.observe(batch, [cost(c) for c in batch])
    return search, cost


def _fit(
    searches: Sequence[TaskSearch],
    tasks: Sequence[Task],
    hardware: Hardware,
    trees: int,
    seed: int,
) -> XGBModel:
    """A model of exactly ``trees`` trees: no early stop."""
    dataset = Dataset()
    for search, task in zip(searches, tasks, strict=True):
        for seconds, candidate in search._measured:
            sketch = search.space.sketches[candidate.sketch]
            seen = features(follow(sketch, candidate.choices[None, :]), hardware)
            dataset = dataset.extended(task.key, seen, [seconds])
    model = XGBModel(seed, 1, XGBSettings(small_trees=trees, validate_from=sys.maxsize))
    model.fit(dataset)
    return model


def _propose(
    search: TaskSearch,
    cost: Cost,
    model: XGBModel,
    hardware: Hardware,
    arguments: argparse.Namespace,
    profiler: cProfile.Profile | None,
) -> Spent:
    """Some rounds of proposing and observing; what scoring took."""
    spent = Spent()
    rng = np.random.default_rng(arguments.seed + 1)
    extractors: dict[int, SketchFeatures] = {}

    def score(sketch: Sketch, rows: Choices) -> Floats:
        start, cpu = time.perf_counter(), time.process_time()
        extractor = extractors.get(id(sketch))
        if extractor is None:  # what the sketch keeps is part of the price
            extractor = extractors[id(sketch)] = SketchFeatures(sketch, hardware)
        nests = extractor.follow(rows)
        followed = time.perf_counter()
        seen = extractor.of(nests, rows)
        extracted = time.perf_counter()
        scores = model.predict(seen)
        end = time.perf_counter()
        spent.cpu += time.process_time() - cpu
        spent.nest += followed - start
        spent.features += extracted - followed
        spent.model += end - extracted
        spent.rows.append(len(rows))
        return scores

    def score_profiled(sketch: Sketch, rows: Choices) -> Floats:
        assert profiler is not None
        profiler.enable()
        try:
            return score(sketch, rows)
        finally:
            profiler.disable()

    search.scorer = score_profiled if profiler else score
    for _ in range(arguments.rounds):
        start = time.perf_counter()
        batch = search.propose(16, rng)
        spent.whole += time.perf_counter() - start
        search.observe(batch, [cost(c) for c in batch])
    return spent


def _report(
    tasks: Sequence[Task],
    spent: Sequence[Spent],
    arguments: argparse.Namespace,
    profiler: cProfile.Profile | None,
) -> None:
    total = Spent()
    for each in spent:
        total = total.plus(each)
    rates = [each.rate for each in spent]
    result: dict[str, Any] = {
        **total.to_json(),
        "bar": BAR,
        "task_rate_minimum": min(rates),
        "task_rate_median": float(np.median(rates)),
        "tasks": [{"name": t.name, **s.to_json()} for t, s in zip(tasks, spent, strict=True)],
    }
    rows = [_row(task.name, each) for task, each in zip(tasks, spent, strict=True)]
    show(
        f"Candidates a second on one core, {arguments.trees} trees (bar: {BAR:,})",
        ("task", "candidates", "per call", "/s", "/s CPU", "nest", "features", "model"),
        [*rows, _row("all", total)],
    )
    if profiler is not None:
        result["profile"] = _profile(profiler)
    settings = {
        name: getattr(arguments, name)
        for name in ("model", "threads", "observed", "rounds", "trees", "seed", "profile")
    }
    settings["model"] = Path(settings["model"]).stem
    print(f"written: {write_result('candidates', settings, result, arguments.output)}")


def _row(name: str, spent: Spent) -> tuple[str, ...]:
    shares = [part / spent.seconds for part in (spent.nest, spent.features, spent.model)]
    return (
        name,
        f"{spent.candidates:,}",
        f"{np.median(spent.rows):.0f}",
        f"{spent.rate:,.0f}",
        f"{spent.candidates / spent.cpu:,.0f}",
        *(f"{share:.0%}" for share in shares),
    )


def _profile(profiler: cProfile.Profile) -> list[dict[str, Any]]:
    """The functions with the most time of their own, printed and returned."""
    stats = pstats.Stats(profiler).get_stats_profile()
    ranked = sorted(stats.func_profiles.items(), key=lambda item: -item[1].tottime)[:PROFILED]
    found = [
        {
            "function": name,
            "file": f"{Path(entry.file_name).name}:{entry.line_number}",
            "calls": entry.ncalls,
            "own_share": entry.tottime / stats.total_tt,
            "total_share": entry.cumtime / stats.total_tt,
        }
        for name, entry in ranked
    ]
    show(
        "Where the time goes (under the profiler)",
        ("function", "file", "calls", "own", "with callees"),
        [
            (
                str(f["function"]),
                str(f["file"]),
                str(f["calls"]),
                f"{f['own_share']:.1%}",
                f"{f['total_share']:.1%}",
            )
            for f in found
        ],
    )
    return found


if __name__ == "__main__":
    sys.exit(main())
