"""Measuring on this machine: all workers build, then one program at a time is timed.

Read ``protocol.py`` first, then ``process.py`` (one child) and ``worker.py`` (what it does).
Programs stay in the worker that compiled them; nothing is linked, written to disk or copied.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

from ansor_lite.measure.process import WorkerProcess, wait_for
from ansor_lite.measure.protocol import (
    TOLERANCE,
    Built,
    Candidate,
    Measurement,
    Measurer,
    Status,
)
from ansor_lite.target import Target, available_threads, require_native
from schedules.codec import dag_to_json, steps_to_json

# How long the pool threads of the worker timed last may keep spinning.
SETTLE_SECONDS = 0.002
# Building the unscheduled program and running it takes longer than any candidate.
CHECK_FACTOR = 6.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds after which a build or a run is given up; ``slow_factor``: of the task's best.

    ``tolerance``: how far outputs may be off, relative to the largest, before they are wrong.
    """

    build: float = 20.0
    run: float = 10.0
    slow_factor: float = 2.5
    tolerance: float = TOLERANCE


class LocalWorkers:
    """Builder, runner and checker in ``workers`` child processes (default: one per CPU).

    A context manager: leaving it ends the processes; they also end with this process, however it
    ends. Raises ``TargetError`` when this machine cannot run code of ``target``; every method
    raises ``MeasurementError`` when a worker does not start.
    """

    def __init__(
        self, target: Target, workers: int | None = None, limits: Limits | None = None
    ) -> None:
        require_native(target)
        self.target = target
        self.limits = limits or Limits()
        count = available_threads() if workers is None else workers
        self._workers = [WorkerProcess(target) for _ in range(max(1, count))]
        # handle -> where the program is; lost when the worker has been restarted since
        self._homes: dict[int, tuple[WorkerProcess, int]] = {}
        self._next_handle = 0
        self._last_active: WorkerProcess | None = None
        # the program timed last: (candidate, worker, its generation, handle)
        self._timed: tuple[Candidate, WorkerProcess, int, int] | None = None
        self._prepared = ""  # key of the task that all workers can check

    def measurer(self) -> Measurer:
        return Measurer(self, self, self)

    def __enter__(self) -> LocalWorkers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all worker processes."""
        for worker in self._workers:
            worker.close()

    @property
    def pids(self) -> tuple[int, ...]:
        return tuple(worker.pid for worker in self._workers)

    def build(self, candidates: Sequence[Candidate]) -> list[Built | Measurement]:
        """Build on all workers at once. Whoever crashes or hangs a worker fails; what that worker
        had built is built again."""
        self._forget()
        results: list[Built | Measurement | None] = [None] * len(candidates)
        waiting = deque(range(len(candidates)))
        busy: dict[WorkerProcess, tuple[int, int, float]] = {}
        while waiting or busy:
            for worker in self._workers:
                if waiting and worker not in busy:
                    index, handle = waiting.popleft(), self._new_handle()
                    worker.send(_build_request(candidates[index], handle))
                    busy[worker] = (index, handle, time.monotonic() + self.limits.build)
            for worker, answer in self._collect(busy):
                index, handle, _ = busy.pop(worker)
                results[index] = self._built(worker, handle, answer)
                if isinstance(answer, Measurement):
                    waiting.extend(self._lost(results))
        return [r for r in results if r is not None]

    def run(
        self,
        candidates: Sequence[Candidate],
        built: Sequence[Built | Measurement],
        best_seconds: float | None,
    ) -> list[Measurement]:
        """Time the programs worker by worker, so that only one process is ever active."""
        results = {i: b for i, b in enumerate(built) if isinstance(b, Measurement)}
        for worker in self._workers:
            mine = [i for i, b in enumerate(built) if isinstance(b, Built) and self._at(b, worker)]
            for i in mine:
                program = built[i]
                assert isinstance(program, Built)
                results[i] = self._run(worker, candidates[i], program, best_seconds)
                best_seconds = _smaller(best_seconds, results[i])
        return [results[i] for i in range(len(candidates))]

    def check(self, candidate: Candidate) -> Measurement:
        """Run ``candidate`` and its unscheduled task on the same inputs and compare.

        The program timed last is at hand; any other one is built again.
        """
        worker, handle = self._place_to_check(candidate)
        request = _build_request(candidate, handle)
        request |= {"op": "check", "tolerance": self.limits.tolerance}
        limit = self.limits.build + CHECK_FACTOR * self.limits.run
        others = self._preparing(candidate.task.key, request, worker)
        worker.send(request)
        answer = worker.answer_within(limit)
        for other in others:
            other.answer_within(limit)
        self._last_active = None
        if isinstance(answer, Measurement):
            return answer
        if "error" in answer:
            return Measurement(Status.RUN_ERROR, message=answer["error"])
        status = Status.WRONG_RESULT if answer["wrong"] else Status.OK
        return Measurement(status, message=answer["wrong"])

    def _place_to_check(self, candidate: Candidate) -> tuple[WorkerProcess, int]:
        if self._timed is not None:
            timed, worker, generation, handle = self._timed
            if timed == candidate and worker.generation == generation:
                return worker, handle
        return self._workers[0], self._new_handle()

    def _preparing(
        self, task: str, request: dict[str, Any], worker: WorkerProcess
    ) -> list[WorkerProcess]:
        """The other workers, at work on what the first check of a task needs; soon they need it."""
        if task == self._prepared:
            return []
        self._prepared = task
        others = [w for w in self._workers if w is not worker]
        for other in others:
            other.send(request | {"op": "prepare"})
        return others

    def _run(
        self, worker: WorkerProcess, candidate: Candidate, program: Built, best: float | None
    ) -> Measurement:
        """Time one program, built again first if its worker has lost it."""
        handle = program.handle
        if self._homes[handle][1] != worker.generation:
            handle = self._new_handle()
            again = worker.ask(_build_request(candidate, handle), self.limits.build)
            rebuilt = self._built(worker, handle, again)
            if isinstance(rebuilt, Measurement):
                return rebuilt
        if worker is not self._last_active:
            time.sleep(SETTLE_SECONDS)
            self._last_active = worker
        limit = None if best is None else best * self.limits.slow_factor
        answer = worker.ask({"op": "run", "handle": handle, "limit": limit}, self.limits.run)
        self._timed = (candidate, worker, worker.generation, handle)
        return _timed(answer, program.seconds)

    def _collect(
        self, busy: dict[WorkerProcess, tuple[int, int, float]]
    ) -> list[tuple[WorkerProcess, dict[str, Any] | Measurement]]:
        """Wait for the next answers, or for the first limit to pass."""
        first = min(deadline for _, _, deadline in busy.values())
        ready = wait_for(list(busy), first - time.monotonic())
        if ready:
            return [(worker, worker.answer()) for worker in ready]
        now = time.monotonic()
        late = [worker for worker, (_, _, deadline) in busy.items() if deadline <= now]
        return [(worker, worker.expired(self.limits.build)) for worker in late]

    def _built(
        self, worker: WorkerProcess, handle: int, answer: dict[str, Any] | Measurement
    ) -> Built | Measurement:
        if isinstance(answer, Measurement):
            return answer
        if "error" in answer:
            return Measurement(
                Status.BUILD_ERROR, message=answer["error"], build_seconds=answer["seconds"]
            )
        self._homes[handle] = (worker, worker.generation)
        return Built(handle, answer["seconds"])

    def _lost(self, results: list[Built | Measurement | None]) -> list[int]:
        """Take back the programs whose worker has been restarted."""
        lost = [i for i, r in enumerate(results) if isinstance(r, Built) and self._is_gone(r)]
        for i in lost:
            results[i] = None
        return lost

    def _is_gone(self, program: Built) -> bool:
        worker, generation = self._homes[program.handle]
        return worker.generation != generation

    def _at(self, program: Built, worker: WorkerProcess) -> bool:
        return self._homes[program.handle][0] is worker

    def _forget(self) -> None:
        """Drop the programs of the last build."""
        self._timed = None
        if self._homes:
            for worker in self._workers:
                worker.ask({"op": "forget"}, self.limits.run)
            self._homes.clear()

    def _new_handle(self) -> int:
        self._next_handle += 1
        return self._next_handle


def _build_request(candidate: Candidate, handle: int) -> dict[str, Any]:
    return {
        "op": "build",
        "handle": handle,
        "dag": dag_to_json(candidate.task.dag),
        "steps": steps_to_json(candidate.steps),
    }


def _timed(answer: dict[str, Any] | Measurement, build_seconds: float) -> Measurement:
    if isinstance(answer, Measurement):
        return replace(answer, build_seconds=build_seconds)
    if "error" in answer:
        result = Measurement(Status.RUN_ERROR, message=answer["error"])
    else:
        status = Status.SLOW if answer["slow"] else Status.OK
        result = Measurement(status, tuple(answer["repeats"]))
    return replace(result, build_seconds=build_seconds, run_seconds=answer["seconds"])


def _smaller(best: float | None, result: Measurement) -> float | None:
    if not result.ok or result.time is None:
        return best
    return result.time if best is None else min(best, result.time)
