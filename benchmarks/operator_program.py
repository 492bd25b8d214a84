"""A tuned operator in a child process: built from its steps and run on buffers of its own.

``operators.py`` writes the file that :func:`load` reads. Also a plain read of memory, in the same
states of the caches. Separate from ``runtimes.py``, so that
children of other runtimes load none of this.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ansor_lite.target import Target
from ansor_lite.tasks import Task
from benchmarks.runtimes import Loaded, Request, nothing
from schedules.codec import dag_from_json, dag_to_json, steps_from_json, steps_to_json
from schedules.steps import Step

WEIGHTS, INPUTS = "weights", "inputs"


def save(path: Path, task: Task, steps: tuple[Step, ...]) -> None:
    """Write what :func:`load` needs."""
    path.write_text(json.dumps({"dag": dag_to_json(task.dag), "steps": steps_to_json(steps)}))


def load(request: Request, cold: str = "") -> Loaded:
    """The program on random buffers. ``cold``: what leaves the caches before each run, ``WEIGHTS``
    or ``INPUTS``, which are all but the constants.

    Feeds, where there are any, are the values of its first inputs; the result is called ``y``.
    """
    import numpy as np

    from ansor_lite.measure.timing import TimingInputs
    from ansor_lite.measure.worker import build_program
    from ansor_lite.target import native
    from ansor_lite.threadpool import use_threads

    use_threads(request.threads)
    value = json.loads(Path(request.path).read_text())
    task = Task("operator", dag_from_json(value["dag"]))
    target = native(request.threads)
    steps = steps_from_json(value["steps"])
    program = build_program(task, steps, target.hardware(), target.tvm())
    arguments, constants = TimingInputs(task).arguments(program)
    for argument, value_fed in zip(arguments, request.feeds.values(), strict=False):
        argument.copyfrom(value_fed)
    found = {"y": np.from_dlpack(arguments[-1])} if request.feeds else {}
    fed = [x for x, t in zip(arguments, task.dag.inputs, strict=False) if not t.constant]
    leaving = {WEIGHTS: constants, INPUTS: fed}
    facts = {kind: "cold" if kind == cold else "hot" for kind in leaving}
    prepare = evicting(leaving[cold], target) if cold else nothing
    return Loaded(lambda: program.function(*arguments) or found, facts, prepare)


def load_read(request: Request, cold: bool = False) -> Loaded:
    """Reads as many bytes as ``path`` says; ``cold``: they leave the caches before each run."""
    from ansor_lite.measure.peak import read_run
    from ansor_lite.target import native
    from ansor_lite.threadpool import use_threads

    use_threads(request.threads)
    target = native(request.threads)
    run, size, source = read_run(target, int(request.path))
    prepare = evicting([source], target) if cold else nothing
    return Loaded(lambda: run() or {}, {"bytes": size}, prepare)


def evicting(tensors: Sequence[Any], target: Target) -> Callable[[], None]:
    """A call after which ``tensors`` are in no cache and the threads of the pool are awake."""
    import tvm

    from ansor_lite.measure.timing import waker

    flush = tvm.get_global_func("cache_flush_cpu_non_first_arg")
    stays = tvm.runtime.empty((1,), "float32")
    wake = waker(target.tvm(), target.threads)
    return lambda: flush(stays, *tensors) or wake()
