"""Minimal filtering: fewer multiplications, the same result up to rounding."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import programs
import pytest
from built import Case
from hypothesis import given, settings
from hypothesis import strategies as st

from ansor_lite import workloads
from schedules.dag import ComputeDAG
from schedules.errors import ScheduleError
from schedules.evaluate import evaluate
from schedules.hardware import Hardware
from schedules.minimal_filtering import sliding, transforms
from schedules.rewrites import apply_rewrites
from schedules.steps import Inline, MinimalFiltering, SplitAxis, Step

HARDWARE = Hardware(threads=2)


def _conv(size: int = 8, kernel: int = 3, **options: Any) -> ComputeDAG:
    return workloads.conv2d(1, size, size, 3, 4, kernel, **options).dag


def _results(dag: ComputeDAG, *steps: Step) -> tuple[dict[str, Any], dict[str, Any]]:
    """Outputs before and after the rewrites; the second reshaped like the first."""
    arrays = programs.random_inputs(dag)
    expected = evaluate(dag, arrays)
    found = programs.rewritten(dag, steps, arrays)
    return expected, {n: found[n].reshape(expected[n].shape) for n in expected}


@given(st.integers(2, 5), st.integers(1, 5), st.randoms(use_true_random=False))
def test_transforms_are_exact(outputs: int, taps: int, random: Any) -> None:
    if outputs + taps > 7:
        with pytest.raises(ScheduleError, match=f"{outputs} results and {taps} taps"):
            transforms(outputs, taps)
        return
    gather, spread, split = transforms(outputs, taps)
    x = [Fraction(random.randint(-9, 9)) for _ in range(outputs + taps - 1)]
    w = [Fraction(random.randint(-9, 9)) for _ in range(taps)]

    def times(matrix: Any, vector: list[Fraction]) -> list[Fraction]:
        return [sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix]

    products = [a * b for a, b in zip(times(spread, w), times(split, x), strict=True)]
    direct = [sum(x[i + k] * w[k] for k in range(taps)) for i in range(outputs)]
    assert times(gather, products) == direct


@settings(deadline=None, max_examples=20)
@given(
    size=st.integers(5, 13),
    kernel=st.sampled_from((2, 3, 5)),
    padding=st.integers(0, 1),
    points=st.sampled_from((4, 6)),
    axes=st.sampled_from((("h",), ("w",), ("h", "w"))),
)
def test_the_result_is_the_same(
    size: int, kernel: int, padding: int, points: int, axes: tuple[str, ...]
) -> None:
    outputs = points - kernel + 1
    if outputs < 1:
        return
    dag = _conv(size, kernel, padding=padding, residual=True)
    expected, found = _results(dag, MinimalFiltering("conv", axes, outputs))
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-4)


def test_three_dimensions_filter_two_of_them() -> None:
    dag = workloads.conv3d(1, 4, 6, 6, 3, 4, 3, padding=1).dag
    conv = next(s for s in dag.stages if s.combiner)
    slides = sliding(dag, conv)
    assert slides is not None and len(slides.slides) == 3
    axes = tuple(s.axis.name for s in slides.slides[1:])
    expected, found = _results(dag, MinimalFiltering(conv.name, axes, 2))
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("size", "outputs"), [(4, 2), (4, 4), (5, 4), (3, 3)])
def test_phases_that_start_one_input_later_have_tiles_of_their_own(size: int, outputs: int) -> None:
    dag = workloads.conv2d_transpose(1, size, size, 3, 4, 4, 2, 1).dag
    slides = sliding(dag, dag.stage("conv"))
    assert slides is not None
    assert [s.phase.name for s in slides.slides if s.phase] == ["rh", "rw"]
    for axes in (("h",), ("w",), ("h", "w")):
        expected, found = _results(dag, MinimalFiltering("conv", axes, outputs))
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-4)


def test_multiplications_that_are_left() -> None:
    """F(4x4, 3x3): 36 products for 16 results of 9 taps."""
    dag = apply_rewrites(_conv(8, padding=1), (MinimalFiltering("conv", ("h", "w"), 4),))
    products = dag.stage("conv.products")
    assert [a.extent for a in products.axes] == [6, 6, 1, 2, 2, 4, 3]


@pytest.mark.parametrize(
    ("options", "axes", "outputs", "reason"),
    [
        ({"stride": 2}, ("h", "w"), 2, "does not slide a constant filter"),
        ({"dilation": 2}, ("h", "w"), 2, "does not slide a constant filter"),
        ({"constant_weights": False}, ("h", "w"), 2, "does not slide a constant filter"),
        ({}, ("h", "co"), 2, r"of \['h', 'co'\] only \['h', 'w'\] slide"),
        ({}, (), 2, r"of \[\] only"),
        ({}, ("h", "w"), 6, "no filter of 6 results and 3 taps is known"),
    ],
)
def test_refuses_because(
    options: dict[str, Any], axes: tuple[str, ...], outputs: int, reason: str
) -> None:
    with pytest.raises(ScheduleError, match=reason):
        apply_rewrites(_conv(**options), (MinimalFiltering("conv", axes, outputs),))


def _by_tiles(outputs: int) -> tuple[Step, ...]:
    """The output counted by tiles, so that nothing is copied."""
    return (
        MinimalFiltering("conv", ("h", "w"), outputs),
        *(Inline(name) for name in ("conv.gather1", "conv", "biased")),
        SplitAxis("relu", "h", outputs),
        SplitAxis("relu", "w", outputs),
    )


def test_an_output_counted_by_tiles_reads_nothing_by_division() -> None:
    dag = _conv(8, padding=1)
    expected, found = _results(dag, *_by_tiles(2))
    np.testing.assert_allclose(found["relu"], expected["relu"], rtol=1e-4, atol=1e-4)
    assert "floordiv" not in repr(apply_rewrites(dag, _by_tiles(2)))


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (SplitAxis("relu", "h", 3), "3 tiles of 3 are not 8"),
        (SplitAxis("relu", "h", 0), "8 tiles of 0 are not 8"),
        (SplitAxis("relu", "q", 2), "no spatial axis 'q'"),
        (SplitAxis("biased", "h", 2), "not an output alone"),
    ],
)
def test_split_axis_refuses_because(step: SplitAxis, reason: str) -> None:
    with pytest.raises(ScheduleError, match=reason):
        apply_rewrites(_conv(8, padding=1), (step,))


@pytest.mark.parametrize("steps", [(MinimalFiltering("conv", ("h", "w"), 4),), _by_tiles(4)])
def test_lowered_programs_take_the_transformed_filter(steps: tuple[Step, ...]) -> None:
    assert Case(_conv(8, padding=1), HARDWARE).error(steps) < 1e-5
