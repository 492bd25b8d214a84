"""The rules that rewrite a program before its loops are arranged, on programs of a few stages."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from small_tasks import SMALL

from ansor_lite import workloads as w
from schedules.dag import REDUCE, ComputeDAG, IterAxis, Stage, Tensor
from schedules.expr import Axis, Call, Const, Expr, Read
from schedules.hardware import Hardware
from schedules.steps import CacheWrite, Inline, Reciprocal, SplitReduction, Step
from search_space.draft import Draft
from search_space.rewriting import (
    rule_cache_write,
    rule_inline,
    rule_reciprocal,
    rule_split_blocks,
    rule_split_lanes,
)

HARDWARE = Hardware(threads=4)
F = "float32"


def _draft(dag: ComputeDAG) -> Draft:
    return Draft(dag, dag)


def _read(tensor: str, *axes: str) -> Read:
    return Read(tensor, tuple(Axis(a) for a in axes), F)


def _chain(*bodies: Expr) -> ComputeDAG:
    """Stages ``s0, s1...`` of shape ``[4, 8]``; the last one is the output."""
    axes = (IterAxis("i", 4), IterAxis("j", 8))
    stages = tuple(Stage(f"s{n}", axes, body, F) for n, body in enumerate(bodies))
    return ComputeDAG((Tensor("x", (4, 8), F),), stages, (stages[-1].name,))


def _inlines(dag: ComputeDAG, name: str) -> bool:
    return rule_inline(_draft(dag), dag.stage(name), HARDWARE) is not None


def _exp(value: Expr) -> Expr:
    return Call("exp", (value,), F)


def _twice(value: Expr) -> Expr:
    return Call("add", (value, value), F)


def test_elementwise_stages_are_inlined_and_outputs_stay() -> None:
    dag = _chain(_twice(_read("x", "i", "j")), _twice(_read("s0", "i", "j")))
    assert _inlines(dag, "s0")
    assert not _inlines(dag, "s1")


def test_math_is_not_computed_twice() -> None:
    """An exponential that is read at two places stays a stage of its own."""
    once = _chain(_exp(_read("x", "i", "j")), _exp(_read("s0", "i", "j")))
    assert _inlines(once, "s0")
    twice = _chain(_exp(_read("x", "i", "j")), _twice(_read("s0", "i", "j")))
    assert not _inlines(twice, "s0")
    again = _chain(
        _exp(_read("x", "i", "j")),
        _read("s0", "i", "j"),
        Call("mul", (_read("s0", "i", "j"), _read("s1", "i", "j")), F),
    )
    assert not _inlines(again, "s0")


def test_padding_stays_beside_a_reduction() -> None:
    """Conditions inside the hot loop would cost more than the copy."""
    dag = SMALL["conv2d"]()
    padding = next(s for s in dag.stages if s.combiner is None and s.name not in dag.outputs)
    assert not _inlines(dag, padding.name)


def _padded_windows(combiner: str, padding: float) -> ComputeDAG:
    """``s1[i] = combiner over k of s0[i + k]``, where ``s0`` is ``x`` with one more at each end."""
    inside = Call("and", (_compare("le", 1, "i"), _compare("gt", 9, "i")), "bool")
    shifted = Read("x", (Call("sub", (Axis("i"), Const(1, "int64")), "int64"),), F)
    body = Call("select", (inside, shifted, Const(padding, F)), F)
    window = Read("s0", (Call("add", (Axis("i"), Axis("k")), "int64"),), F)
    stages = (
        Stage("s0", (IterAxis("i", 10),), body, F),
        Stage("s1", (IterAxis("i", 8), IterAxis("k", 3, REDUCE)), window, F, combiner),
    )
    return ComputeDAG((Tensor("x", (8,), F),), stages, ("s1",))


def _compare(op: str, value: int, axis: str) -> Expr:
    return Call(op, (Const(value, "int64"), Axis(axis)), "bool")


@pytest.mark.parametrize(
    ("combiner", "padding", "skipped"),
    [("sum", 0.0, True), ("max", -math.inf, True), ("max", 0.0, False), ("sum", 1.0, False)],
)
def test_windows_skip_padding_that_adds_nothing(
    combiner: str, padding: float, skipped: bool
) -> None:
    assert _inlines(_padded_windows(combiner, padding), "s0") is skipped


def test_padding_with_two_readers_stays() -> None:
    dag = _padded_windows("max", -math.inf)
    again = replace(dag.stage("s1"), name="s2")
    assert not _inlines(ComputeDAG(dag.inputs, (*dag.stages, again), ("s1", "s2")), "s0")


def test_the_stage_that_takes_over_tiles_stays() -> None:
    """ReLU before a pooling window: the accumulating stage needs somewhere to put its tiles."""
    dag = SMALL["convolution_with_pooling"]()
    relu = next(s for s in dag.stages if s.combiner is None)
    assert not _inlines(dag, relu.name)
    dag = w.matmul(8, 16, 8, bias=True, activation="relu").dag
    assert all(_inlines(dag, s.name) for s in dag.stages[1:-1])


def _rewrites(drafts: tuple[Draft, ...] | None) -> list[tuple[Step, ...]]:
    return [draft.rewrites for draft in drafts or ()]


def test_accumulators_get_a_copy_where_nothing_consumes_them() -> None:
    plain = w.matmul(8, 16, 8).dag
    (stage,) = plain.stages
    drafts = rule_cache_write(_draft(plain), stage, HARDWARE)
    assert _rewrites(drafts) == [(CacheWrite(stage.name),)]
    followed = w.matmul(8, 16, 8, bias=True).dag
    assert rule_cache_write(_draft(followed), followed.stages[0], HARDWARE) is None


def _shares(columns: int, *divisor: str) -> ComputeDAG:
    """``s0[i, j] = x[i, j] / d[divisor...]`` of ``[4, columns]``."""
    axes = {"i": IterAxis("i", 4), "j": IterAxis("j", columns)}
    quotient = Call("div", (_read("x", "i", "j"), _read("d", *divisor)), F)
    divisors = Tensor("d", tuple(axes[a].extent for a in divisor), F)
    stage = Stage("s0", tuple(axes.values()), quotient, F)
    return ComputeDAG((Tensor("x", (4, columns), F), divisors), (stage,), ("s0",))


def test_rows_are_multiplied_by_reciprocals() -> None:
    dag = _shares(32, "i")
    drafts = rule_reciprocal(_draft(dag), dag.stage("s0"), HARDWARE)
    assert _rewrites(drafts) == [(Reciprocal("s0", "j"),)]
    (draft,) = drafts or ()
    assert not any(rule_reciprocal(draft, s, HARDWARE) for s in draft.current.stages)
    assert not any(rule_inline(draft, s, HARDWARE) for s in draft.current.stages)


@pytest.mark.parametrize(
    ("columns", "divisor"),
    [(32, ("i", "j")), (32, ("j",)), (8, ("i",)), (32, ())],
    ids=["every element", "every column", "short rows", "all the same"],
)
def test_divisions_stay_because(columns: int, divisor: tuple[str, ...]) -> None:
    dag = _shares(columns, *divisor)
    assert rule_reciprocal(_draft(dag), dag.stage("s0"), HARDWARE) is None


def test_divisions_behind_an_accumulation_stay() -> None:
    """There are few beside its products, and it would need one more stage inside its tiles."""
    axes = (IterAxis("i", 4), IterAxis("j", 32))
    product = Call("mul", (_read("x", "i", "k"), _read("w", "k", "j")), F)
    total = Stage("s0", (*axes, IterAxis("k", 8, REDUCE)), product, F, "sum")
    quotient = Call("div", (_read("s0", "i", "j"), _read("d", "i")), F)
    shapes = {"x": (4, 8), "w": (8, 32), "d": (4,)}
    inputs = tuple(Tensor(name, shape, F) for name, shape in shapes.items())
    dag = ComputeDAG(inputs, (total, Stage("s1", axes, quotient, F)), ("s1",))
    assert rule_reciprocal(_draft(dag), dag.stage("s1"), HARDWARE) is None


def _sum(rows: int, length: int, *indices: str) -> ComputeDAG:
    axes = (IterAxis("i", rows), IterAxis("k", length, REDUCE))
    shape = tuple({"i": rows, "k": length}[a] for a in indices)
    stage = Stage("s", axes, _read("x", *indices), F, "sum")
    return ComputeDAG((Tensor("x", shape, F),), (stage,), ("s",))


def test_reductions_along_memory_keep_lanes() -> None:
    dag = _sum(64, 256, "i", "k")
    drafts = rule_split_lanes(_draft(dag), dag.stage("s"), HARDWARE)
    assert _rewrites(drafts) == [
        (SplitReduction("s", "k", 16),),
        (SplitReduction("s", "k", 64),),
    ]


def test_reductions_across_memory_or_too_short_do_not() -> None:
    for dag in (_sum(64, 256, "k", "i"), _sum(64, 24, "i", "k")):
        assert rule_split_lanes(_draft(dag), dag.stage("s"), HARDWARE) is None


def test_few_results_of_much_work_are_split_between_threads() -> None:
    dag = _sum(2, 1 << 17, "i", "k")
    drafts = rule_split_blocks(_draft(dag), dag.stage("s"), HARDWARE)
    ((step,),) = _rewrites(drafts)
    assert isinstance(step, SplitReduction)
    assert not step.interleaved
    assert step.lanes % HARDWARE.threads == 0
    one = Hardware(threads=1)
    assert rule_split_blocks(_draft(dag), dag.stage("s"), one) is None
    many = _sum(64, 1 << 17, "i", "k")
    assert rule_split_blocks(_draft(many), many.stage("s"), HARDWARE) is None


def test_blocks_may_leave_a_remainder() -> None:
    dag = _sum(1, 50257, "i", "k")
    ((step,),) = _rewrites(rule_split_blocks(_draft(dag), dag.stage("s"), HARDWARE))
    assert isinstance(step, SplitReduction)
    assert 50257 % step.lanes
    short = _sum(1, 4096, "i", "k")
    assert rule_split_blocks(_draft(short), short.stage("s"), HARDWARE) is None


def test_inlining_an_unread_stage_is_no_rule() -> None:
    dag = _chain(Const(1.0, F), _read("x", "i", "j"))
    assert not _inlines(dag, "s0")


def test_labels_tell_the_branch() -> None:
    dag = _sum(64, 256, "i", "k")
    drafts = rule_split_lanes(_draft(dag), dag.stage("s"), HARDWARE)
    assert [draft.label for draft in drafts or ()] == [("lanes1",), ("lanes4",)]
    inlined = _chain(_twice(_read("x", "i", "j")), _read("s0", "i", "j"))
    (draft,) = rule_inline(_draft(inlined), inlined.stage("s0"), HARDWARE) or ()
    assert draft.rewrites == (Inline("s0"),)
