"""exp, tanh, erf and sigmoid in plain arithmetic: close to the true value for every float."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import programs
import pytest
import tvm
from numpy.typing import NDArray
from tvm import te, tirx
from tvm.s_tir import Schedule

from schedules.dag import ComputeDAG, IterAxis, Stage, Tensor
from schedules.expr import Axis, Call, Read
from schedules.lower.emit_expr import LIBM, POLYNOMIAL, emit

SMALLEST_NORMAL = np.finfo(np.float32).tiny

# Function -> (true value in float64, largest error in units in the last place).
FUNCTIONS: dict[str, tuple[Callable[[NDArray[Any]], NDArray[Any]], float]] = {
    "exp": (np.exp, 1.0),
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), 2.5),
    "tanh": (np.tanh, 2.0),
    "erf": (np.vectorize(math.erf, otypes=[np.float64]), 2.0),
}


def arguments() -> NDArray[np.float32]:
    """Special values and limits, random bit patterns, ranges where the functions bend: n x 32."""
    rng = np.random.default_rng(0)
    limits = [88.72283, 88.72284, 88.8, -87.33654, -87.4, -104.0, 0.625, 1.0, 4.0, 9.25]
    special = np.array([np.inf, -np.inf, np.nan, -np.nan, 0.0, -0.0, *limits], dtype=np.float32)
    patterns = rng.integers(0, 2**32, 1 << 15, dtype=np.uint32).view(np.float32)
    ranges = [rng.uniform(-width, width, 1 << 14) for width in (1.3, 5.0, 20.0, 110.0)]
    values = np.concatenate([special, patterns, *(r.astype(np.float32) for r in ranges)])
    return np.resize(values, -(-len(values) // 32) * 32)


def vectorised(name: str, count: int, mode: str) -> tirx.PrimFunc:
    """``y[i] = name(x[i])`` in vectors of 16, two of them unrolled."""
    x = te.placeholder((count,), "float32", name="x")
    body = Call(name, (Read("x", (Axis("i"),), "float32"),), "float32")
    y = te.compute(
        (count,),
        lambda i: emit(body, lambda _: i, lambda _: x(i), mode),
        name="y",
    )
    schedule = Schedule(te.create_prim_func([x, y]))
    (loop,) = schedule.get_loops(schedule.get_sblock("y"))
    _, unrolled, lanes = schedule.split(loop, [None, 2, 16])
    schedule.unroll(unrolled)
    schedule.vectorize(lanes)
    return schedule.mod["main"].with_attr("global_symbol", "main")


def _wide(x: NDArray[np.float32]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):  # signalling NaN among the random patterns
        return x.astype(np.float64)


@pytest.fixture(scope="module", params=FUNCTIONS)
def case(request: pytest.FixtureRequest) -> tuple[str, NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Name, arguments, what the polynomial gives, true values."""
    x = arguments()
    stage = Stage("y", (IterAxis("i", len(x)),), Read("x", (Axis("i"),), "float32"), "float32")
    dag = ComputeDAG((Tensor("x", x.shape, "float32"),), (stage,), ("y",))
    func = vectorised(request.param, len(x), POLYNOMIAL)
    found = programs.run_function(func, dag, {"x": x})["y"]
    with np.errstate(all="ignore"):
        return request.param, x, found, FUNCTIONS[request.param][0](_wide(x))


def test_error_in_units_in_the_last_place(case: Any) -> None:
    name, _, found, true = case
    with np.errstate(over="ignore"):
        nearest = true.astype(np.float32)
    usual = np.isfinite(nearest) & (np.abs(true) >= SMALLEST_NORMAL)
    error = np.abs(found[usual] - true[usual]) / np.spacing(np.abs(nearest[usual]))
    assert usual.sum() > 40_000
    assert error.max() <= FUNCTIONS[name][1]


def test_infinite_results_and_nan_are_kept(case: Any) -> None:
    _, _, found, true = case
    with np.errstate(over="ignore"):
        nearest = true.astype(np.float32)
    odd = ~np.isfinite(nearest)
    assert odd.any()
    np.testing.assert_array_equal(found[odd], nearest[odd])


def test_results_below_the_normal_numbers_stay_below_them(case: Any) -> None:
    _, _, found, true = case
    small = np.abs(true) < SMALLEST_NORMAL
    assert np.all(np.abs(found[small]) <= SMALLEST_NORMAL)


def test_odd_functions_keep_the_sign_of_zero(case: Any) -> None:
    name, x, found, _ = case
    if name in ("tanh", "erf"):
        zero = x == 0
        np.testing.assert_array_equal(np.signbit(found[zero]), np.signbit(x[zero]))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_call_is_left_in_the_generated_code(name: str) -> None:
    target = tvm.target.Target({"kind": "llvm"})
    module = tvm.compile(vectorised(name, 64, POLYNOMIAL), target=target)
    assert f"{name}f" not in module.mod.inspect_source("ll")


def test_libm_mode_calls_the_library() -> None:
    func = vectorised("erf", 64, LIBM)
    assert "erf" in func.script() and "reinterpret" not in func.script()


def _where(yes: Any, no: Any, condition: Any) -> Any:
    i = tirx.Var("i", "int64")
    buffer = tirx.decl_buffer((8,), "float32", "x")
    select = Call("select", (condition, yes, no), "float32")
    return emit(select, lambda _: i, lambda read: tirx.BufferLoad(buffer, [i]))


def test_a_guard_on_axes_stays_lazy_and_one_on_data_becomes_a_blend() -> None:
    x = Read("x", (Axis("i"),), "float32")
    other = Call("exp", (x,), "float32")
    on_axis = Call("lt", (Axis("i"), Axis("i")), "bool")
    on_data = Call("lt", (x, x), "bool")
    assert not isinstance(_where(x, other, on_axis), tirx.Select)
    assert isinstance(_where(x, other, on_data), tirx.Select)
