"""A composed DAG computes what its parts compute one after the other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import programs
import pytest

from ansor_lite import workloads
from schedules.compose import Composition, Part, compose
from schedules.dag import ComputeDAG, IterAxis, Stage, Tensor, canonical
from schedules.errors import UnsupportedProgram
from schedules.evaluate import Array, evaluate
from schedules.expr import Axis, Call, Read


def elementwise(op: str, *shape: int, count: int = 2) -> ComputeDAG:
    axes = tuple(IterAxis(f"i{n}", extent) for n, extent in enumerate(shape))
    names = [f"t{n}" for n in range(count)]
    reads = tuple(Read(n, tuple(Axis(a.name) for a in axes), "float32") for n in names)
    stage = Stage("out", axes, Call(op, reads, "float32"), "float32")
    return ComputeDAG(tuple(Tensor(n, shape, "float32") for n in names), (stage,), ("out",))


def in_turn(parts: list[Part], values: dict[str, Array]) -> Array:
    """The result of the last part."""
    for part in parts:
        named = zip(part.dag.inputs, part.arguments, strict=True)
        arrays = {tensor.name: values[value] for tensor, value in named}
        values = values | {part.result: evaluate(part.dag, arrays)[part.dag.outputs[0]]}
    return values[parts[-1].result]


def inverted_residual() -> list[Part]:
    """1x1, depthwise 3x3, 1x1, and the sum with what the first one read."""
    expand = workloads.conv2d(1, 6, 6, 3, 5, kernel=1).dag
    depthwise = workloads.depthwise_conv2d(1, 6, 6, 5, kernel=3, padding=1).dag
    project = workloads.conv2d(1, 6, 6, 5, 3, kernel=1).dag
    return [
        Part(expand, ("x", "w0", "v0"), "a"),
        Part(depthwise, ("a", "w1", "v1"), "b"),
        Part(project, ("b", "w2", "v2"), "c"),
        Part(elementwise("add", 1, 6, 6, 3), ("x", "c"), "y"),
    ]


def composed_result(whole: Composition, values: dict[str, Array]) -> Array:
    named = zip(whole.dag.inputs, whole.arguments, strict=True)
    arrays = {tensor.name: values[value] for tensor, value in named}
    return evaluate(whole.dag, arrays)[whole.dag.outputs[0]]


def test_composed_is_one_after_the_other() -> None:
    parts = inverted_residual()
    whole = compose(parts)
    assert whole.arguments == (
        "x",
        "w0",
        "v0",
        "w1",
        "v1",
        "w2",
        "v2",
    )  # x once, for convolution and sum
    arrays = programs.random_inputs(whole.dag)
    values = {v: arrays[t.name] for v, t in zip(whole.arguments, whole.dag.inputs, strict=True)}
    np.testing.assert_allclose(
        composed_result(whole, values), in_turn(parts, values), rtol=1e-5, atol=1e-6
    )


def test_names_are_canonical_and_constants_stay_constant() -> None:
    whole = compose(inverted_residual())
    assert whole.dag == canonical(whole.dag)
    assert [t.constant for t in whole.dag.inputs] == [v[0] in "wv" for v in whole.arguments]


def test_refuses_a_result_that_nothing_reads() -> None:
    add = elementwise("add", 4)
    with pytest.raises(UnsupportedProgram, match="nothing reads 'a'"):
        compose([Part(add, ("x", "y"), "a"), Part(add, ("x", "y"), "b")])


def test_refuses_several_results_inside() -> None:
    two = elementwise("add", 4)
    two = ComputeDAG(two.inputs, (*two.stages, replace(two.stages[0], name="b")), ("out", "b"))
    with pytest.raises(UnsupportedProgram, match="several results"):
        compose([Part(two, ("x", "y"), "a"), Part(elementwise("add", 4), ("a", "y"), "b")])


def test_refuses_another_shape_than_was_written() -> None:
    with pytest.raises(UnsupportedProgram, match="two shapes"):
        compose(
            [
                Part(elementwise("add", 4), ("x", "y"), "a"),
                Part(elementwise("add", 5), ("a", "z"), "b"),
            ]
        )
