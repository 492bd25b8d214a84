"""From a log to the steps of every task: what compiles a network again without searching."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field

from ansor_lite.errors import MissingRecords
from ansor_lite.records import Record, Records
from ansor_lite.target import Target
from ansor_lite.tasks import Task
from ansor_lite.weight_memory import lighter
from schedules.codec import steps_to_json
from schedules.steps import Step


@dataclass(frozen=True)
class Replay:
    """``found`` maps task keys to their records; ``missing`` tasks get the schedule by rule."""

    found: dict[str, Record] = field(default_factory=dict)
    missing: tuple[Task, ...] = ()
    warnings: tuple[str, ...] = ()

    def steps_for(self, task: Task) -> tuple[Step, ...] | None:
        """The closed steps of ``task``, or ``None`` without a record."""
        record = self.found.get(task.key)
        return None if record is None else record.steps

    @property
    def seconds(self) -> dict[str, float]:
        """Task key -> seconds of the best program."""
        return {key: r.time for key, r in self.found.items() if r.time is not None}

    @property
    def digest(self) -> str:
        """Names the schedules in use: equal for logs that replay to the same programs."""
        chosen = [[key, steps_to_json(r.steps)] for key, r in sorted(self.found.items())]
        return hashlib.sha256(json.dumps(chosen).encode()).hexdigest()[:32]


def replay(records: Records, tasks: Iterable[Task], target: Target, strict: bool = False) -> Replay:
    """The best record of every task for ``target``, light on memory (see ``weight_memory.py``).

    Records of other thread counts serve where there is none of the right one, with a warning.
    ``strict`` takes none of those and raises :class:`MissingRecords` naming every task without a
    record. Raises :class:`LogError` for a log of other targets only.
    """
    records.require(target)
    tasks = tuple(tasks)
    found = {t.key: r for t in tasks if (r := records.best(t.key, target)) is not None}
    found = lighter(found, tasks, records.of(target))
    other: dict[str, Record] = {}
    if not strict:
        rest = (t for t in tasks if t.key not in found)
        other = {t.key: r for t in rest if (r := records.best_of_other_threads(t.key, target))}
    missing = tuple(t for t in tasks if t.key not in found and t.key not in other)
    if strict and missing:
        raise MissingRecords([t.name for t in missing], records.name)
    warnings = (*records.warnings, *_thread_warnings(other, target, records.name))
    return Replay(found | other, missing, warnings)


def _thread_warnings(other: dict[str, Record], target: Target, name: str) -> list[str]:
    if not other:
        return []
    counts = " and ".join(str(n) for n in sorted({r.threads for r in other.values()}))
    return [
        f"{name}: {len(other)} task(s) were tuned for {counts} thread(s) only, "
        f"not for {target.threads}"
    ]
