"""Rules that arrange loops: roles of axes, packing, where producers go."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from small_tasks import SMALL

from ansor_lite import workloads as w
from schedules.dag import ComputeDAG, IterAxis, Stage
from schedules.expr import Axis, Const, Expr, Read, rebuild
from schedules.hardware import Hardware
from schedules.nest import follow
from schedules.steps import Annotate, Pack
from search_space.analysis import has_data_reuse
from search_space.draft import Draft
from search_space.sketch_generation import generate_sketches
from search_space.tiling import TilePair, lanes_for, rule_tile_with_consumer, tile_pair

HARDWARE = Hardware(threads=4)


def _pair(dag: ComputeDAG) -> TilePair:
    pair = tile_pair(Draft(dag, dag), dag.stages[-1], HARDWARE)
    assert pair is not None
    return pair


def _extents(axes: tuple) -> list[int]:  # type: ignore[type-arg]
    return [a.extent for a in axes]


def test_roles_of_a_matrix_product() -> None:
    pair = _pair(w.matmul(13, 37, 23, bias=True).dag)
    assert pair.vector.extent == 37
    assert _extents(pair.rows) == [13]
    assert _extents(pair.outer) == []
    assert pair.lanes == 16


def test_roles_of_a_batched_product() -> None:
    """The batch moves both operands: it is no part of the register tile."""
    pair = _pair(w.batch_matmul(3, 13, 37, 7, bias=True).dag)
    assert _extents(pair.outer) == [3]
    assert _extents(pair.rows) == [13]


def test_no_pair_without_reuse_or_in_place_consumer() -> None:
    for dag in (w.softmax(7, 197).dag, w.pool2d(1, 9, 9, 8, 2, 2).dag, w.matmul(8, 8, 8).dag):
        draft = Draft(dag, dag)
        assert tile_pair(draft, dag.stages[-1], HARDWARE) is None
        assert rule_tile_with_consumer(draft, dag.stages[-1], HARDWARE) is None


@pytest.mark.parametrize(("extent", "expected"), ((64, 16), (16, 16), (15, 8), (3, 2), (1, 1)))
def test_lanes_never_exceed_the_extent(extent: int, expected: int) -> None:
    assert lanes_for(extent, 16) == expected


def _steps(dag: ComputeDAG, kind: type) -> list[list]:  # type: ignore[type-arg]
    sketches = generate_sketches(dag, HARDWARE, exact=True)
    return [[s for s in sketch.steps if isinstance(s, kind)] for sketch in sketches]


def test_constant_weights_are_packed_once() -> None:
    for packs in _steps(SMALL["conv2d"](), Pack):
        assert [pack.at for pack in packs] == [None]


def test_accumulations_that_one_stage_consumes_share_its_tile() -> None:
    dag = SMALL["gated_matmul"]()
    both = {"gate", "value"}
    for sketch in generate_sketches(dag, HARDWARE):
        plans = [sketch.plan.by_name[name] for name in both]
        assert plans[0].attached is not None and plans[0].attached == plans[1].attached
        assert {s.stage for s in sketch.steps if isinstance(s, Pack)} == both


def test_an_accumulation_that_another_stage_reads_too_stays_outside() -> None:
    dag = SMALL["gated_matmul"]()
    for outputs in ((*dag.outputs, "value"), ("value", *dag.outputs)):
        for sketch in generate_sketches(replace(dag, outputs=outputs), HARDWARE):
            assert sketch.plan.by_name["gate"].attached is not None
            assert sketch.plan.by_name["value"].attached is None


def _ahead(dag: ComputeDAG, hardware: Hardware = HARDWARE) -> set[bool]:
    """Which sketches there are: those with hints for what is used again, those without."""
    return {
        any(
            isinstance(s, Annotate)
            and s.kind == "prefetch"
            and has_data_reuse(sketch.plan.by_name[s.stage].stage)
            for s in sketch.steps
        )
        for sketch in generate_sketches(dag, hardware)
    }


def test_large_constants_that_are_used_a_few_times_may_be_fetched_ahead() -> None:
    assert _ahead(w.matmul(8, 1024, 1024).dag) == {True, False}
    assert _ahead(w.gated_matmul(8, 1024, 1024).dag) == {True, False}


def test_what_memory_or_arithmetic_alone_limits_is_not_fetched_ahead() -> None:
    assert _ahead(w.matmul(1, 1024, 1024).dag) == {False}
    assert _ahead(w.matmul(256, 1024, 1024).dag) == {False}
    assert _ahead(w.matmul(8, 128, 128).dag) == {False}
    assert _ahead(w.matmul(8, 1024, 1024, constant_weights=False).dag) == {False}


def test_variable_weights_in_order_are_not_packed() -> None:
    assert not any(_steps(SMALL["matmul_variable"](), Pack))


def test_variable_operands_out_of_order_are_packed_at_both_places() -> None:
    places = {packs[0].at is None for packs in _steps(SMALL["batch_matmul_transposed"](), Pack)}
    assert places == {True, False}


def test_shared_weights_are_not_packed_at_compile_time() -> None:
    """Another stage reads them as they are."""
    dag = w.matmul(13, 37, 37, bias=True).dag
    weight = next(t for t in dag.inputs if len(t.shape) == 2 and t.constant)
    read = Read(weight.name, (Axis("a"), Axis("b")), "float32")
    copy = Stage("copy", (IterAxis("a", 37), IterAxis("b", 37)), read, "float32")
    dag = replace(dag, stages=(*dag.stages, copy), outputs=(*dag.outputs, "copy"))
    assert not any(p for packs in _steps(dag, Pack) for p in packs if p.at is None)
    for sketch in generate_sketches(dag, HARDWARE):
        follow(sketch, sketch.random(2, np.random.default_rng(0)))


def test_zero_padding_is_read_through_or_computed_at_the_root_or_in_a_block() -> None:
    dag = SMALL["conv2d"]()
    padding = dag.stages[0].name
    direct = [s for s in generate_sketches(dag, HARDWARE) if "filter" not in s.name]
    read_through = [s for s in direct if padding not in s.plan.by_name]
    assert [s.name for s in read_through] == ["unpadded/rows", "unpadded/columns"]
    others = [s.plan.by_name[padding] for s in direct if s not in read_through]
    assert {plan.attached is None for plan in others} == {True, False}


def test_a_border_that_adds_something_is_a_copy() -> None:
    """Padding with ones: its terms count."""

    def ones(node: Expr) -> Expr | None:
        return Const(1.0, "float32") if node == Const(0.0, "float32") else None

    dag = SMALL["conv2d"]()
    padded = replace(dag.stages[0], body=rebuild(dag.stages[0].body, ones))
    dag = replace(dag, stages=(padded, *dag.stages[1:]))
    assert all(padded.name in s.plan.by_name for s in generate_sketches(dag, HARDWARE))


def test_the_vectorised_loop_is_the_innermost() -> None:
    dag = SMALL["conv2d_plain"]()
    for sketch in generate_sketches(dag, HARDWARE):
        for plan in sketch.plan.stages:
            vector = [s for s in sketch.steps if isinstance(s, Annotate)]
            named = {s.loops[0] for s in vector if s.kind == "vectorize" and s.stage == plan.name}
            assert named <= {plan.loops[-1].name}


@pytest.mark.parametrize("lanes", (4, 8, 16))
def test_register_tiles_follow_the_machine(lanes: int) -> None:
    """The accumulators of any candidate fit the registers, whatever their width and number."""
    hardware = Hardware(threads=4, vector_bytes=4 * lanes, vector_registers=16)
    dag = SMALL["matmul"]()
    for sketch in generate_sketches(dag, hardware):
        nest = follow(sketch, sketch.random(64, np.random.default_rng(0)))
        accumulator = next(s for s in nest.stages if s.allocated_bytes.any())
        assert np.all(accumulator.allocated_bytes <= 16 * 4 * lanes)


def test_a_padded_copy_has_to_pay() -> None:
    """A window of 3x3 uses an element nine times, times the results if it serves several."""
    alone = generate_sketches(w.depthwise_conv2d(1, 28, 28, 64, 3, 1, 1).dag, HARDWARE)
    assert all(sketch.name.startswith("unpadded") for sketch in alone)
    several = generate_sketches(w.conv2d(1, 28, 28, 64, 64, 3, padding=1).dag, HARDWARE, exact=True)
    assert not all(sketch.name.startswith("unpadded") for sketch in several)
