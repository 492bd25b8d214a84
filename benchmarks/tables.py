"""Tables whose rows are single tasks: each is tuned for a moment, then takes turns with others.

Read ``Table``, which a command fills in, then ``measure``. Separate from ``operators.py`` and
``attention.py``, which know what their rows are beside and what the rounds mean.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from ansor_lite.errors import AnsorLiteError, InputError
from ansor_lite.tasks import Task
from benchmarks import common, operator_program
from benchmarks.children import NOTHING, Children
from benchmarks.common import RESULTS, kept_rows, measured_rows, settings, write_result
from benchmarks.comparing import control_of
from benchmarks.paired import interval, is_void, paired_ratio
from benchmarks.runtimes import Runtime, write_arrays
from benchmarks.turns import Series
from schedules.steps import Step

Row: TypeAlias = Mapping[str, Any]
Steps: TypeAlias = tuple[Step, ...]

PROGRAM = "program"
COPY = "copy"


class Named(Protocol):
    """One line of a table of what is measured."""

    @property
    def name(self) -> str: ...

    def task(self) -> Task: ...


T = TypeVar("T", bound=Named)


@dataclasses.dataclass(frozen=True, slots=True)
class Table(Generic[T]):
    """A command: ``name`` is that of its result and log, ``key`` that of its rows in the result.

    ``facts`` and ``timed`` fill a row, before and after it is tuned; ``summary`` is of all rows.
    """

    name: str
    key: str
    choices: Sequence[T]
    facts: Callable[[T], Row]
    timed: Callable[[T, Task, Steps, argparse.Namespace], Row]
    summary: Callable[[Sequence[Row]], Row]
    report: Callable[[Sequence[Row], argparse.Namespace], None]


def add_options(parser: argparse.ArgumentParser, table: str, peers: Sequence[str]) -> None:
    """What every table can be told; a command adds the names of rows and its own defaults."""
    common.add_options(parser)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--peers", nargs="*", choices=peers)
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter of the peers")
    parser.add_argument("--torch-python", help="interpreter of torch, if it is another one")
    parser.add_argument("--output", type=Path, default=RESULTS / f"{table}.json")
    parser.add_argument("--append", action="store_true", help="keep other rows of --output")


def measure(table: Table[T], words: Sequence[str], arguments: argparse.Namespace) -> int:
    """Measure the rows that have one of ``words`` in their names; returns the exit code.

    The result is written after every row. 0 whatever comes out; 2 for bad input.
    """
    chosen = [row for row in table.choices if any(word in row.name for word in words)]
    try:
        if not chosen:
            raise InputError(f"no {table.key.removesuffix('s')} is called {' or '.join(words)}")
        rows = kept_rows(arguments, table.key, {row.name for row in chosen})
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2

    def fill(row: dict[str, Any], of: T) -> None:
        row |= table.facts(of)
        task = of.task().canonical()
        row |= table.timed(of, task, _tuned(table.name, task, arguments), arguments)

    def write(rows: Sequence[Row]) -> Path:
        result = {**table.summary(rows), table.key: list(rows)}
        return write_result(table.name, settings(arguments), result, arguments.output)

    path = measured_rows(rows, {row.name: row for row in chosen}, fill, write)
    table.report(rows, arguments)
    print(f"written: {path}")
    return 0


def _tuned(name: str, task: Task, arguments: argparse.Namespace) -> Steps:
    """The best program of the log, after tuning for a moment.

    Raises :class:`AnsorLiteError` when there is none.
    """
    import ansor_lite
    from ansor_lite import records
    from ansor_lite.options import TuningOptions
    from ansor_lite.replay import replay
    from ansor_lite.target import native

    target = native(arguments.threads)
    arguments.log.mkdir(parents=True, exist_ok=True)
    log = arguments.log / f"{name}{'.exact' * arguments.exact}.tune.jsonl"
    if not arguments.no_tune:
        options = TuningOptions(
            seconds=arguments.seconds,
            threads=arguments.threads,
            seed=arguments.seed,
            exact=arguments.exact,
        )
        ansor_lite.tune_task(task, target=target, options=options, log=log)
    steps = replay(records.read(log), [task], target).steps_for(task)
    if steps is None:
        raise AnsorLiteError(f"no program in {log.name}")
    return steps


@contextmanager
def children(task: Task, steps: Steps, threads: int) -> Iterator[Children]:
    """Children of one row, with our program as ``PROGRAM`` in their folder."""
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = Path(temporary)
        operator_program.save(folder / PROGRAM, task, steps)
        write_arrays(folder / NOTHING, {})
        yield Children(folder, threads, stack)


def program(group: Children, kind: str, inputs: str = NOTHING) -> Runtime:
    """Our program, by a runtime of that kind."""
    return group.start(kind, group.folder / PROGRAM, inputs)


def beside_peers(series: Series, ours: str, peers: Sequence[str]) -> dict[str, Any]:
    """Speed-ups over those of ``peers`` that took part, and whether their controls say so."""
    rounds = series.rounds
    there = [name for name in peers if name in rounds]
    controls = {p: paired_ratio(rounds[control_of(p)], rounds[p]) for p in there}
    return {
        "speed_up": {p: dataclasses.asdict(paired_ratio(rounds[p], rounds[ours])) for p in there},
        "controls": {p: dataclasses.asdict(control) for p, control in controls.items()},
        "void_peers": [p for p, control in controls.items() if is_void(control)],
    }


def beside(row: Row, peer: str) -> str:
    """Speed-up over a peer with its interval, marked when the peer's control was out of range."""
    if peer not in row["speed_up"]:
        return "no peer" if peer in row["no_peer"] else ""
    return interval(row["speed_up"][peer]) + (" VOID" if peer in row["void_peers"] else "")
