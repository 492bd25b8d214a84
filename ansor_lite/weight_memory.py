"""Which program of a task: the fastest, or one nearly as fast that needs far less for its weights.

Minimal filtering keeps filters up to four times as large as the direct algorithm reads. Where that
wins little time, as for many channels on few pixels, it is not worth the memory of the running
process. A distilled log holds the fastest alone, so they are what it replays to. Separate from
``records.py`` because this weighs the tasks of a network against each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ansor_lite.measure.protocol import Status
from ansor_lite.records import Record
from ansor_lite.tasks import Task, element_bytes
from schedules.errors import ScheduleError
from schedules.rewrites import apply_rewrites
from schedules.steps import ROUNDING, Step

# A network may become this share of its time slower for weights of no size at all, and
# proportionally less for a part of them: 0.5 % for a tenth.
TIME_FOR_MEMORY = 0.05


@dataclass(frozen=True, slots=True)
class Choice:
    """A program and the bytes of its constants."""

    record: Record
    seconds: float
    bytes: int


def lighter(
    found: Mapping[str, Record], tasks: Iterable[Task], records: Iterable[Record]
) -> dict[str, Record]:
    """``found`` (the fastest by task key), some exchanged for programs with smaller constants.

    ``records``: those of the target in the order of the log. Only programs that were the fastest
    of their task when they were logged are considered, since only those are checked.
    """
    by_key = {task.key: task for task in tasks if task.key in found}
    checked = _once_fastest(records)
    choices = {
        key: choice
        for key, task in by_key.items()
        if (choice := _choice(task, found[key])) is not None
    }
    seconds = sum(by_key[key].weight * c.seconds for key, c in choices.items())
    size = sum(by_key[key].weight * c.bytes for key, c in choices.items())
    if not size:
        return dict(found)

    def cost(choice: Choice) -> float:
        """Uses of a task count on both sides alike."""
        return choice.seconds / seconds + TIME_FOR_MEMORY * choice.bytes / size

    chosen = dict(found)
    for key, fastest in choices.items():
        others = (_choice(by_key[key], r) for r in checked.get(key, ()))
        best = min([fastest, *(c for c in others if c is not None)], key=cost)
        chosen[key] = best.record
    return chosen


def _choice(task: Task, record: Record) -> Choice | None:
    """``None`` for steps that no longer fit: compiling them would say so."""
    try:
        inputs = apply_rewrites(task.dag, record.steps).inputs
    except ScheduleError:
        return None
    constants = (t for t in inputs if t.constant)
    size = sum(math.prod(t.shape) * element_bytes(t.dtype) for t in constants)
    return None if record.time is None else Choice(record, record.time, size)


def _once_fastest(records: Iterable[Record]) -> dict[str, list[Record]]:
    """By task: of each algorithm the fastest of the programs that led when they were logged.

    A program's last result is the one that counts, as everywhere in the log.
    """
    records = tuple(records)
    latest = {(r.task, r.steps): r for r in records}
    lead: dict[str, float] = {}
    kept: dict[str, dict[tuple[Step, ...], Record]] = {}
    for record in records:
        last = latest[record.task, record.steps]
        if record.time is None or last.time is None or last.status is not Status.OK:
            continue
        if record.status is Status.OK and record.time < lead.get(record.task, math.inf):
            lead[record.task] = record.time
            algorithm = tuple(s for s in last.steps if isinstance(s, ROUNDING))
            known = kept.setdefault(record.task, {}).get(algorithm)
            if known is None or known.time is None or last.time < known.time:
                kept[record.task][algorithm] = last
    return {task: list(by_algorithm.values()) for task, by_algorithm in kept.items()}
