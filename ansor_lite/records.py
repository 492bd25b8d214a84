"""The tuning log: JSON lines, one per trial, appended and never changed.

Read ``Record`` first. A log outlives the rules that made it: steps are stored closed, and a record
says everything it depended on. Reading is lenient in one place only, the last line, which a killed
process may have left half-written; anything else that is no record is an error that names its line.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from ansor_lite.errors import InputError, LogError, LogWriteError
from ansor_lite.measure.protocol import Candidate, Measurement, Status
from ansor_lite.target import Target
from ansor_lite.target import from_json as target_from_json
from schedules.codec import steps_from_json, steps_to_json
from schedules.errors import ScheduleError
from schedules.steps import ROUNDING, Step

VERSION = 1
_START = b'{"v":'


@dataclass(frozen=True, slots=True)
class Record:
    """One trial and what it depended on.

    ``task`` is the task key, ``name`` is for people, as are ``host`` (processor model), ``message``
    and ``versions``. ``round`` counts the rounds of the task; ``elapsed`` is of the tuning clock.
    """

    task: str
    name: str
    target: Target
    sketch: str
    steps: tuple[Step, ...]
    status: Status
    seconds: tuple[float, ...] = ()
    message: str = ""
    host: str = ""
    round: int = 0
    elapsed: float = 0.0
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def threads(self) -> int:
        return self.target.threads

    @property
    def measurement(self) -> Measurement:
        return Measurement(self.status, self.seconds, self.message)

    @property
    def time(self) -> float | None:
        """Seconds of one run, ``None`` for a failure."""
        return self.measurement.time


def record_of(
    candidate: Candidate,
    result: Measurement,
    target: Target,
    *,
    host: str = "",
    round: int = 0,
    elapsed: float = 0.0,
    versions: Mapping[str, str] | None = None,
) -> Record:
    """What to log of a measured candidate."""
    task = candidate.task
    return Record(
        task.key, task.name, target, candidate.sketch, candidate.steps, result.status,
        result.seconds, result.message, host, round, elapsed, dict(versions or {}),
    )  # fmt: skip


def current_versions() -> dict[str, str]:
    """Versions of what makes a kernel; those of packages that are installed."""
    found = {}
    for name in ("ansor-lite", "apache-tvm"):
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def to_line(record: Record) -> bytes:
    """The record as a line of the log, byte for byte the same for equal records."""
    value = {
        "v": VERSION,
        "task": record.task,
        "name": record.name,
        "target": record.target.to_json(),
        "threads": record.threads,
        "host": record.host,
        "sketch": record.sketch,
        "steps": steps_to_json(record.steps),
        "status": record.status.value,
        "seconds": list(record.seconds),
        "message": record.message,
        "round": record.round,
        "elapsed": record.elapsed,
        "versions": dict(sorted(record.versions.items())),
    }
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def from_line(line: bytes) -> Record:
    """Inverse of :func:`to_line`; :class:`LogError` says what is wrong with the line."""
    try:
        value = json.loads(line)
    except ValueError as error:
        raise LogError("not JSON") from error
    version = value.get("v") if isinstance(value, dict) else None
    if not isinstance(version, int):
        raise LogError("not a record of a tuning log")
    if version > VERSION:
        raise LogError(f"written by a newer version (format {version}, this one reads {VERSION})")
    try:
        return _decode(value)
    except (KeyError, TypeError, ValueError, ScheduleError, InputError) as error:
        raise LogError(f"not a record: {error}") from error


def _decode(value: dict[str, Any]) -> Record:
    target = replace(target_from_json(value["target"]), threads=int(value["threads"]))
    seconds = tuple(float(s) for s in value["seconds"])
    if not all(0.0 < s < math.inf for s in seconds):
        raise ValueError("seconds must be positive numbers")
    return Record(
        task=str(value["task"]),
        name=str(value["name"]),
        target=target,
        sketch=str(value["sketch"]),
        steps=steps_from_json(value["steps"]),
        status=Status(value["status"]),
        seconds=seconds,
        message=str(value["message"]),
        host=str(value["host"]),
        round=int(value["round"]),
        elapsed=float(value["elapsed"]),
        versions={str(k): str(v) for k, v in value["versions"].items()},
    )


@dataclass(frozen=True)
class Records:
    """The records of a log in order; ``warnings`` are for the user, ``name`` says where from."""

    records: tuple[Record, ...] = ()
    name: str = "the log"
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def of(self, target: Target) -> Records:
        """Those whose code is code for ``target``, on the same number of threads."""
        kept = (r for r in self._matching(target) if r.threads == target.threads)
        return replace(self, records=tuple(kept))

    def exact(self) -> Records:
        """Those of programs that round like the plain sums, up to their order."""
        kept = (r for r in self.records if not any(isinstance(s, ROUNDING) for s in r.steps))
        return replace(self, records=tuple(kept))

    def require(self, target: Target) -> None:
        """Raise :class:`LogError` when there are records, and all are for other targets."""
        if self.records and not any(self._matching(target)):
            reason = target.mismatch(self.records[-1].target)
            raise LogError(f"{self.name} cannot be used for this target: {reason}")

    def best(self, task: str, target: Target) -> Record | None:
        """The fastest program of a task, for exactly this target and thread count."""
        return self._winner(task, target, target.threads)

    def best_of_other_threads(self, task: str, target: Target) -> Record | None:
        """The same from the nearest other thread count that has one; fewer threads on a tie."""
        counts = {r.threads for r in self._matching(target)} - {target.threads}
        for threads in sorted(counts, key=lambda n: (abs(n - target.threads), n)):
            found = self._winner(task, target, threads)
            if found is not None:
                return found
        return None

    def _matching(self, target: Target) -> Iterator[Record]:
        return (r for r in self.records if target.mismatch(r.target) is None)

    def _winner(self, task: str, target: Target, threads: int) -> Record | None:
        return self._winners.get((task, target.kind, target.features, threads))

    @cached_property
    def _winners(self) -> dict[tuple[str, str, tuple[str, ...], int], Record]:
        """The winner per task, target and thread count; ties go to the earlier program.

        A program's last result is the one that counts: winners are timed again, and a check may
        find a result wrong after the timing was written.
        """
        latest = {(_place(record), record.steps): record for record in self.records}
        winners: dict[tuple[str, str, tuple[str, ...], int], Record] = {}
        for record in latest.values():
            if record.status is not Status.OK or record.time is None:
                continue
            known = winners.get(_place(record))
            if known is None or known.time is None or record.time < known.time:
                winners[_place(record)] = record
        return winners

    def winners(self) -> tuple[Record, ...]:
        """The best record of every task, target and thread count, in order of appearance."""
        order = {_place(r): None for r in self.records}
        return tuple(self._winners[place] for place in order if place in self._winners)


def _place(record: Record) -> tuple[str, str, tuple[str, ...], int]:
    return record.task, record.target.kind, record.target.features, record.threads


@dataclass(frozen=True, slots=True)
class BestRow:
    """A row of the table of bests; ``seconds`` is ``None`` when every trial failed."""

    name: str
    task: str
    target: str
    threads: int
    seconds: float | None
    trials: int
    failures: int


def best_rows(records: Records) -> list[BestRow]:
    """One row per task, target and thread count, in order of appearance."""
    groups: dict[Any, list[Record]] = {}
    for record in records:
        groups.setdefault(_place(record), []).append(record)
    winners = {_place(r): r.time for r in records.winners()}
    ran = (Status.OK, Status.SLOW)
    return [
        BestRow(
            group[0].name, group[0].task, group[0].target.mcpu, group[0].threads,
            winners.get(place), len({r.steps for r in group}),
            len({r.steps for r in group if r.status not in ran}),
        )
        for place, group in groups.items()
    ]  # fmt: skip


def read(path: str | os.PathLike[str]) -> Records:
    """All records of a log; :class:`LogError` (naming the line) when it is none or unreadable."""
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise LogError(f"cannot read the log {path}: {error.strerror}") from error
    return _parsed(data, path)[0]


def _parsed(data: bytes, path: Path) -> tuple[Records, int]:
    """The records, and how many bytes of ``data`` they take; a torn last line lies behind."""
    body, newline, tail = data.rpartition(b"\n")
    records = [_numbered(line, i, path) for i, line in enumerate(body.split(b"\n"), 1) if line]
    warnings: tuple[str, ...] = ()
    if tail:
        try:
            records.append(from_line(tail))
            return Records(tuple(records), str(path)), len(data)
        except LogError as error:
            if "newer version" in str(error) or not _begins_a_record(tail):
                raise LogError(f"{path}, last line: {error}") from error
        warnings = (f"{path}: the last line was cut off and is skipped",)
    return Records(tuple(records), str(path), warnings), len(body) + len(newline)


def _begins_a_record(tail: bytes) -> bool:
    return tail.startswith(_START) or _START.startswith(tail)


def _numbered(line: bytes, number: int, path: Path) -> Record:
    try:
        return from_line(line)
    except LogError as error:
        raise LogError(f"{path}, line {number}: {error}") from error


class Log:
    """A log open for appending by this process alone; a context manager.

    ``records`` are those it held when it was opened.
    """

    def __init__(self, path: Path, records: Records, lock: FileLock, size: int) -> None:
        self.path = path
        self.records = records
        self._lock = lock
        self._size = size
        self._file = os.open(path, os.O_RDWR)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Log:
        """Open ``path``, which is created when missing, and cut a torn last line off.

        Raises :class:`LogError` when it is not a log, cannot be written, or another process writes.
        """
        path = Path(path)
        if not path.parent.is_dir():  # the lock would create it
            raise LogError(f"cannot write the log {path}: no such folder")
        lock = FileLock(path.with_name(f".{path.name}.lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise LogError(f"another process is writing the log {path}") from None
        except OSError as error:
            raise LogError(f"cannot write the log {path}: {error.strerror}") from error
        try:
            return cls._opened(path, lock)
        except OSError as error:
            lock.release()
            raise LogError(f"cannot write the log {path}: {error.strerror}") from error
        except LogError:
            lock.release()
            raise

    @classmethod
    def _opened(cls, path: Path, lock: FileLock) -> Log:
        path.touch()
        data = path.read_bytes()
        records, size = _parsed(data, path)
        log = cls(path, records, lock, size)
        if size < len(data):
            os.ftruncate(log._file, size)
        elif data and not data.endswith(b"\n"):
            log._write(b"\n")
        return log

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def append(self, records: Sequence[Record]) -> None:
        """Write records; they are on disk when this returns.

        Raises :class:`LogWriteError` when that fails; the log then ends with the record before.
        """
        try:
            self._write(b"".join(to_line(r) for r in records))
        except OSError as error:
            raise LogWriteError(
                f"cannot append to the log {self.path}: {error.strerror}"
            ) from error

    def close(self) -> None:
        """Let other processes write."""
        os.close(self._file)
        self._lock.release()

    def _write(self, data: bytes) -> None:
        try:
            written = 0
            while written < len(data):
                written += os.pwrite(self._file, data[written:], self._size + written)
            os.fsync(self._file)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._file, self._size)
            raise
        self._size += len(data)


def merge(paths: Iterable[str | os.PathLike[str]], out: str | os.PathLike[str]) -> Records:
    """All records of several logs, each once, written to ``out`` in order."""
    lines = dict.fromkeys(to_line(r) for path in paths for r in read(path))
    return _replaced(Path(out), [from_line(line) for line in lines])


def distill(paths: Iterable[str | os.PathLike[str]], out: str | os.PathLike[str]) -> Records:
    """The best record per task, target and thread count of several logs, written to ``out``."""
    every = Records(tuple(r for path in paths for r in read(path)))
    return _replaced(Path(out), every.winners())


def _replaced(path: Path, records: Sequence[Record]) -> Records:
    """Write a whole log; what stood there is replaced at once or not at all."""
    beside = path.with_name(f".{path.name}.part")
    try:
        beside.write_bytes(b"".join(to_line(r) for r in records))
        os.replace(beside, path)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        raise LogError(f"cannot write {path}: {error.strerror}") from error
    return Records(tuple(records), str(path))
