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

from numpy.typing import NDArray

from ansor_lite.errors import AnsorLiteError, InputError
from ansor_lite.tasks import Task
from benchmarks import common, operator_program
from benchmarks.common import RESULTS, kept_rows, measured_now, settings, write_result
from benchmarks.comparing import TOLERANCE, compare, control_of
from benchmarks.paired import interval, is_void, paired_ratio
from benchmarks.runtimes import FMA_PEAK, Runtime, RuntimeFailure, write_arrays
from benchmarks.turns import Series
from schedules.steps import Step

Row: TypeAlias = Mapping[str, Any]
Steps: TypeAlias = tuple[Step, ...]

PROGRAM, NOTHING = "program", "none.npz"
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


@dataclasses.dataclass(frozen=True, slots=True)
class Peer:
    """How a peer is started; ``python``: its interpreter."""

    kind: str
    path: Path
    inputs: str
    python: str


@dataclasses.dataclass(frozen=True, slots=True)
class Children:
    """Child processes that read their files in ``folder``."""

    folder: Path
    threads: int
    stack: ExitStack

    def start(
        self, kind: str, path: Path, inputs: str = NOTHING, python: str = sys.executable
    ) -> Runtime:
        runtime = Runtime(kind, path, self.folder / inputs, self.threads, python)
        return self.stack.enter_context(runtime)

    def program(self, kind: str, inputs: str = NOTHING) -> Runtime:
        """Our program, by a runtime of that kind."""
        return self.start(kind, self.folder / PROGRAM, inputs)

    def limits(self, moving: Sequence[str], size: int) -> dict[str, Runtime]:
        """The multiply-add peak, and runtimes that move ``size`` bytes."""
        kinds = {FMA_PEAK: Path("-")} | {kind: Path(str(size)) for kind in moving}
        return {kind: self.start(kind, path) for kind, path in kinds.items()}


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
    for row in chosen:
        rows.append(_measured(table, row, arguments))
        result = {**table.summary(rows), table.key: rows}
        path = write_result(table.name, settings(arguments), result, arguments.output)
    table.report(rows, arguments)
    print(f"written: {path}")
    return 0


def _measured(table: Table[T], of: T, arguments: argparse.Namespace) -> dict[str, Any]:
    """One row of the result; a failure of ours is one too."""
    row = {"name": of.name, **table.facts(of), "measured": measured_now()}
    try:
        task = of.task().canonical()
        row |= table.timed(of, task, _tuned(table.name, task, arguments), arguments)
    except AnsorLiteError as error:
        row["failure"] = str(error)
        print(f"{of.name}: {error}", file=sys.stderr)
    return row


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
    """Children of one row, with our program in their folder."""
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = Path(temporary)
        operator_program.save(folder / PROGRAM, task, steps)
        write_arrays(folder / NOTHING, {})
        yield Children(folder, threads, stack)


def start_peers(
    group: Children, peers: Mapping[str, Peer], runtimes: dict[str, Runtime], alike: bool = True
) -> tuple[dict[str, Mapping[str, NDArray[Any]]], dict[str, str]]:
    """Add the peers and a control of each to ``runtimes``; their outputs, and who failed and why.

    ``alike``: one that disagrees with the first fails.
    """
    found: dict[str, Mapping[str, NDArray[Any]]] = {}
    refused: dict[str, str] = {}
    for name, peer in peers.items():
        try:
            runtimes[name] = group.start(peer.kind, peer.path, peer.inputs, peer.python)
            values = runtimes[name].outputs(group.folder / "out.npz")
            first = next(iter(found), name)
            if alike and not compare(values, found.get(first, values), TOLERANCE)["agrees"]:
                raise RuntimeFailure(f"wrong output: unlike {first}'s")
            found[name] = values
            control = group.start(peer.kind, peer.path, peer.inputs, peer.python)
            runtimes[control_of(name)] = control
        except AnsorLiteError as error:
            runtimes.pop(name, None)
            refused[name] = str(error)
    return found, refused


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
