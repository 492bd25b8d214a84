"""exp, tanh, erf and sigmoid in plain arithmetic: close to the true value for every float."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import programs
import pytest
import tvm
from built import Case
from numpy.typing import NDArray
from small_tasks import HARDWARE
from tvm import te, tirx
from tvm.s_tir import Schedule

from ansor_lite.target import native
from schedules.dag import ComputeDAG, IterAxis, Stage, Tensor
from schedules.expr import Axis, Call, Const, Read
from schedules.lower import PIPELINE
from schedules.lower.emit_expr import LIBM, POLYNOMIAL, emit
from schedules.steps import Annotate

# Function -> (true value in float64, largest error in units in the last place).
FUNCTIONS: dict[str, tuple[Callable[[NDArray[Any]], NDArray[Any]], float]] = {
    "exp": (np.exp, 1.05),
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), 2.0),
    "tanh": (np.tanh, 2.0),
    "erf": (np.vectorize(math.erf, otypes=[np.float64]), 2.0),
}


# Where a formula is cut off, where results stop being floats or normal ones, and where they round
# to one.
BENDS = (88.72284, 89.5, 87.33654, 103.97208, 104.5, 16.635532, 9.25, 9.0109, 3.95, 3.8325, 0.0547)
PATTERNS_APART = 4096
NEIGHBOURS = 128


def arguments() -> NDArray[np.float32]:
    """Every 4096th float of all, the neighbours of bends, ranges where results vary: n x 32."""
    patterns = np.arange(0, 2**32, PATTERNS_APART, dtype=np.uint32)
    bends = np.array([*BENDS, 0.0, np.inf, *np.log(2) / 4 * np.arange(1, 40, 2)], np.float32)
    bits = bends.view(np.int32)[:, None] + np.arange(-NEIGHBOURS, NEIGHBOURS, dtype=np.int32)
    near = bits.view(np.float32).ravel()
    rng = np.random.default_rng(0)
    ranges = [rng.uniform(-width, width, 1 << 15) for width in (0.1, 1.3, 5.0, 20.0, 110.0)]
    values = [patterns.view(np.float32), near, -near, *(r.astype(np.float32) for r in ranges)]
    joined = np.concatenate(values)
    return np.resize(joined, -(-len(joined) // 32) * 32)


def vectorised(name: str, count: int, mode: str, lanes: int = 16) -> tirx.PrimFunc:
    """``y[i] = name(x[i])`` in vectors, two of them unrolled."""
    x = te.placeholder((count,), "float32", name="x")
    body = Call(name, (Read("x", (Axis("i"),), "float32"),), "float32")
    y = te.compute(
        (count,),
        lambda i: emit(body, lambda _: i, lambda _: x(i), mode),
        name="y",
    )
    schedule = Schedule(te.create_prim_func([x, y]))
    (loop,) = schedule.get_loops(schedule.get_sblock("y"))
    _, unrolled, vector = schedule.split(loop, [None, 2, lanes])
    schedule.unroll(unrolled)
    schedule.vectorize(vector)
    return schedule.mod["main"].with_attr("global_symbol", "main")


def _wide(x: NDArray[np.float32]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):  # signalling NaN among the random patterns
        return x.astype(np.float64)


# In any CPU's code, and exp in that of this one, which may have instructions for it.
CASES = {name: (name, limit, None) for name, (_, limit) in FUNCTIONS.items()} | {
    "exp on this CPU": ("exp", 1.75, native(1))
}


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[str, NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Key of ``CASES``, arguments, what the generated code gives, true values."""
    x = arguments()
    name, _, target = CASES[request.param]
    stage = Stage("y", (IterAxis("i", len(x)),), Read("x", (Axis("i"),), "float32"), "float32")
    dag = ComputeDAG((Tensor("x", x.shape, "float32"),), (stage,), ("y",))
    func = vectorised(name, len(x), POLYNOMIAL)
    found = programs.run_function(func, dag, {"x": x}, target and target.tvm())["y"]
    with np.errstate(all="ignore"):
        return request.param, x, found, FUNCTIONS[name][0](_wide(x))


def _nearest(true: NDArray[np.float64]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        return true.astype(np.float32)


def test_error_in_units_in_the_last_place(case: Any) -> None:
    """Of all floats, the subnormal ones included."""
    name, _, found, true = case
    nearest = _nearest(true)
    finite = np.isfinite(nearest)
    error = np.abs(found[finite] - true[finite]) / np.spacing(np.abs(nearest[finite]))
    assert finite.sum() > 500_000
    assert error.max() <= CASES[name][1]


def test_infinite_results_and_nan_are_kept(case: Any) -> None:
    _, _, found, true = case
    nearest = _nearest(true)
    odd = ~np.isfinite(nearest)
    assert odd.any()
    np.testing.assert_array_equal(found[odd], nearest[odd])


def test_the_arguments_reach_subnormal_results_and_both_limits(case: Any) -> None:
    """Of exp and sigmoid; the odd functions have subnormal arguments instead."""
    _, _, _, true = case
    small = np.abs(true) < np.finfo(np.float32).tiny
    assert (small & (true != 0)).sum() > 1000


def test_odd_functions_keep_the_sign_of_zero(case: Any) -> None:
    name, x, found, _ = case
    if name in ("tanh", "erf"):
        zero = x == 0
        np.testing.assert_array_equal(np.signbit(found[zero]), np.signbit(x[zero]))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_call_is_left_in_the_generated_code(name: str) -> None:
    assert f"{name}f" not in generated(vectorised(name, 64, POLYNOMIAL), {"kind": "llvm"}, "ll")


def generated(func: tirx.PrimFunc, target: dict[str, str], form: str) -> str:
    built = tvm.tirx.build(func, target=tvm.target.Target(target), pipeline=PIPELINE)
    return str(built.inspect_source(form))


@pytest.mark.parametrize(("mcpu", "found"), [("skylake-avx512", True), ("haswell", False)])
def test_instructions_for_powers_are_used_where_the_target_has_them(mcpu: str, found: bool) -> None:
    text = generated(vectorised("exp", 64, POLYNOMIAL), {"kind": "llvm", "mcpu": mcpu}, "s")
    assert ("vscalefps" in text) == found and "expf" not in text


def test_vectors_of_another_width_use_the_polynomial() -> None:
    target = {"kind": "llvm", "mcpu": "skylake-avx512"}
    text = generated(vectorised("exp", 8, POLYNOMIAL, lanes=8), target, "s")
    assert "vscalefps" not in text and "expf" not in text


def test_exp_of_exp_inside_an_expression_is_written_out() -> None:
    """Where a condition on data picks it, cast, inverted and added."""
    x = Read("x", (Axis("i"),), "float32")
    once = Call("exp", (x,), "float32")
    twice = Call("exp", (Call("sub", (Const(0.0, "float32"), once), "float32"),), "float32")
    condition = Call("not", (Call("lt", (once, twice), "bool"),), "bool")
    body = Call("select", (condition, Call("add", (twice, once), "float32"), twice), "float32")
    dag = ComputeDAG(
        (Tensor("x", (32,), "float32"),),
        (Stage("y", (IterAxis("i", 32),), body, "float32"),),
        ("y",),
    )
    case = Case(dag, HARDWARE)
    assert case.error((Annotate("y", ("i.0",), "vectorize"),)) < 1e-6


@pytest.mark.parametrize("outer", FUNCTIONS)
@pytest.mark.parametrize("inner", FUNCTIONS)
def test_functions_of_what_turns_out_to_be_a_constant(inner: str, outer: str) -> None:
    """A row of one element minus its maximum is zero, which TVM notices late."""
    x = Read("x", (Axis("i"),), "float32")
    zero = Call("sub", (x, x), "float32")
    body = Call(outer, (Call(inner, (zero,), "float32"),), "float32")
    dag = ComputeDAG(
        (Tensor("x", (8,), "float32"),),
        (Stage("y", (IterAxis("i", 8),), body, "float32"),),
        ("y",),
    )
    assert Case(dag, HARDWARE).error(()) < 1e-6


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
