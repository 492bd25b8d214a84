"""Readable loops; the golden files show what the steps of a schedule mean."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from small_tasks import HARDWARE, SMALL

from schedules.dag import ComputeDAG, IterAxis, Stage, Tensor
from schedules.expr import Axis, Call, Const, Read
from schedules.sketch import closed
from schedules.steps import Annotate, Tile
from schedules.text import expression_text, loop_nest_text
from search_space.sketch_generation import generate_sketches

Golden = Callable[[str, str], None]
F = "float32"


@pytest.mark.parametrize(
    "name", ("conv2d", "matmul", "batch_matmul_transposed", "softmax", "max_pool")
)
def test_text_of_the_first_sketch(name: str, golden: Golden) -> None:
    """The sketch with its knobs, then its candidate of all zeros."""
    sketch = generate_sketches(SMALL[name](), HARDWARE)[0]
    row = np.zeros(len(sketch.knobs), dtype=np.int32)
    golden(f"loops_{name}", loop_nest_text(sketch) + "\n" + loop_nest_text(sketch, row))


def _copy(extent: int) -> ComputeDAG:
    stage = Stage("y", (IterAxis("i", extent),), Read("x", (Axis("i"),), F), F)
    return ComputeDAG((Tensor("x", (extent,), F),), (stage,), ("y",))


def test_plain_loops() -> None:
    assert loop_nest_text(closed(_copy(7), ())) == "# y\nfor i.0 in 7:\n  y[i] = x[i]\n"


def test_ragged_tiles_are_marked() -> None:
    steps = (Tile("y", "i", (4,)), Annotate("y", ("i.1",), "vectorize"))
    text = loop_nest_text(closed(_copy(7), steps))
    assert text == "# y\nfor i.0 in 2~:\n  vectorize i.1 in 4:\n    y[i] = x[i]\n"


def test_expressions_are_infix() -> None:
    one = Const(1.0, F)
    x = Read("x", (Call("add", (Axis("i"), Const(2, "int64")), "int64"),), F)
    less = Call("lt", (Axis("i"), Const(3, "int64")), "bool")
    product = Call("mul", (Call("sub", (x, one), F), Call("exp", (x,), F)), F)
    assert expression_text(product) == "(x[i + 2] - 1.0) * exp(x[i + 2])"
    assert expression_text(Call("select", (less, x, one), F)) == "x[i + 2] if (i < 3) else 1.0"
    assert expression_text(Call("cast", (x,), "int32")) == "int32(x[i + 2])"


def test_an_expression_for_each_value_of_an_axis_is_summarised() -> None:
    i, x = Axis("i"), Read("x", (Const(0, "int64"),), F)
    body: Call | Read = x
    for value in (2, 1, 0):
        is_value = Call("eq", (i, Const(value, "int64")), "bool")
        body = Call("select", (is_value, Call("exp", (x,), F), body), F)
    stage = Stage("y", (IterAxis("i", 4),), body, F)
    dag = ComputeDAG((Tensor("x", (1,), F),), (stage,), ("y",))
    assert "y[i] = one of 4 expressions of x, by i\n" in loop_nest_text(closed(dag, ()))
