"""Reciprocals in place of divisions: what they compute, and what is left alone."""

from __future__ import annotations

import numpy as np
import pytest

from schedules.dag import REDUCE, ComputeDAG, IterAxis, Stage, Tensor
from schedules.errors import ScheduleError
from schedules.evaluate import evaluate
from schedules.expr import Axis, Call, Const, Expr, Read
from schedules.rewrites import apply_rewrites
from schedules.steps import Reciprocal

F = "float32"
X = Read("x", (Axis("i"), Axis("j")), F)
ROW = Read("d", (Axis("i"),), F)


def _dag(body: Expr, *reduce: str) -> ComputeDAG:
    """``y[i, j] = body`` of ``[5, 7]`` with a row vector ``d``; ``reduce``: axes it sums over."""
    axes = tuple(
        IterAxis(name, extent, *([REDUCE] if name in reduce else []))
        for name, extent in (("i", 5), ("j", 7))
    )
    stage = Stage("y", axes, body, F, "sum" if reduce else None)
    return ComputeDAG((Tensor("x", (5, 7), F), Tensor("d", (5,), F)), (stage,), ("y",))


def _div(a: Expr, b: Expr) -> Call:
    return Call("div", (a, b), F)


def test_one_division_a_row() -> None:
    """Also where it stands twice, and the divisor is an expression."""
    divisor = Call("add", (ROW, Const(1.0, F)), F)
    share = _div(X, divisor)
    dag = _dag(Call("select", (Call("isnan", (share,), "bool"), Const(0.0, F), share), F))
    rewritten = apply_rewrites(dag, (Reciprocal("y", "j"),))
    assert [s.shape for s in rewritten.stages] == [(5,), (5, 7)]
    assert "div" not in str(rewritten.stage("y").body)
    rng = np.random.default_rng(0)
    arrays = {"x": rng.standard_normal((5, 7), np.float32), "d": rng.random(5, np.float32)}
    arrays["x"][2, 3] = np.nan
    before, after = evaluate(dag, arrays)["y"], evaluate(rewritten, arrays)["y"]
    np.testing.assert_array_max_ulp(after, before, 2)


@pytest.mark.parametrize(
    "dag",
    [
        _dag(_div(ROW, X)),
        _dag(_div(X, Const(3.0, F))),
        _dag(_div(X, ROW), "j"),
        _dag(Call("mul", (X, ROW), F)),
        _dag(
            Call(
                "select",
                (
                    Call("lt", (Axis("i"), Const(3, "int64")), "bool"),
                    _div(X, ROW),
                    Const(0.0, F),
                ),
                F,
            )
        ),
    ],
    ids=["moves along the axis", "constant", "reduces", "no division", "behind a condition"],
)
def test_refuses_because(dag: ComputeDAG) -> None:
    with pytest.raises(ScheduleError, match="no divisor"):
        apply_rewrites(dag, (Reciprocal("y", "j"),))
