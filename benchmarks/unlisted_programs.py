"""Programs outside every list of operators: do rules that see only axes and reads tune them too?

``python -m benchmarks.unlisted_programs --trials 64 --threads 2``

Read ``programs.py`` for what they compute. The bar for these is half of the peak of the
multiply-add units, measured on this machine just before, within 64 trials; the winner is compared
with the unscheduled program.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ansor_lite.errors import AnsorLiteError
from ansor_lite.options import TuningOptions
from ansor_lite.target import Target, native
from ansor_lite.tasks import Task
from benchmarks.common import show, write_result
from benchmarks.programs import DENSE
from schedules.hardware import Hardware
from schedules.nest import follow
from search_space.sketch_generation import generate_sketches

PEAK_BAR = 0.5


@dataclasses.dataclass(frozen=True, slots=True)
class Structure:
    """Sketches of a program, and how many of them have each property."""

    sketches: int
    tiled: int
    vectorised: int
    parallel: int


@dataclasses.dataclass(frozen=True, slots=True)
class Tuned:
    """``gflops_before``: of the schedule by rule. ``check``: empty when the winner computes what
    the unscheduled program computes."""

    name: str
    structure: Structure
    trials: int
    slow: int
    failures: int
    gflops: float
    gflops_before: float | None
    peak_gflops: float
    check: str

    @property
    def share_of_peak(self) -> float:
        return self.gflops / self.peak_gflops

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"share_of_peak": self.share_of_peak}


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 whatever the shares, 1 for a failure."""
    arguments = _parser().parse_args(argv)
    from ansor_lite.measure.peak import measure_peak

    target = native(arguments.threads)
    options = TuningOptions(trials=arguments.trials, threads=arguments.threads, seed=arguments.seed)
    try:
        tuned = []
        peak = measure_peak(target).gflops
        for name in arguments.programs:
            result = tune(DENSE[name](), target, options)
            # The peak just before or after, whichever is higher: never in our favour.
            before, peak = peak, measure_peak(target).gflops
            tuned.append(dataclasses.replace(result, peak_gflops=max(before, peak)))
    except AnsorLiteError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    _report(tuned, arguments)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="benchmarks.unlisted_programs", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--programs", nargs="+", default=list(DENSE), choices=list(DENSE))
    parser.add_argument("--trials", type=int, default=64, help="per program")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    return parser


def tune(task: Task, target: Target, options: TuningOptions) -> Tuned:
    """Tune, then compare the winner with the unscheduled program on inputs of its own."""
    import ansor_lite
    from ansor_lite.measure.local import LocalWorkers
    from ansor_lite.measure.protocol import Candidate

    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "task.tune.jsonl"
        result = ansor_lite.tune_task(task, target=target, options=options, log=log)
    if result.steps is None or result.seconds is None:
        raise AnsorLiteError(f"{task.name}: no program ran")
    with LocalWorkers(target, 1) as workers:
        verdict = workers.check(Candidate(result.task, result.steps))
    gflops = task.flop / result.seconds / 1e9
    return Tuned(
        task.name,
        structure(task, target.hardware()),
        result.trials,
        result.slow,
        result.failures,
        gflops,
        task.flop / result.before / 1e9 if result.before else None,
        gflops,
        "" if verdict.ok else verdict.message or verdict.status.value,
    )


def structure(task: Task, hardware: Hardware) -> Structure:
    """What the sketches of a task look like, read from the loops of a random candidate of each."""
    rng = np.random.default_rng(0)
    counts = {"tiled": 0, "parallel": 0, "vectorize": 0}
    sketches = generate_sketches(task.dag, hardware)
    for sketch in sketches:
        loops = [loop for s in follow(sketch, sketch.random(1, rng)).stages for loop in s.loops]
        annotations = {loop.annotation for loop in loops}
        counts["tiled"] += any(loop.level > 0 for loop in loops)
        counts["parallel"] += "parallel" in annotations
        counts["vectorize"] += "vectorize" in annotations
    return Structure(len(sketches), counts["tiled"], counts["vectorize"], counts["parallel"])


def _report(tuned: Sequence[Tuned], arguments: argparse.Namespace) -> None:
    show(
        f"{arguments.trials} trials at {arguments.threads} threads (bar: {PEAK_BAR:g} of peak)",
        ("program", "sketches", "trials", "slow", "failed", "by rule", "GFLOP/s", "peak", "check"),
        [_row(each) for each in tuned],
    )
    result: dict[str, Any] = {
        "bar": PEAK_BAR,
        "smallest_share_of_peak": min(each.share_of_peak for each in tuned),
        "all_right": all(not each.check for each in tuned),
        "programs": [each.to_json() for each in tuned],
    }
    settings = {
        "trials": arguments.trials,
        "threads": arguments.threads,
        "seed": arguments.seed,
    }
    print(f"written: {write_result('unlisted_programs', settings, result, arguments.output)}")


def _row(each: Tuned) -> tuple[str, ...]:
    shape = each.structure
    return (
        each.name,
        f"{shape.sketches} ({shape.tiled} tiled, {shape.vectorised} vector, "
        f"{shape.parallel} parallel)",
        str(each.trials),
        str(each.slow),
        str(each.failures),
        "-" if each.gflops_before is None else f"{each.gflops_before:.0f}",
        f"{each.gflops:.0f}",
        f"{each.share_of_peak:.2f} of {each.peak_gflops:.0f}",
        each.check or "right",
    )


if __name__ == "__main__":
    sys.exit(main())
