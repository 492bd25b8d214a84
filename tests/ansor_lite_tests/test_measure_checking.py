"""The numeric check, and the inputs that candidates are run with."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from toy_tasks import F32, at, elementwise, scaled

from ansor_lite.measure.checking import Checking, deviation, telling
from ansor_lite.measure.recent import Recent
from ansor_lite.measure.timing import (
    DRAWN,
    Program,
    enough,
    is_slow,
    placed,
    random_array,
    rng_of,
)
from ansor_lite.target import native
from ansor_lite.tasks import Task
from schedules.expr import Call, Const
from schedules.to_tir import to_tir

TARGET = native(threads=1).tvm()


def program(task: Task) -> Program:
    return Program(task, tvm.tirx.build(to_tir(task.dag), target=TARGET)["main"], {})


def test_a_program_of_another_task_is_wrong_and_its_own_is_right() -> None:
    checking = Checking(scaled(), TARGET)
    assert checking.wrong(program(scaled())) == ""
    off = elementwise(Call("add", (at("x"), at("w")), F32))
    assert checking.wrong(program(off)).startswith("y: off by ")


def test_an_element_that_is_never_written_is_wrong() -> None:
    checking = Checking(scaled(), TARGET)
    half = Program(scaled(), lambda x, w, y: None, {})
    assert "never written" in checking.wrong(half)


def test_long_references_are_of_some_rows_and_all_must_be_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ansor_lite.measure.checking.MOST_FLOP", scaled().flop / 4)
    sampling = Checking(scaled(), TARGET)
    (whole,) = Checking(scaled(), TARGET)._outputs(program(scaled()), scaled().dag)
    assert sampling.expected[0].size < whole.size
    assert sampling.wrong(program(scaled())) == ""
    off = elementwise(Call("add", (at("x"), at("w")), F32))
    assert sampling.wrong(program(off)).startswith("y: off by ")
    nothing = Program(scaled(), lambda x, w, y: None, {})
    assert "never written" in sampling.wrong(nothing)


def test_tensors_lie_one_behind_the_other_where_kernels_may_start() -> None:
    first, *others = placed([((3,), "float32"), ((), "bool"), ((2, 5), "int64")])
    begin = np.from_dlpack(first).ctypes.data
    assert [np.from_dlpack(t).ctypes.data - begin for t in others] == [64, 128]
    assert begin % 64 == 0
    assert [(t.shape, str(t.dtype)) for t in others] == [((), "bool"), ((2, 5), "int64")]


def test_roots_are_checked_on_positive_inputs() -> None:
    root = elementwise(Call("sqrt", (at("x"),), F32))
    checking = Checking(root, TARGET)
    assert telling(checking.expected[0]) and (checking.inputs["x"] > 0).all()


def test_a_constant_result_is_still_compared() -> None:
    zero = elementwise(Call("mul", (at("x"), Const(0.0, F32)), F32))
    checking = Checking(zero, TARGET)
    assert checking.wrong(program(zero)) == "" and checking.wrong(program(scaled()))


def test_what_was_used_last_is_kept_as_far_as_memory_allows() -> None:
    kept: Recent[str] = Recent(limit=10)
    assert [kept.get(key, 4, lambda k=key: k + "!") for key in "abab"] == ["a!", "b!"] * 2
    kept.get("c", 4, lambda: "c!")
    assert (
        kept.get("b", 4, lambda: "again") == "b!" and kept.get("a", 4, lambda: "again") == "again"
    )
    assert kept.get("huge", 99, lambda: "huge!") == "huge!"


def test_deviations_are_relative_to_the_largest_value() -> None:
    expected = np.array([1e-3, 1000.0], dtype=F32)
    assert deviation(expected + np.float32(0.05), expected) == ""
    assert "off by" in deviation(expected + np.float32(0.5), expected)
    assert deviation(np.array([1, 2]), np.array([1, 3])) == "1 of 2 elements differ"


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "int32", "int8", "uint8", "bool"])
def test_inputs_are_the_tasks_own_and_safe_as_indices(dtype: str) -> None:
    first, again = (random_array(rng_of("ab"), (100,), dtype) for _ in range(2))
    assert first.dtype == dtype and (first == again).all()
    assert not (first == random_array(rng_of("cd"), (100,), dtype)).all()
    if dtype.startswith("int") and dtype != "int8":
        assert set(first.tolist()) == {0, 1}


def test_what_takes_microseconds_is_not_called_slow_after_one_repeat() -> None:
    assert is_slow([0.01], limit=0.005) and not is_slow([1e-4], limit=1e-5)
    assert is_slow([1e-4] * 21, limit=1e-5) and not is_slow([0.01, 1e-3], limit=5e-3)


def test_fast_programs_are_repeated_more_often_than_slow_ones() -> None:
    assert not enough([1e-5] * 9) and enough([1e-5] * 10)
    assert not enough([0.02] * 2) and enough([0.02] * 3)
    assert enough([0.6])


def test_large_arrays_repeat_what_was_drawn() -> None:
    values = random_array(rng_of("a"), (3, DRAWN), "float32")
    assert values.shape == (3, DRAWN) and values.dtype == np.float32
    assert np.array_equal(values[0], values[2]) and np.std(values[0]) > 0.9
