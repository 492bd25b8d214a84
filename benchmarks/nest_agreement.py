"""Does `nest` predict what `lower` builds? 200 random candidates of every sketch say yes or no.

``python -m benchmarks.nest_agreement --candidates 200 --builds 2``

Loops, extents, annotations and allocated bytes are read from the TensorIR before any pass; touched
elements per buffer and loop level are enumerated. A few candidates of each sketch are also built
and their results compared with the reference interpreter. Runs from a checkout: programs and
enumeration are those of the tests.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.common import show, write_result

TESTS = Path(__file__).parent.parent / "tests"
TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class Agreement:
    """One program: what was compared and what differed."""

    program: str
    sketches: int
    candidates: int
    disagreements: int
    builds: int
    worst_error: float
    seconds: float
    first: str  # text of the first disagreement

    @property
    def holds(self) -> bool:
        return self.disagreements == 0 and self.worst_error < TOLERANCE


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 when everything agrees, 1 otherwise."""
    sys.path[:0] = [str(TESTS), str(TESTS / "schedules_tests")]
    from small_tasks import SMALL

    arguments = _parser().parse_args(argv)
    names = arguments.programs or list(SMALL)
    results = [
        compare(name, SMALL[name](), arguments.candidates, arguments.builds, arguments.seed)
        for name in names
    ]
    _report(results, arguments)
    return 0 if all(r.holds for r in results) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="benchmarks.nest_agreement", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--programs", nargs="+", help="default: all of tests/small_tasks.py")
    parser.add_argument("--candidates", type=int, default=200, help="per sketch")
    parser.add_argument("--builds", type=int, default=2, help="per sketch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    return parser


def compare(name: str, dag: Any, candidates: int, builds: int, seed: int) -> Agreement:
    """Random candidates of every sketch of one program."""
    from brute_force import disagreements
    from built import Case
    from small_tasks import HARDWARE

    from schedules.nest import all_effective_steps
    from search_space.sketch_generation import generate_sketches

    start = perf_counter()
    rng = np.random.default_rng(seed)
    case = Case(dag, HARDWARE)
    sketches = generate_sketches(dag, HARDWARE)
    found: list[str] = []
    errors = [case.error(())]
    for sketch in sketches:
        rows = sketch.random(candidates, rng)
        found += [f"{sketch.name}: {text}" for text in disagreements(sketch, rows, HARDWARE)]
        errors += [case.error(steps) for steps in all_effective_steps(sketch, rows[:builds])]
    return Agreement(
        name,
        len(sketches),
        candidates * len(sketches),
        len(found),
        len(errors),
        max(errors),
        perf_counter() - start,
        found[0] if found else "",
    )


def _report(results: Sequence[Agreement], arguments: argparse.Namespace) -> None:
    show(
        f"nest against the lowered program, {arguments.candidates} candidates of every sketch",
        ("program", "sketches", "candidates", "differ", "built", "worst error", "seconds"),
        [
            (
                r.program,
                str(r.sketches),
                str(r.candidates),
                str(r.disagreements),
                str(r.builds),
                f"{r.worst_error:.1e}",
                f"{r.seconds:.1f}",
            )
            for r in results
        ],
    )
    settings = {name: getattr(arguments, name) for name in ("candidates", "builds", "seed")}
    result = {
        "all_agree": all(r.holds for r in results),
        "candidates": sum(r.candidates for r in results),
        "programs": [asdict(r) for r in results],
    }
    path = write_result("nest_agreement", settings, result, arguments.output)
    print(f"written: {path}")


if __name__ == "__main__":
    sys.exit(main())
