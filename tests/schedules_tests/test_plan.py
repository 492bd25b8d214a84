"""What a schedule may not say, and the structure of one that it may."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from schedules.dag import REDUCE, ComputeDAG, IterAxis, Stage, Tensor
from schedules.errors import ScheduleError
from schedules.expr import Axis, Call, Const, Expr, Read
from schedules.nest import follow
from schedules.plan import build_plan, stage_accesses
from schedules.sketch import closed
from schedules.steps import (
    Annotate,
    CacheWrite,
    ComputeAt,
    Inline,
    Pack,
    Reorder,
    Scope,
    SplitReduction,
    Step,
    Tile,
)

F = "float32"


def _read(tensor: str, *axes: str) -> Read:
    return Read(tensor, tuple(Axis(a) for a in axes), F)


def _stage(name: str, body: Expr, *, reduce: bool = False) -> Stage:
    axes = (IterAxis("i", 6), IterAxis("j", 10))
    if not reduce:
        return Stage(name, axes, body, F)
    return Stage(name, (*axes, IterAxis("k", 8, REDUCE)), body, F, "sum")


def _dag() -> ComputeDAG:
    """``p = x + 1; s = sum_k p[i, k] * w[k, j]; y = max(s, 0)``; ``p`` is ``[6, 8]``."""
    one, zero = Const(1.0, F), Const(0.0, F)
    p = Stage(
        "p", (IterAxis("i", 6), IterAxis("k", 8)), Call("add", (_read("x", "i", "k"), one), F), F
    )
    s = _stage("s", Call("mul", (_read("p", "i", "k"), _read("w", "k", "j")), F), reduce=True)
    y = _stage("y", Call("max", (_read("s", "i", "j"), zero), F))
    inputs = (Tensor("x", (6, 8), F), Tensor("w", (8, 10), F, True))
    return ComputeDAG(inputs, (p, s, y), ("y",))


def _parallel(*loops: str) -> Annotate:
    return Annotate("y", loops, "parallel")


REFUSED: dict[str, tuple[tuple[Step, ...], str]] = {
    "rewrite last": ((Tile("y", "i", (2,)), CacheWrite("s")), "CacheWrite of 's' follows a loop"),
    "unknown stage": ((Tile("q", "i", (2,)),), "Tile: there is no stage 'q'"),
    "unknown axis": ((Tile("y", "k", (2,)),), "tile of 'y': there is no axis 'k'"),
    "empty tile": ((Tile("y", "i", (0,)),), r"tile of 'y': \(0,\) are no tile sizes"),
    "odd reduction": ((Tile("s", "k", (3,)),), "tile of 's': 'k' of 8 is not divisible"),
    "overlap": (
        (Tile("s", "i", (4,)), Reorder("s", ("j.0", "k.0", "i.0", "i.1"))),
        "tile of 's': 'i' is cut inside a reduction",
    ),
    "shared sums": (
        (Tile("s", "i", (4,)), Annotate("s", ("i.0",), "parallel")),
        "tile of 's': threads would accumulate the same 'i'",
    ),
    "missing loop": ((Reorder("y", ("i.0",)),), "reorder of 'y': .* are not its loops"),
    "levels": (
        (Tile("y", "i", (2,)), Reorder("y", ("i.1", "i.0", "j.0"))),
        "levels of 'i' out of order",
    ),
    "earlier target": ((ComputeAt("s", "p", "i.0"),), "compute_at of 's': 'p' is no later stage"),
    "no such loop": ((ComputeAt("s", "y", "z.0"),), "compute_at of 's': 'y' has no loop 'z.0'"),
    "fused loop": (
        (_parallel("i.0", "j.0"), ComputeAt("s", "y", "i.0")),
        "compute_at of 's': loop 'i.0' is fused with the next",
    ),
    "inside a vector": (
        (Annotate("y", ("j.0",), "vectorize"), ComputeAt("s", "y", "j.0")),
        "loop 'j.0' is inside a vectorized",
    ),
    "consumer outside": ((ComputeAt("p", "y", "i.0"),), "consumer 's' is outside 'i.0'"),
    "annotated ghost": ((_parallel("q.0"),), "parallel of 'y': there is no loop 'q.0'"),
    "unknown kind": ((Annotate("y", ("i.0",), "swim"),), "annotate of 'y': unknown kind 'swim'"),
    "parallel sum": ((Annotate("s", ("k.0",), "parallel"),), "parallel of 's': 'k.0' is a red"),
    "inner parallel": ((_parallel("j.0"),), "parallel of 'y': the loops are not the outermost"),
    "nested parallel": (
        (ComputeAt("s", "y", "i.0"), Annotate("s", ("i.0",), "parallel")),
        "parallel of 's': it is computed inside another",
    ),
    "hints": ((Annotate("y", ("j.0",), "prefetch"),), "prefetch of 'y': 'j.0' is no reduction"),
    "outer vector": ((Annotate("y", ("i.0",), "vectorize"),), "is not the innermost loop"),
    "unknown scope": ((Scope("s", "attic"),), "scope of 's': unknown scope 'attic'"),
    "pack unread": ((Pack("y", "w"),), "pack for 'y': it does not read 'w'"),
    "pack computed": ((Pack("s", "p"),), "pack for 's': 'p' is computed, so it needs a place"),
    "pack elsewhere": ((Pack("s", "p", ("y", "i.0")),), r"\('y', 'i.0'\) is not around it"),
    "pack too early": (
        (
            ComputeAt("s", "y", "j.0"),
            ComputeAt("p", "y", "j.0"),
            Pack("s", "p", ("y", "i.0")),
        ),
        "pack for 's': 'p' is computed further inside",
    ),
    "pack in fused loops": (
        (
            _parallel("i.0", "j.0"),
            ComputeAt("s", "y", "j.0"),
            Pack("s", "w", ("y", "i.0")),
        ),
        "pack for 's': loop 'i.0' is fused with the next",
    ),
    "pack in a vector": (
        (Annotate("y", ("j.0",), "vectorize"), Pack("y", "s", ("y", "j.0"))),
        "pack for 'y': loop 'j.0' is inside a vectorized loop",
    ),
    "inline sum": ((Inline("s"),), "inline of 's': it reduces over 'k'"),
    "inline output": ((Inline("y"),), "inline of 'y': it is an output"),
    "inline ghost": ((Inline("q"),), "there is no stage 'q'"),
    "two accumulators": (
        (CacheWrite("s"), CacheWrite("s")),
        "cache_write of 's': it has an accumulator already",
    ),
    "split spatial": ((SplitReduction("s", "i", 2),), "split_reduction of 's': 'i' is no reduce"),
    "split too far": ((SplitReduction("s", "k", 9),), "split_reduction of 's': 9 parts of 8"),
    "split again": (
        (SplitReduction("s", "k", 2), SplitReduction("s.lanes", "k", 2)),
        "split_reduction of 's.lanes': 'k' is split already",
    ),
    "split in none": ((SplitReduction("s", "k", 0),), "split_reduction of 's': 0 parts of 8"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_because(name: str) -> None:
    steps, reason = REFUSED[name]
    with pytest.raises(ScheduleError, match=reason):
        follow(closed(_dag(), steps), np.zeros((1, 0), dtype=np.int32))


def test_refuses_to_compute_an_output_elsewhere() -> None:
    dag = replace(_dag(), outputs=("s", "y"))
    with pytest.raises(ScheduleError, match="compute_at of 's': it is an output"):
        build_plan(dag, (ComputeAt("s", "y", "i.0"),))


def test_refuses_to_pack_what_others_read() -> None:
    dag = _dag()
    twice = Stage("z", (IterAxis("k", 8), IterAxis("j", 10)), _read("w", "k", "j"), F)
    dag = replace(dag, stages=(*dag.stages, twice), outputs=("y", "z"))
    with pytest.raises(ScheduleError, match="other stages read 'w' as it was"):
        build_plan(dag, (Pack("s", "w"),))


def test_refuses_to_pack_several_reads() -> None:
    both = Call("add", (_read("x", "i", "k"), _read("x", "k", "i")), F)
    stage = Stage("s", (IterAxis("i", 8), IterAxis("k", 8, REDUCE)), both, F, "sum")
    dag = ComputeDAG((Tensor("x", (8, 8), F, True),), (stage,), ("s",))
    with pytest.raises(ScheduleError, match="pack for 's': 'x' has no single affine read"):
        follow(closed(dag, (Pack("s", "x"),)), np.zeros((1, 0), dtype=np.int32))


def test_chains_follow_the_steps() -> None:
    """``s`` sits inside ``y``'s tile and ``p`` inside the same loop, before it."""
    steps = (
        Tile("y", "j", (5,)),
        Reorder("y", ("i.0", "j.0", "j.1")),
        _parallel("i.0", "j.0"),
        ComputeAt("s", "y", "j.0"),
        ComputeAt("p", "y", "j.0"),
    )
    plan = build_plan(_dag(), steps)
    names = [f"{loop.stage}.{loop.name}" for loop in plan.by_name["s"].chain]
    assert names == ["y.i.0", "y.j.0", "s.i.0", "s.j.0", "s.k.0"]
    assert plan.inside == {("y", 2): ("p", "s")}
    assert plan.by_name["y"].parallel == 2
    assert plan.by_name["s"].depth == 2


def test_regions_are_what_the_consumer_reads() -> None:
    steps = (Tile("y", "j", (5,)), ComputeAt("s", "y", "j.0"), ComputeAt("p", "y", "i.0"))
    nest = follow(closed(_dag(), steps), np.zeros((1, 0), dtype=np.int32))
    extents = {s.stage: s.extents[0].tolist() for s in nest.stages}
    assert extents["p"] == [6, 1, 8]
    assert extents["s"] == [6, 2, 1, 5, 8]
    assert {s.stage: int(s.allocated_bytes[0]) for s in nest.stages} == {"p": 32, "s": 20, "y": 0}


def test_a_read_is_guarded_unless_it_also_stands_outside() -> None:
    inside, outside = _read("x", "i"), _read("x", "j")
    test = Call("lt", (Axis("i"), Const(3, "int64")), "bool")
    chosen = Call("select", (test, inside, outside), F)
    body = Call("add", (chosen, outside), F)
    stage = Stage("y", (IterAxis("i", 6), IterAxis("j", 6)), body, F)
    assert {a.read: a.guarded for a in stage_accesses(stage)} == {inside: True, outside: False}
