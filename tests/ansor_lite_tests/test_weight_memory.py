"""Nearly as fast with far smaller weights wins; nothing that was never checked does."""

from __future__ import annotations

from dataclasses import replace

from ansor_lite.measure.protocol import Candidate, Measurement, Status
from ansor_lite.records import Record, record_of
from ansor_lite.target import parse
from ansor_lite.tasks import Task
from ansor_lite.weight_memory import lighter
from schedules.dag import ComputeDAG, IterAxis, Stage, Tensor
from schedules.expr import Axis, Call, Read
from schedules.steps import MinimalFiltering

F32 = "float32"


def sliding(name: str, filters: int = 8) -> Task:
    """``y[i, o] = sum over k of x[i + k] * w[k, o]``, a window of three."""
    inputs = (Tensor("x", (18,), F32), Tensor("w", (3, filters), F32, constant=True))
    axes = (IterAxis("i", 16), IterAxis("o", filters), IterAxis("k", 3, "reduce"))
    place = Call("add", (Axis("i"), Axis("k")), "int32")
    product = Call(
        "mul", (Read("x", (place,), F32), Read("w", (Axis("k"), Axis("o")), F32)), F32
    )  # fmt: skip
    return Task(name, ComputeDAG(inputs, (Stage("y", axes, product, F32, "sum"),), ("y",)))


TASK = sliding("sliding")
DIRECT, FILTERED = (), (MinimalFiltering("y", ("i",), 4),)  # the second: 6 instead of 3 points


def record(steps, milliseconds: float, task: Task = TASK) -> Record:
    measured = Measurement(Status.OK, (milliseconds * 1e-3,))
    return record_of(Candidate(task, steps), measured, parse("znver4", 2))


def chosen(*log: Record, tasks: tuple[Task, ...] = (TASK,)) -> tuple:
    """Steps for ``TASK``, whose fastest record is the last of the log that ran."""
    fastest = {r.task: r for r in log if r.status is Status.OK}
    return lighter(fastest, tasks, log)[TASK.key].steps


def test_smaller_weights_win_only_when_they_cost_little_time():
    assert chosen(record(DIRECT, 1.01), record(FILTERED, 1.0)) == DIRECT
    assert chosen(record(DIRECT, 1.10), record(FILTERED, 1.0)) == FILTERED


def test_time_and_weights_count_as_parts_of_the_network():
    log = (record(DIRECT, 1.10), record(FILTERED, 1.0))
    slow, heavy = sliding("slow", 1), sliding("heavy", 1000)
    assert chosen(*log, record(DIRECT, 99.0, slow), tasks=(TASK, slow)) == DIRECT
    close = (record(DIRECT, 1.01), record(FILTERED, 1.0))
    assert chosen(*close, record(DIRECT, 0.01, heavy), tasks=(TASK, heavy)) == FILTERED


def test_refuses_programs_that_never_led_because_nobody_checked_them():
    late = (record(FILTERED, 1.0), record(DIRECT, 1.01))
    assert lighter({TASK.key: late[0]}, (TASK,), late)[TASK.key].steps == FILTERED


def test_refuses_programs_found_wrong_after_they_were_timed():
    wrong = replace(record(DIRECT, 1.01), status=Status.WRONG_RESULT, seconds=())
    log = (record(DIRECT, 1.01), wrong, record(FILTERED, 1.0))
    assert chosen(*log) == FILTERED


def test_networks_without_constants_take_the_fastest():
    plain = Task("plain", replace(TASK.dag, inputs=tuple(
        replace(t, constant=False) for t in TASK.dag.inputs)))  # fmt: skip
    fastest = record(DIRECT, 1.0, plain)
    assert lighter({plain.key: fastest}, (plain,), (fastest,)) == {plain.key: fastest}
