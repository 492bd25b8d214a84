"""The child process that builds, times and checks candidates: ``python`` runs ``main`` here.

It answers one request at a time until its input ends, and dies with its parent. Read ``timing.py``
for how a program is timed. Programs are compiled in process and nothing is linked.
"""

# imports TVM
from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import tvm

from ansor_lite import target as targets
from ansor_lite.measure import pipes
from ansor_lite.measure.checking import Checking
from ansor_lite.measure.recent import Recent
from ansor_lite.measure.timing import Program, TimingInputs, time_program, waker
from ansor_lite.tasks import Task
from schedules.codec import dag_from_json, steps_from_json
from schedules.hardware import Hardware
from schedules.lower import PIPELINE, lower
from schedules.steps import Step

Message = dict[str, Any]
PR_SET_PDEATHSIG = 1
# Bytes of inputs and outputs that a worker keeps of each kind, besides those of the current task.
KEPT_BYTES = 256 * 1024 * 1024
# Checks of the arguments' shapes take a quarter of the time to build, and none to run.
PASS_CONFIG = {"tirx.disable_assert": True}
# Everything that lowering, TVM or a kernel's argument checks raise; anything else is our own bug
# and ends the process, which the parent reports as a crash.
FAILURES = (
    ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError,
    RuntimeError, TypeError, ValueError,
)  # fmt: skip


class Worker:
    """The programs built so far, and the inputs to time them with."""

    def __init__(self, target: targets.Target) -> None:
        self.hardware = target.hardware()
        self.tvm_target = target.tvm()
        self.wake = waker(self.tvm_target, target.threads)
        self.programs: dict[int, Program] = {}
        self.timed: tuple[int, Program] | None = None  # the last one, should it have to be checked
        self.timing: Recent[TimingInputs] = Recent(KEPT_BYTES)
        self.checking: Recent[Checking] = Recent(KEPT_BYTES)
        self._latest: Task | None = None

    def build(self, request: Message) -> Message:
        task = self._task(request)
        program = self._built(task, request)
        # Filling the first inputs of a large task takes seconds that no candidate is to blame for.
        self._timing(task).arguments(program)
        self.programs[request["handle"]] = program
        return {}

    def run(self, request: Message) -> Message:
        program = self.programs[request["handle"]]
        self.timed = (request["handle"], program)
        inputs = self._timing(program.task)
        seconds, slow = time_program(program, inputs, request["limit"], self.wake)
        return {"repeats": seconds, "slow": slow}

    def prepare(self, request: Message) -> Message:
        """Make ready what a check of this task compares with."""
        self._checking(self._task(request))
        return {}

    def check(self, request: Message) -> Message:
        """Check the program timed last if its handle is given, else one built for this."""
        task = self._task(request)
        handle, program = self.timed or (None, None)
        if program is None or handle != request["handle"]:
            program = self._built(task, request)
        return {"wrong": self._checking(task).wrong(program, request["tolerance"])}

    def forget(self, request: Message) -> Message:
        self.programs.clear()
        self.timed = None
        return {}

    def _built(self, task: Task, request: Message) -> Program:
        steps = steps_from_json(request["steps"])
        return build_program(task, steps, self.hardware, self.tvm_target)

    def _timing(self, task: Task) -> TimingInputs:
        return self.timing.get(task.name, task.bytes, lambda: TimingInputs(task))

    def _checking(self, task: Task) -> Checking:
        return self.checking.get(task.name, task.bytes, lambda: Checking(task, self.tvm_target))

    def _task(self, request: Message) -> Task:
        """The task, named by its whole text: keys leave out the names that steps refer to."""
        text = json.dumps(request["dag"])
        if self._latest is None or self._latest.name != text:
            self._latest = Task(text, dag_from_json(request["dag"]))
        return self._latest


def build_program(
    task: Task, steps: tuple[Step, ...], hardware: Hardware, tvm_target: tvm.target.Target
) -> Program:
    """``task`` scheduled by closed ``steps``, as machine code of this process."""
    lowered = lower(task.dag, steps, hardware)
    with tvm.transform.PassContext(config=PASS_CONFIG):
        module = tvm.tirx.build(lowered.func, target=tvm_target, pipeline=PIPELINE)
    # Looking the function up is what generates its machine code.
    return Program(task, module["main"], lowered.packs)


def main() -> None:
    """Serve standard input; answers go to what was standard output when the process started."""
    die_with(os.getppid())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not get between the answers
    try:
        worker = Worker(targets.from_json(pipes.receive(requests)["target"]))
        pipes.send(answers, {"pid": os.getpid()})
        serve(worker, requests, answers)
    except (EOFError, BrokenPipeError):
        pass
    # Skips the interpreter's and the thread pool's teardown: there is nothing left to save.
    os._exit(0)


def serve(worker: Worker, requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer requests until the parent has gone."""
    operations: dict[str, Callable[[Message], Message]] = {
        "build": worker.build,
        "run": worker.run,
        "prepare": worker.prepare,
        "check": worker.check,
        "forget": worker.forget,
    }
    while True:
        request = pipes.receive(requests)
        start = time.perf_counter()
        try:
            answer = operations[request["op"]](request)
        except FAILURES as error:
            answer = {"error": first_line(error)}
        pipes.send(answers, answer | {"seconds": time.perf_counter() - start})


def first_line(error: BaseException) -> str:
    """The error's type and the most telling line of its text (TVM appends traces)."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else 'no message'}"[:300]


def die_with(parent: int) -> None:
    """Let the kernel kill this process when ``parent`` dies, even in the middle of a program."""
    if not Path("/proc/self").exists():
        return  # not Linux: the end of standard input has to do
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
