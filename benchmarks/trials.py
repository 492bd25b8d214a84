"""Trials a second, and the share of tuning that is search instead of measuring.

``python -m benchmarks.trials --model-dir DIR --trials 64``

A trial is a distinct program that was built, run and timed to the end. Programs that failed, were
stopped early for being slow, or were logged twice are counted apart and are no trials. The clock
runs from the first event of a task to its last trial, so that starting worker processes does not
count; ``call_seconds`` of the JSON has it all.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ansor_lite.errors import AnsorLiteError, InputError
from ansor_lite.events import Event, TaskStarted, TrialMeasured, TuningFinished
from ansor_lite.options import TuningOptions
from ansor_lite.tasks import Task
from benchmarks.common import resolve_model, show, write_result
from benchmarks.tasks import convolutions

TRIALS_BAR = 6.0
SEARCH_BAR = 0.15


@dataclasses.dataclass(slots=True)
class Counting:
    """An ``on_event`` callback: what happened, and when by the wall clock."""

    trials: int = 0
    slow: int = 0
    failures: int = 0
    best: float | None = None
    search_share: float = 0.0
    first: float = 0.0
    last: float = 0.0

    def __call__(self, event: Event) -> None:
        now = time.perf_counter()
        if isinstance(event, TaskStarted):
            self.first = self.first or now
        elif isinstance(event, TrialMeasured):
            self.last = now
            self._count(event)
        elif isinstance(event, TuningFinished):
            self.search_share = event.search_share

    def _count(self, event: TrialMeasured) -> None:
        if event.seconds is None:
            self.failures += 1
        elif event.status == "slow":
            self.slow += 1
        else:
            self.trials += 1
            self.best = min(event.seconds, self.best or event.seconds)

    @property
    def seconds(self) -> float:
        return self.last - self.first


@dataclasses.dataclass(frozen=True, slots=True)
class TaskRate:
    """What tuning one task came to. ``repeated``: lines of programs logged before."""

    name: str
    trials: int
    slow: int
    failures: int
    repeated: int
    seconds: float
    call_seconds: float
    search_share: float
    gflops: float

    @property
    def rate(self) -> float:
        return self.trials / self.seconds

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"trials_per_second": self.rate}


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 whatever the rate, 2 for bad input, 1 for a failure."""
    arguments = _parser().parse_args(argv)
    try:
        tasks = convolutions(resolve_model(arguments.model, arguments.model_dir))
        rates = [tuned(task, _options(arguments)) for task in tasks[: arguments.tasks]]
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except AnsorLiteError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    _report(rates, arguments)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks.trials", description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="resnet50", help="name or path of an ONNX file")
    parser.add_argument("--model-dir", type=Path, default=Path("build/models"))
    parser.add_argument("--tasks", type=int, help="the first so many convolutions; default: all")
    parser.add_argument("--trials", type=int, default=64, help="per task")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    return parser


def _options(arguments: argparse.Namespace) -> TuningOptions:
    return TuningOptions(trials=arguments.trials, threads=arguments.threads, seed=arguments.seed)


def tuned(task: Task, options: TuningOptions) -> TaskRate:
    """Tune one task from nothing, with a log of its own."""
    import ansor_lite

    counting = Counting()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "task.tune.jsonl"
        start = time.perf_counter()
        ansor_lite.tune_task(task, options=options, log=log, on_event=counting)
        spent = time.perf_counter() - start
        repeated = repeated_trials(log)
    if not counting.trials:
        raise AnsorLiteError(f"{task.name}: no program ran to the end")
    return TaskRate(
        task.name,
        counting.trials,
        counting.slow,
        counting.failures,
        repeated,
        counting.seconds,
        spent,
        counting.search_share,
        task.flop / counting.best / 1e9 if counting.best else 0.0,
    )


def repeated_trials(log: Path) -> int:
    """Lines of a log whose program had been logged before: winners timed again, for example."""
    from ansor_lite.records import read

    records = list(read(log))
    return len(records) - len({record.steps for record in records})


def _report(rates: Sequence[TaskRate], arguments: argparse.Namespace) -> None:
    median = float(np.median([r.rate for r in rates]))
    searching = sum(r.search_share * r.call_seconds for r in rates)
    share = searching / sum(r.call_seconds for r in rates)
    show(
        f"Tuning at {arguments.threads} threads (bars: {TRIALS_BAR:g}/s, {SEARCH_BAR:.0%} search)",
        ("task", "trials", "slow", "failed", "repeated", "seconds", "/s", "search", "GFLOP/s"),
        [_row(rate) for rate in rates],
    )
    print(f"median {median:.2f} trials/s, {share:.1%} of tuning time is search")
    result = {
        "trials_per_second_median": median,
        "trials_per_second_minimum": min(r.rate for r in rates),
        "search_share": share,
        "bars": {"trials_per_second": TRIALS_BAR, "search_share": SEARCH_BAR},
        "tasks": [r.to_json() for r in rates],
    }
    settings = {
        "model": Path(arguments.model).stem,
        "trials": arguments.trials,
        "threads": arguments.threads,
        "seed": arguments.seed,
    }
    print(f"written: {write_result('trials', settings, result, arguments.output)}")


def _row(rate: TaskRate) -> tuple[str, ...]:
    return (
        rate.name,
        str(rate.trials),
        str(rate.slow),
        str(rate.failures),
        str(rate.repeated),
        f"{rate.seconds:.1f}",
        f"{rate.rate:.2f}",
        f"{rate.search_share:.1%}",
        f"{rate.gflops:.0f}",
    )


if __name__ == "__main__":
    sys.exit(main())
