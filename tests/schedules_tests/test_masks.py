"""Which loops a triangular mask ends, and which not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from small_tasks import HARDWARE, SMALL

from ansor_lite import workloads
from schedules.dag import ComputeDAG
from schedules.errors import ScheduleError
from schedules.expr import Axis, Call, Const, Expr
from schedules.masks import Mask, masks
from schedules.plan import build_plan
from schedules.steps import ComputeAt, DivideLate, Limit
from search_space.sketch_generation import generate_sketches

F = "float32"
LATE = (DivideLate("attended"),)


def _late(dag: ComputeDAG) -> ComputeDAG:
    return build_plan(dag, LATE).dag


def _with_body(dag: ComputeDAG, name: str, body: Expr) -> ComputeDAG:
    return replace(
        dag, stages=tuple(replace(s, body=body) if s.name == name else s for s in dag.stages)
    )


def test_a_mask_passes_through_exponentials_to_sums() -> None:
    """37 queries are the last of 53: query ``i`` sees keys up to ``i + 16``."""
    found = masks(_late(workloads.attention(2, 37, 53, 19, causal=True).dag))
    assert found.keys() == {"scaled", "peak", "powers", "total", "attended.undivided"}
    assert {(m.axis, m.row, m.beyond) for m in found.values()} == {("j", "i", 17)}


def test_a_comparison_may_be_written_in_any_way() -> None:
    dag = workloads.attention(2, 16, 16, 8, causal=True).dag
    body = dag.stage("scaled").body
    assert isinstance(body, Call)
    i, j, one = Axis("i"), Axis("j"), Const(1, "int64")
    behind = Call("add", (i, one), "int64")
    for condition in (
        Call("lt", (j, behind), "bool"),
        Call("ge", (i, j), "bool"),
        Call("gt", (behind, j), "bool"),
        Call(
            "and", (Call("ge", (j, Const(0, "int64")), "bool"), Call("le", (j, i), "bool")), "bool"
        ),
    ):
        other = _with_body(dag, "scaled", Call("select", (condition, *body.args[1:]), F))
        assert masks(_late(other))["scaled"] == Mask("j", "i", 1, "low")


@pytest.mark.parametrize("lowest", [-1e4, 0.0])
def test_refuses_because_what_is_masked_still_counts(lowest: float) -> None:
    dag = workloads.attention(2, 16, 16, 8, causal=True).dag
    body = dag.stage("scaled").body
    assert isinstance(body, Call)
    masked = Call("select", (*body.args[:2], Const(lowest, F)), F)
    assert not masks(_late(_with_body(dag, "scaled", masked)))


def test_refuses_because_all_elements_are_wanted() -> None:
    dag = workloads.attention(2, 16, 16, 8, causal=True).dag
    found = masks(replace(_late(dag), outputs=("attended", "powers")))
    assert "powers" not in found
    assert "scaled" not in found


def test_refuses_because_a_whole_row_may_be_masked() -> None:
    """More queries than keys: the first ones see nothing, and every share is the same."""
    assert not masks(_late(workloads.attention(2, 53, 37, 19, causal=True).dag))


@pytest.mark.parametrize(
    ("limit", "reason"),
    [
        (Limit("scaled", "j", "i", 16), "16 is less than the mask's 17"),
        (Limit("scaled", "i", "j", 17), "no mask ends 'i'"),
        (Limit("scores", "j", "i", 17), "no mask ends 'j'"),
        (Limit("scaled", "j", "i", 17), "it is not computed inside another stage"),
    ],
)
def test_refuses_because(limit: Limit, reason: str) -> None:
    dag = workloads.attention(2, 37, 53, 19, causal=True).dag
    with pytest.raises(ScheduleError, match=reason):
        build_plan(dag, (*LATE, limit))


def test_loops_of_a_block_end_together() -> None:
    (sketch,) = generate_sketches(SMALL["attention_causal"](), HARDWARE)
    limited = {s.stage for s in sketch.steps if isinstance(s, Limit)}
    placed = {s.stage for s in sketch.steps if isinstance(s, ComputeAt)}
    assert limited == {"scaled", "peak", "powers", "total", "attended.undivided"}
    assert limited <= placed
