"""A tuned operator in a child process: built from its steps and run on buffers of its own.

``operators.py`` writes the file that :func:`load` reads. Separate from ``runtimes.py``, so that
children of other runtimes load none of this.
"""

from __future__ import annotations

import json
from pathlib import Path

from ansor_lite.tasks import Task
from benchmarks.runtimes import Loaded, Request
from schedules.codec import dag_from_json, dag_to_json, steps_from_json, steps_to_json
from schedules.steps import Step


def save(path: Path, task: Task, steps: tuple[Step, ...]) -> None:
    """Write what :func:`load` needs."""
    path.write_text(json.dumps({"dag": dag_to_json(task.dag), "steps": steps_to_json(steps)}))


def load(request: Request, cold: bool) -> Loaded:
    """The program on random buffers; ``cold``: its constants leave the caches before each run.

    Feeds, where there are any, are the values of its first inputs; the result is called ``y``.
    """
    import numpy as np
    import tvm

    from ansor_lite.measure.timing import TimingInputs, waker
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
    run, flush = program.function, tvm.get_global_func("cache_flush_cpu_non_first_arg")
    wake = waker(target.tvm(), request.threads)

    def prepare() -> None:
        if cold:
            flush(arguments[-1], *constants)  # the first argument stays
            wake()

    return Loaded(lambda: run(*arguments) or found, {"weights": "cold" if cold else "hot"}, prepare)
