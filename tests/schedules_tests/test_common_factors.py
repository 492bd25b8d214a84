"""Which exponentials may be off by one factor a row: those whose outputs do not show it."""

from __future__ import annotations

import pytest

from schedules.common_factors import cancelling_maxima
from schedules.dag import REDUCE, ComputeDAG, IterAxis, Stage, Tensor
from schedules.expr import Axis, Call, Const, Expr, Read

ROW, COLUMN = IterAxis("i", 4), IterAxis("j", 8)
ADDED = IterAxis("j", 8, REDUCE)
X = Read("x", (Axis("i"), Axis("j")), "float32")
V = Read("v", (Axis("j"),), "float32")
MOST, TOTAL = (Read(name, (Axis("i"),), "float32") for name in ("most", "total"))
POWER = Read("power", (Axis("i"), Axis("j")), "float32")
ZERO = Const(0.0, "float32")


def op(name: str, *args: Expr) -> Call:
    return Call(name, args, "float32")


def program(*last: Stage) -> ComputeDAG:
    """``power = exp(x - most)`` and ``total``, its sum over a row, before ``last``."""
    inputs = (Tensor("x", (4, 8), "float32"), Tensor("v", (8,), "float32"))
    stages = (
        Stage("most", (ROW, ADDED), X, "float32", "max"),
        Stage("power", (ROW, COLUMN), op("exp", op("sub", X, MOST)), "float32"),
        Stage("total", (ROW, ADDED), POWER, "float32", "sum"),
        *last,
    )
    return ComputeDAG(inputs, stages, (last[-1].name,))


def summed(name: str, body: Expr, combiner: str = "sum") -> Stage:
    return Stage(name, (ROW, ADDED), body, "float32", combiner)


WEIGHED = summed("weighed", op("mul", POWER, V))
OF_WEIGHED = Read("weighed", (Axis("i"),), "float32")
MASKED = op("select", Call("lt", (Axis("j"), Axis("i")), "bool"), POWER, ZERO)
SQUARE = summed("square", op("mul", POWER, POWER))


@pytest.mark.parametrize(
    "last",
    [
        (Stage("y", (ROW, COLUMN), op("div", POWER, TOTAL), "float32"),),
        (
            Stage(
                "y",
                (ROW, COLUMN),
                op("mul", POWER, op("div", Const(1.0, "float32"), TOTAL)),
                "float32",
            ),
        ),
        (WEIGHED, Stage("y", (ROW,), op("div", OF_WEIGHED, TOTAL), "float32")),
        (Stage("y", (ROW, COLUMN), op("div", MASKED, op("add", TOTAL, ZERO)), "float32"),),
        (summed("y", op("div", POWER, TOTAL), "max"),),
    ],
    ids=["share", "reciprocal", "weighed sum", "masked", "largest share"],
)
def test_normalising_removes_a_factor(last: tuple[Stage, ...]) -> None:
    assert "most" in cancelling_maxima(program(*last))


FIRST = Const(0, "int64")
OF_SQUARES = Read("square", (Axis("i"),), "float32")
OF_ALL = Read("all", (FIRST,), "float32")
OTHER_ROW = Read("total", (FIRST,), "float32")
ALL_ROWS = Stage(
    "all", (IterAxis("i", 4, REDUCE), ADDED, IterAxis("one", 1)), POWER, "float32", "sum"
)


@pytest.mark.parametrize(
    "last",
    [
        (Stage("y", (ROW, COLUMN), op("mul", POWER, V), "float32"),),
        (Stage("y", (ROW,), op("log", TOTAL), "float32"),),
        (Stage("y", (ROW, COLUMN), op("div", POWER, op("add", TOTAL, V)), "float32"),),
        (Stage("y", (ROW, COLUMN), op("div", POWER, OTHER_ROW), "float32"),),
        (
            ALL_ROWS,
            Stage("y", (ROW, COLUMN), op("div", POWER, OF_ALL), "float32"),
        ),
        (SQUARE, Stage("y", (ROW,), op("div", TOTAL, OF_SQUARES), "float32")),
        (summed("y", op("div", POWER, TOTAL)), Stage("z", (ROW,), op("exp", TOTAL), "float32")),
        (summed("y", POWER, "prod"),),
    ],
    ids=["no division", "logarithm", "more in the sum", "another row's sum", "a sum over rows",
         "two powers", "exponential of a sum", "product of a row"],
)  # fmt: skip
def test_refuses_because_an_output_shows_the_factor(last: tuple[Stage, ...]) -> None:
    assert "most" not in cancelling_maxima(program(*last))
