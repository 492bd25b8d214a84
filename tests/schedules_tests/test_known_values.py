"""Masks and literals among constants; scalar algebra that keeps every value."""

from __future__ import annotations

import numpy as np
import pytest

from schedules.dag import ComputeDAG, IterAxis, Stage, Tensor, without_unread
from schedules.evaluate import Array, evaluate
from schedules.expr import Axis, Call, Const, Expr, Read
from schedules.known_values import LOWEST, with_values
from schedules.plain_scalars import with_plain_scalars

ROWS, COLUMNS = 5, 7
ROW, COLUMN = IterAxis("i", ROWS), IterAxis("j", COLUMNS)
X = Read("x", (Axis("i"), Axis("j")), "float32")
HALF = Const(0.5, "float32")


def read(tensor: str, *axes: str, dtype: str = "float32") -> Read:
    return Read(tensor, tuple(map(Axis, axes)), dtype)


def call(op: str, *args: Expr, dtype: str = "float32") -> Call:
    return Call(op, args, dtype)


def stage(name: str, body: Expr, *axes: IterAxis, combiner: str | None = None) -> Stage:
    dtype = "bool" if name == "test" else "float32"
    return Stage(name, axes, body, dtype, combiner)


def normalised(masked: Expr, mask: Tensor) -> ComputeDAG:
    """exp(masked - max masked) over j, where ``masked`` reads x and the mask."""
    k = IterAxis("k", COLUMNS, "reduce")
    stages = (
        stage("masked", masked, ROW, COLUMN),
        stage("most", read("masked", "i", "k"), ROW, k, combiner="max"),
        stage(
            "y", call("exp", call("sub", read("masked", "i", "j"), read("most", "i"))), ROW, COLUMN
        ),
    )
    return ComputeDAG((Tensor("x", (ROWS, COLUMNS), "float32"), mask), stages, ("y",))


def result(dag: ComputeDAG, arrays: dict[str, Array]) -> Array:
    return evaluate(dag, arrays)[dag.outputs[0]]


def checked(dag: ComputeDAG, values: dict[str, Array]) -> ComputeDAG:
    """``dag`` with the values, computing the same; what it still reads."""
    changed = with_values(dag, values)
    x = np.random.default_rng(0).standard_normal((ROWS, COLUMNS)).astype(np.float32)
    arrays = {"x": x, **values}
    np.testing.assert_array_equal(result(changed, arrays), result(dag, arrays))
    return changed


def is_read(dag: ComputeDAG, name: str) -> bool:
    return bool(dag.consumers[name])


@pytest.mark.parametrize("offset", [0, 2])
@pytest.mark.parametrize("hidden", [-np.inf, LOWEST, -1e30])
def test_an_additive_triangle_is_a_condition(offset: int, hidden: float) -> None:
    mask = np.where(np.tri(ROWS, COLUMNS, offset) > 0, 0, hidden).astype(np.float32)
    tensor = Tensor("m", mask.shape, "float32", True)
    dag = checked(normalised(call("add", X, read("m", "i", "j")), tensor), {"m": mask})
    assert not is_read(dag, "m")
    match dag.stage("masked").body:
        case Call("select", (Call("le", (Axis("j"), _)), kept, Const(least))):
            assert (kept, least) == (X, LOWEST)
        case body:
            pytest.fail(f"no condition: {body}")


@pytest.mark.parametrize("hides", [False, True])
def test_a_boolean_triangle_is_a_condition(hides: bool) -> None:
    mask = (np.tri(ROWS, COLUMNS) > 0) != hides
    sides = (Const(-np.inf, "float32"), X) if hides else (X, Const(-np.inf, "float32"))
    body = call("select", read("m", "i", "j", dtype="bool"), *sides)
    dag = checked(normalised(body, Tensor("m", mask.shape, "bool", True)), {"m": mask})
    assert not is_read(dag, "m")


def test_a_row_that_hides_everything_is_still_told_by_its_nan() -> None:
    tensor = Tensor("m", (ROWS, COLUMNS), "float32", True)
    dag = normalised(call("add", X, read("m", "i", "j")), tensor)
    y = read("y", "i", "j")
    guarded = Call("select", (Call("isnan", (y,), "bool"), Const(0.0, "float32"), y), "float32")
    dag = ComputeDAG(dag.inputs, (*dag.stages, stage("z", guarded, ROW, COLUMN)), ("z",))
    mask = np.where(np.tri(ROWS, COLUMNS) > 0, 0, -np.inf).astype(np.float32)
    body = with_values(dag, {"m": mask}).stage("masked").body
    assert isinstance(body, Call) and body.args[2] == Const(-np.inf, "float32")


def test_a_bias_stays_behind_the_condition() -> None:
    bias = np.random.default_rng(1).standard_normal((ROWS, COLUMNS))
    mask = np.where(np.tri(ROWS, COLUMNS) > 0, bias, -np.inf).astype(np.float32)
    dag = normalised(call("add", X, read("m", "i", "j")), Tensor("m", mask.shape, "float32", True))
    body = checked(dag, {"m": mask}).stage("masked").body
    assert isinstance(body, Call) and body.op == "select"
    assert body.args[1] == call("add", X, read("m", "i", "j"))


def no_triangle(mask: Array) -> Array:
    mask[2, 1] = -np.inf
    return mask


def empty_row(mask: Array) -> Array:
    return np.where(np.tri(ROWS, COLUMNS, -1) > 0, 0, -np.inf).astype(np.float32)


def shallow(mask: Array) -> Array:
    return np.maximum(mask, -10)


@pytest.mark.parametrize("changed", [no_triangle, empty_row, shallow])
def test_refuses_because_the_values_say_something_else(changed: object) -> None:
    mask = np.where(np.tri(ROWS, COLUMNS) > 0, 0, -np.inf).astype(np.float32)
    mask = changed(mask)  # type: ignore[operator]
    dag = normalised(call("add", X, read("m", "i", "j")), Tensor("m", mask.shape, "float32", True))
    assert with_values(dag, {"m": mask}) == dag


def test_refuses_because_the_hidden_values_are_read() -> None:
    mask = np.where(np.tri(ROWS, COLUMNS) > 0, 0, -1e30).astype(np.float32)
    dag = normalised(call("add", X, read("m", "i", "j")), Tensor("m", mask.shape, "float32", True))
    dag = ComputeDAG(dag.inputs, dag.stages, ("y", "masked"))
    assert with_values(dag, {"m": mask}) == dag


def test_one_element_is_a_literal() -> None:
    tensors = (Tensor("x", (ROWS, COLUMNS), "float32"), Tensor("m", (), "float32", True))
    body = call("mul", X, Read("m", (), "float32"))
    dag = ComputeDAG(tensors, (stage("y", body, ROW, COLUMN),), ("y",))
    changed = checked(dag, {"m": np.array(0.5, np.float32)})
    assert changed.stages[0].body == call("mul", X, HALF)


def test_factors_go_behind_their_sum() -> None:
    k = IterAxis("k", 4, "reduce")
    tensors = (Tensor("a", (ROWS, 4), "float32"), Tensor("b", (COLUMNS, 4), "float32"))
    inner = IterAxis("k", 4)
    stages = (
        stage("p", call("mul", read("a", "i", "k"), HALF), ROW, inner),
        stage("q", call("mul", HALF, read("b", "j", "k")), COLUMN, inner),
        stage(
            "y",
            call("mul", read("p", "i", "k"), read("q", "j", "k")),
            ROW,
            COLUMN,
            k,
            combiner="sum",
        ),
    )
    dag = ComputeDAG(tensors, stages, ("y",))
    changed = with_plain_scalars(dag)
    assert [s.combiner for s in changed.stages] == ["sum", None]
    rng = np.random.default_rng(0)
    arrays = {t.name: rng.standard_normal(t.shape).astype(np.float32) for t in tensors}
    np.testing.assert_allclose(result(changed, arrays), result(dag, arrays), rtol=1e-6)


def test_a_test_is_no_stage() -> None:
    number = call("cast", read("test", "i", "j", dtype="bool"), dtype="int64")
    test = call("lt", Const(0, "int64"), number, dtype="bool")
    stages = (
        stage("test", call("isnan", X, dtype="bool"), ROW, COLUMN),
        stage("y", call("select", test, HALF, X), ROW, COLUMN),
    )
    dag = ComputeDAG((Tensor("x", (ROWS, COLUMNS), "float32"),), stages, ("y",))
    [only] = with_plain_scalars(dag).stages
    assert only.body == call("select", call("isnan", X, dtype="bool"), HALF, X)
    assert without_unread(dag) == dag
