"""The reference interpreter agrees with NumPy formulas and, operation by operation, with TVM."""

from __future__ import annotations

import numpy as np
import programs
import pytest

from schedules.dag import REDUCE, ComputeDAG, IterAxis, Stage, Tensor
from schedules.evaluate import evaluate
from schedules.expr import OPERATIONS, Axis, Call, Const, Read

N = 67


def matmul(m: int, n: int, k: int) -> ComputeDAG:
    a = Read("a", (Axis("i"), Axis("k")), "float32")
    b = Read("b", (Axis("k"), Axis("j")), "float32")
    axes = (IterAxis("i", m), IterAxis("j", n), IterAxis("k", k, REDUCE))
    stage = Stage("c", axes, Call("mul", (a, b), "float32"), "float32", "sum")
    inputs = (Tensor("a", (m, k), "float32"), Tensor("b", (k, n), "float32"))
    return ComputeDAG(inputs, (stage,), ("c",))


def rows(combiner: str | None, body: str = "x") -> ComputeDAG:
    read = Read(body, (Axis("i"), Axis("k")), "float32")
    axes = (IterAxis("i", 3), IterAxis("k", 5, REDUCE))
    stage = Stage("y", axes, read, "float32", combiner)
    return ComputeDAG((Tensor("x", (3, 5), "float32"),), (stage,), ("y",))


@pytest.mark.parametrize("shape", [(3, 4, 5), (150, 140, 130), (1, 1, 1)])
def test_matmul_is_numpy_matmul(shape: tuple[int, int, int]) -> None:
    """The second shape is evaluated in pieces."""
    dag = matmul(*shape)
    arrays = programs.random_inputs(dag)
    expected = arrays["a"].astype("float64") @ arrays["b"].astype("float64")
    np.testing.assert_allclose(evaluate(dag, arrays)["c"], expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("combiner", ["sum", "max", "min", "prod"])
def test_combiners(combiner: str) -> None:
    x = np.random.default_rng(0).standard_normal((3, 5)).astype("float32")
    expected = getattr(np, combiner)(x, axis=1)
    np.testing.assert_allclose(evaluate(rows(combiner), {"x": x})["y"], expected, rtol=1e-6)


@pytest.mark.parametrize("combiner", ["max", "min", "prod"])
def test_a_large_reduction_is_folded_over_pieces(combiner: str) -> None:
    length = 1 << 22
    axes = (IterAxis("i", 1), IterAxis("k", length, REDUCE))
    stage = Stage("y", axes, Read("x", (Axis("k"),), "float32"), "float32", combiner)
    dag = ComputeDAG((Tensor("x", (length,), "float32"),), (stage,), ("y",))
    x = np.ones(length, dtype="float32")
    x[[5, -5]] = 3.0, 0.5
    assert evaluate(dag, {"x": x})["y"].item() == {"max": 3.0, "min": 0.5, "prod": 1.5}[combiner]


def test_a_reduce_axis_that_the_body_ignores_still_counts() -> None:
    axes = (IterAxis("i", 3), IterAxis("k", 5, REDUCE))
    x = Read("x", (Axis("i"),), "float32")
    stage = Stage("y", axes, Call("mul", (x, x), "float32"), "float32", "sum")
    dag = ComputeDAG((Tensor("x", (3,), "float32"),), (stage,), ("y",))
    assert evaluate(dag, {"x": np.array([1.0, 2.0, 3.0])})["y"].tolist() == [5.0, 20.0, 45.0]


def shifted(guarded: bool) -> ComputeDAG:
    position = Call("sub", (Axis("i"), Const(1, "int64")), "int64")
    read = Read("x", (position,), "float32")
    inside = Call("le", (Const(1, "int64"), Axis("i")), "bool")
    body = Call("select", (inside, read, Const(-1.0, "float32")), "float32") if guarded else read
    stage = Stage("y", (IterAxis("i", 4),), body, "float32")
    return ComputeDAG((Tensor("x", (3,), "float32"),), (stage,), ("y",))


def test_a_guard_protects_its_read() -> None:
    found = evaluate(shifted(True), {"x": np.array([1.0, 2.0, 3.0])})["y"]
    assert found.tolist() == [-1.0, 1.0, 2.0, 3.0]


def test_refuses_to_read_outside_without_a_guard() -> None:
    with pytest.raises(IndexError, match="reads outside 'x'"):
        evaluate(shifted(False), {"x": np.zeros(3)})


def test_refuses_a_missing_input_and_a_wrong_shape() -> None:
    with pytest.raises(ValueError, match="'x' is missing"):
        evaluate(rows("sum"), {})
    with pytest.raises(ValueError, match=r"shape \(3, 4\), not \(3, 5\)"):
        evaluate(rows("sum"), {"x": np.zeros((3, 4))})


def _inputs() -> dict[str, np.ndarray]:
    """Two operands of each kind; shifts get their own, which are not negative."""
    halves = [0.5, 1.5, 2.5, -0.5, -1.5, -2.5]
    a, b = np.arange(-33, 34, dtype="int32"), np.arange(N, dtype="int32") % 7 + 1
    return {
        "a_bool": np.arange(N) % 2 == 0,
        "b_bool": np.arange(N) % 3 == 0,
        "a_int32": a,
        "b_int32": np.where(a % 2 == 0, b, -b),
        "a_shift": abs(a),
        "b_shift": b,
        "a_float32": np.append(np.linspace(-3.7, 3.7, N - len(halves)), halves).astype("float32"),
        "b_float32": np.linspace(-2.1, 5.3, N).astype("float32"),
    }


INTEGER_OPERATIONS = (
    *("add", "sub", "mul", "min", "max", "abs", "eq", "ne", "lt", "le", "gt", "ge"),
    *("truncdiv", "truncmod", "floordiv", "floormod", "shift_left", "shift_right"),
    *("bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_not"),
)
FLOAT_OPERATIONS = tuple(
    op
    for op, (_, kind) in OPERATIONS.items()
    if kind not in ("logic", "select") and op not in INTEGER_OPERATIONS[12:] and op != "cast"
)
CASES = (
    [(op, "int32") for op in INTEGER_OPERATIONS]
    + [(op, "float32") for op in FLOAT_OPERATIONS]
    + [(op, "bool") for op in ("and", "or", "not")]
)


@pytest.mark.filterwarnings("ignore:invalid value")
def test_every_operation_means_what_tvm_makes_of_it() -> None:
    """One DAG with a stage per operation, so that one compilation serves them all."""
    stages, arrays = [], _inputs()
    for op, dtype in CASES:
        source = "shift" if op.startswith("shift") else dtype
        operands = [Read(f"{x}_{source}", (Axis("i"),), dtype) for x in "ab"]
        compares = OPERATIONS[op][1] == "compare" and op not in ("min", "max")
        result = "bool" if compares else dtype
        body = Call(op, tuple(operands[: OPERATIONS[op][0]]), result)
        stages.append(Stage(f"{op}_{dtype}", (IterAxis("i", N),), body, result))
    inputs = tuple(Tensor(n, (N,), str(a.dtype)) for n, a in arrays.items())
    dag = ComputeDAG(inputs, tuple(stages), tuple(s.name for s in stages))
    found, expected = programs.run(dag, arrays), evaluate(dag, arrays)
    for name in dag.outputs:
        np.testing.assert_allclose(
            found[name], expected[name], rtol=1e-5, atol=1e-6, equal_nan=True, err_msg=name
        )
