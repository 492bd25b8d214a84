"""Exponentials of short rows that lie one behind the other are computed in long vectors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import tvm
from built import Case
from small_tasks import HARDWARE
from tvm import tirx

from schedules.dag import ComputeDAG, IterAxis, Stage, Tensor
from schedules.expr import Axis, Call, Const, Expr, Read
from schedules.lower import lower
from schedules.lower.statements import replaced, statement_pass
from schedules.lower.wider import wider_exponentials
from schedules.steps import Annotate

F = "float32"


def _read(tensor: str, *names: str) -> Read:
    return Read(tensor, tuple(Axis(n) for n in names), F)


def _rows(rows: int, lanes: int, body: Expr | None = None) -> ComputeDAG:
    """``exp(x[b, i, l] - m[b])``, or another ``body``."""
    axes = (IterAxis("b", 3), IterAxis("i", rows), IterAxis("l", lanes))
    shifted = Call("sub", (_read("x", "b", "i", "l"), _read("m", "b")), F)
    powers = Stage("powers", axes, body or Call("exp", (shifted,), F), F)
    inputs = (Tensor("x", (3, rows, lanes), F), Tensor("m", (3,), F), Tensor("r", (rows,), F))
    return ComputeDAG(inputs, (powers,), ("powers",))


def test_what_is_shifted_back_does_not_take_the_place_of_its_operand() -> None:
    """The last vector computes 8 elements again, from what must still be there."""
    axes = (IterAxis("b", 3), IterAxis("i", 7), IterAxis("l", 8))
    doubled = Call("add", (_read("x", "b", "i", "l"), _read("x", "b", "i", "l")), F)
    powers = Call("exp", (_read("twice", "b", "i", "l"),), F)
    last = Call("sub", (_read("powers", "b", "i", "l"), Const(1.0, F)), F)
    named = (("twice", doubled), ("powers", powers), ("y", last))
    stages = tuple(Stage(name, axes, body, F) for name, body in named)
    dag = ComputeDAG((Tensor("x", (3, 7, 8), F),), stages, ("y",))
    assert Case(dag, HARDWARE).error(STEPS) < 1e-5


STEPS = (Annotate("powers", ("l.0",), "vectorize"),)


def _loops(dag: ComputeDAG) -> list[int]:
    module = tvm.IRModule({"main": lower(dag, STEPS, HARDWARE).func})
    blocks = tvm.s_tir.transform
    lowering = [
        blocks.ConvertBlocksToOpaque(),
        blocks.LowerOpaqueBlock(),
        tirx.transform.FlattenBuffer(),
        statement_pass("", wider_exponentials),
    ]
    found: list[int] = []

    def note(statement: Any) -> None:
        if isinstance(statement, tirx.For):
            found.append(int(statement.extent))

    replaced(tvm.transform.Sequential(lowering)(module)["main"].body, note)
    return found


@pytest.mark.parametrize(("rows", "lanes"), [(7, 8), (3, 8), (2, 8), (5, 4), (18, 8)])
def test_vectors_are_long_and_the_last_is_shifted_back(rows: int, lanes: int) -> None:
    dag = _rows(rows, lanes)
    assert _loops(dag) == [3, math.ceil(rows * lanes / 16), 16]
    assert Case(dag, HARDWARE).error(STEPS) < 1e-5


@pytest.mark.parametrize(("rows", "lanes"), [(1, 8), (3, 4), (7, 16)])
def test_rows_stay_where_they_fill_no_vector_or_are_vectors(rows: int, lanes: int) -> None:
    assert _loops(_rows(rows, lanes))[-1] == lanes


BODIES = {
    "by row": Call("exp", (Call("mul", (_read("x", "b", "i", "l"), _read("r", "i")), F),), F),
    "no exp": Call("sub", (_read("x", "b", "i", "l"), _read("m", "b")), F),
    "backwards": Call(
        "exp",
        (
            Read(
                "x",
                (Axis("b"), Call("sub", (Const(6, "int64"), Axis("i")), "int64"), Axis("l")),
                F,
            ),
        ),
        F,
    ),
}


@pytest.mark.parametrize("name", list(BODIES))
def test_rows_stay_where_places_do_not_count_them_through(name: str) -> None:
    dag = _rows(7, 8, BODIES[name])
    assert _loops(dag) == [3, 7, 8]
    assert np.isfinite(Case(dag, HARDWARE).error(STEPS))
