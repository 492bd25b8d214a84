"""Conditions taken out of a reduction, and the versions of its nest that they leave."""

from __future__ import annotations

import numpy as np
import pytest
from built import Case
from hypothesis import given, settings
from hypothesis import strategies as st
from small_tasks import HARDWARE

from ansor_lite import workloads as w
from schedules.expr import Axis, Call, Const, Expr, Read
from schedules.guards import guarded_term, skips_padding
from schedules.lower.linear import Positions
from schedules.lower.versions import MOST_STATEMENTS, versioned_body
from schedules.nest import Follower
from schedules.rewrites import apply_rewrites
from schedules.sketch import closed
from schedules.steps import Annotate, Inline, Reorder, Step, Tile

F = "float32"
X = Read("x", (Axis("i"),), F)
INSIDE = Call("lt", (Axis("i"), Const(5, "int64")), "bool")


def _behind(value: float) -> Expr:
    return Call("select", (INSIDE, X, Const(value, F)), F)


@pytest.mark.parametrize(
    ("combiner", "value"), (("sum", 0.0), ("prod", 1.0), ("max", -3.5e38), ("min", 3.5e38))
)
def test_neutral_padding_is_a_condition(combiner: str, value: float) -> None:
    term = guarded_term(combiner, _behind(value))
    assert (term.conditions, term.body) == ((INSIDE,), X)


@pytest.mark.parametrize(("combiner", "value"), (("sum", 1.0), ("max", 0.0), ("min", -3.5e38)))
def test_other_padding_stays(combiner: str, value: float) -> None:
    assert guarded_term(combiner, _behind(value)).conditions == ()


def test_a_product_with_zero_is_zero_but_a_sum_is_not() -> None:
    assert guarded_term("sum", Call("mul", (X, _behind(0.0)), F)).conditions == (INSIDE,)
    assert guarded_term("sum", Call("add", (X, _behind(0.0)), F)).conditions == ()


def _steps(width: int, tile: int, unrolled: bool) -> tuple[Step, ...]:
    order = ("n.0", "h.0", "w.0", "co.0", "kh.0", "kw.0", "w.1")
    loops = ("kw.0", "w.1") if unrolled else ("w.1",)
    steps = (Inline("padded"), Tile("conv", "w", (min(tile, width),)), Reorder("conv", order))
    return (*steps, Annotate("conv", loops, "unroll"))


def _case(width: int, kernel: int, stride: int, padding: int) -> Case:
    layer = w.depthwise_conv2d(
        *(1, 5, width, 3, kernel, stride, padding), bias=False, activation=None
    )
    return Case(layer.dag, HARDWARE)


@settings(max_examples=20, deadline=None)
@given(
    width=st.integers(3, 9),
    kernel=st.integers(2, 3),
    stride=st.integers(1, 2),
    padding=st.integers(1, 3),
    tile=st.sampled_from((1, 2, 4, 8)),
    unrolled=st.booleans(),
)
def test_versions_compute_the_same(
    width: int, kernel: int, stride: int, padding: int, tile: int, unrolled: bool
) -> None:
    case = _case(width, kernel, stride, padding)
    out = case.dag.stages[-1].shape[2]
    # Tiles inside a reduction must divide.
    tile = max(d for d in (1, 2, 4, 8) if out % d == 0 and d <= tile)
    assert case.error(_steps(out, tile, unrolled)) < 1e-5


def _groups(steps: tuple[Step, ...], width: int) -> list[int]:
    sketch = closed(_case(width, 3, 1, 1).dag, steps)
    positions = Positions(Follower(sketch, np.zeros((1, 0), dtype=np.int32)))
    body = versioned_body(sketch.plan.by_name["conv"], positions)
    return [len(group.versions) for group in body.groups]


def test_the_inside_has_one_version_and_each_border_one() -> None:
    """Rows are decided inside ``kh``, no unrolled loop: one is inside or adds nothing."""
    assert _groups(_steps(8, 2, True), 8) == [3, 1]


def test_too_much_unrolled_code_leaves_one_version_for_all_borders() -> None:
    width = MOST_STATEMENTS // 2
    assert _groups(_steps(width, width // 2, True), width) == [1, 1]


def test_padding_that_data_decides_cannot_be_skipped() -> None:
    dag = _case(8, 3, 1, 1).dag
    conv = apply_rewrites(dag, (Inline("padded"),)).stage("conv")
    assert skips_padding(conv)
    assert not skips_padding(dag.stage("conv"))
