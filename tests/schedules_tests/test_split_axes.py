"""Views and copies disappear from a DAG, and no value changes."""

from __future__ import annotations

from itertools import pairwise, permutations
from math import prod

import numpy as np
import programs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansor_lite import workloads
from schedules.compose import Part, compose
from schedules.dag import ComputeDAG, IterAxis, Stage, Tensor
from schedules.errors import UnsupportedProgram
from schedules.evaluate import Array, evaluate
from schedules.expr import Axis, Call, Const, Read, affine
from schedules.merge_copies import without_copies
from schedules.split_axes import reshape_dag, split_axes


def transpose_dag(shape: tuple[int, ...], order: tuple[int, ...]) -> ComputeDAG:
    axes = tuple(IterAxis(f"i{d}", shape[d]) for d in order)
    read = Read("x", tuple(Axis(f"i{d}") for d in range(len(shape))), "float32")
    stage = Stage("y", axes, read, "float32")
    return ComputeDAG((Tensor("x", shape, "float32"),), (stage,), ("y",))


def doubled(shape: tuple[int, ...]) -> ComputeDAG:
    axes = tuple(IterAxis(f"i{d}", e) for d, e in enumerate(shape))
    read = Read("x", tuple(Axis(a.name) for a in axes), "float32")
    stage = Stage("y", axes, Call("mul", (read, Const(2.0, "float32")), "float32"), "float32")
    return ComputeDAG((Tensor("x", shape, "float32"),), (stage,), ("y",))


def in_turn(dags: list[ComputeDAG]) -> ComputeDAG:
    return compose([Part(d, (f"v{n}",), f"v{n + 1}") for n, d in enumerate(dags)]).dag


def values(dag: ComputeDAG, flat: Array) -> Array:
    [tensor] = dag.inputs
    return evaluate(dag, {tensor.name: flat.reshape(tensor.shape)})[dag.outputs[0]].reshape(-1)


def is_affine(dag: ComputeDAG) -> bool:
    return all(affine(i) is not None for s in dag.stages for r in s.reads() for i in r.indices)


@st.composite
def movements(draw: st.DrawFn) -> list[ComputeDAG]:
    """Views, transposes and sums of axes, one after the other, all of nested extents."""
    extents = draw(st.lists(st.sampled_from([1, 2, 3]), min_size=2, max_size=5))
    shape, dags = (prod(extents),), []
    for _ in range(draw(st.integers(1, 4))):
        cuts = draw(st.sets(st.integers(1, len(extents) - 1)))
        starts = [0, *sorted(cuts), len(extents)]
        after = tuple(prod(extents[a:b]) for a, b in pairwise(starts))
        dags.append(reshape_dag(shape, after, "float32"))
        dags.append(doubled(after))
        order = draw(st.sampled_from(list(permutations(range(len(after))))))
        dags.append(transpose_dag(after, order))
        shape = dags[-1].stages[-1].shape
        groups = [extents[a:b] for a, b in pairwise(starts)]
        extents = [e for d in order for e in groups[d]]
    return dags


@given(movements(), st.booleans())
def test_no_value_moves(dags: list[ComputeDAG], copies: bool) -> None:
    whole = in_turn(dags)
    changed = without_copies(whole) if copies else split_axes(whole)
    flat = np.arange(prod(whole.inputs[0].shape), dtype=np.float32)
    np.testing.assert_array_equal(values(changed, flat), values(whole, flat))
    assert is_affine(changed)
    if copies:
        reading = [s for s in changed.stages if isinstance(s.body, Read)]
        assert not reading or reading == [changed.stages[-1]]


def test_heads_are_axes_of_their_own() -> None:
    view, order = reshape_dag((1, 5, 12), (1, 5, 3, 4), "float32"), (0, 2, 1, 3)
    dag = without_copies(in_turn([doubled((1, 5, 12)), view, transpose_dag((1, 5, 3, 4), order)]))
    assert dag.inputs[0].shape == (5, 3, 4)
    assert [s.shape for s in dag.stages] == [(3, 5, 4)]


def test_a_product_reads_through_what_was_moved() -> None:
    """[2 * 3, 4] as [2, 3, 4], swapped, as [3, 8]: the product sums over two axes."""
    product = workloads.matmul(3, 5, 8).dag
    views = [
        Part(reshape_dag((6, 4), (2, 3, 4), "float32"), ("a",), "b"),
        Part(transpose_dag((2, 3, 4), (1, 0, 2)), ("b",), "c"),
        Part(reshape_dag((3, 2, 4), (3, 8), "float32"), ("c",), "d"),
        Part(product, ("d", "w"), "y"),
    ]
    whole = compose(views).dag
    dag = without_copies(whole)
    assert [len(s.reduce) for s in dag.stages] == [2]
    arrays = programs.random_inputs(whole)
    pairs = zip(whole.inputs, dag.inputs, strict=True)
    moved = {new.name: arrays[old.name].reshape(new.shape) for old, new in pairs}
    np.testing.assert_allclose(
        evaluate(dag, moved)[dag.outputs[0]], evaluate(whole, arrays)[whole.outputs[0]], rtol=1e-6
    )


def test_refuses_extents_that_cut_across() -> None:
    with pytest.raises(UnsupportedProgram, match="no sum of axes"):
        split_axes(reshape_dag((4, 6), (3, 8), "float32"))
