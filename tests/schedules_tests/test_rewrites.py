"""Rewrites change how a result is computed and never the result."""

from __future__ import annotations

import numpy as np
import programs
import pytest
from small_tasks import SMALL

from schedules.dag import REDUCE, ComputeDAG, IterAxis, Stage, Tensor
from schedules.evaluate import evaluate
from schedules.expr import Axis, Call, Const, Read
from schedules.rewrites import apply_rewrites
from schedules.steps import CacheWrite, Inline, SplitReduction, Step

F = "float32"


def _same(dag: ComputeDAG, *steps: Step) -> ComputeDAG:
    """The rewritten DAG, after comparing its outputs."""
    arrays = programs.random_inputs(dag)
    rewritten = apply_rewrites(dag, steps)
    assert rewritten.inputs == dag.inputs
    assert rewritten.outputs == dag.outputs
    before, after = evaluate(dag, arrays), evaluate(rewritten, arrays)
    for name in dag.outputs:
        np.testing.assert_allclose(after[name], before[name], rtol=1e-5, atol=1e-5)
    return rewritten


@pytest.mark.parametrize("name", SMALL)
def test_inlining_every_elementwise_stage(name: str) -> None:
    dag = SMALL[name]()
    for stage in dag.stages:
        if stage.combiner is None and stage.name not in dag.outputs:
            assert stage.name not in _same(dag, Inline(stage.name)).by_name


def test_inlining_substitutes_the_index() -> None:
    """``b[i] = a[i] + 1; c[i] = b[i + 2]`` becomes ``c[i] = a[i + 2] + 1``."""
    shifted = Call("add", (Axis("i"), Const(2, "int64")), "int64")
    one = Const(1.0, F)
    b = Stage("b", (IterAxis("i", 8),), Call("add", (Read("a", (Axis("i"),), F), one), F), F)
    c = Stage("c", (IterAxis("i", 6),), Read("b", (shifted,), F), F)
    dag = ComputeDAG((Tensor("a", (8,), F),), (b, c), ("c",))
    (only,) = _same(dag, Inline("b")).stages
    assert only.body == Call("add", (Read("a", (shifted,), F), one), F)


@pytest.mark.parametrize("name", ("conv2d_plain", "matmul", "norm", "max_pool"))
def test_a_cache_of_every_result(name: str) -> None:
    dag = SMALL[name]()
    for stage in dag.stages:
        rewritten = _same(dag, CacheWrite(stage.name))
        assert rewritten.stage(f"{stage.name}.acc").combiner == stage.combiner
        assert rewritten.stage(stage.name).combiner is None


def _reduction(extent: int, combiner: str) -> ComputeDAG:
    axes = (IterAxis("i", 3), IterAxis("k", extent, REDUCE))
    stage = Stage("s", axes, Read("x", (Axis("i"), Axis("k")), F), F, combiner)
    return ComputeDAG((Tensor("x", (3, extent), F),), (stage,), ("s",))


@pytest.mark.parametrize("interleaved", (True, False))
@pytest.mark.parametrize("combiner", ("sum", "max", "min", "prod"))
@pytest.mark.parametrize("extent", (4, 7, 12))
def test_split_reductions(extent: int, combiner: str, interleaved: bool) -> None:
    """A remainder becomes a stage of its own exactly where there is one."""
    step = SplitReduction("s", "k", 4, interleaved)
    rewritten = _same(_reduction(extent, combiner), step)
    assert ("s.tail" in rewritten.by_name) == (extent % 4 != 0)
    partial = rewritten.stage("s.lanes" if interleaved else "s.blocks")
    assert partial.shape == (3, 4)


def test_blocks_may_be_split_into_lanes() -> None:
    blocks = SplitReduction("s", "k", 4, interleaved=False)
    lanes = SplitReduction("s.blocks", "k", 2)
    rewritten = _same(_reduction(24, "sum"), blocks, lanes)
    assert [a.name for a in rewritten.stages[0].axes] == ["i", "k.block", "k.lane", "k"]
