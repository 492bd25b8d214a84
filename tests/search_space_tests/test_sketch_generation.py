"""Which sketches the rules derive, told by their names, and what all of them have in common."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from small_tasks import SMALL

from ansor_lite import workloads as w
from schedules.dag import ComputeDAG
from schedules.hardware import Hardware
from schedules.nest import effective_steps, follow
from schedules.sketch import Sketch
from search_space.presets import CPU_RULES, RuleTable
from search_space.sketch_generation import MOST_SKETCHES, default_steps, generate_sketches

# As large as in networks: small programs are not worth a second thread.
LARGE: dict[str, Callable[[], ComputeDAG]] = {
    "conv2d": lambda: w.conv2d(1, 56, 56, 64, 64, 3, 1, 1).dag,
    "conv2d_pointwise": lambda: w.conv2d(1, 56, 56, 64, 256, 1).dag,
    "conv2d_grouped": lambda: w.conv2d(1, 28, 28, 128, 128, 3, 1, 1, groups=4).dag,
    "conv2d_dilated": lambda: w.conv2d(1, 28, 28, 128, 128, 3, 1, 2, dilation=2).dag,
    "depthwise": lambda: w.depthwise_conv2d(1, 56, 56, 144, 3, 1, 1).dag,
    "conv1d": lambda: w.conv1d(1, 1024, 64, 128, 3, 1, 1).dag,
    "conv3d": lambda: w.conv3d(1, 16, 28, 28, 32, 32, 3, 1, 1).dag,
    "transposed": lambda: w.conv2d_transpose(1, 14, 14, 128, 64, 4, 2, 1).dag,
    "matmul": lambda: w.matmul(128, 768, 768, bias=True).dag,
    "matmul_variable": lambda: w.matmul(128, 768, 768, constant_weights=False).dag,
    "matvec": lambda: w.matmul(1, 1000, 2048, bias=True).dag,
    "batch_matmul": lambda: w.batch_matmul(12, 128, 64, 128).dag,
    "batch_matmul_transposed": lambda: w.batch_matmul(12, 128, 128, 64, transpose_b=True).dag,
    "attention": lambda: w.attention(12, 128, 128, 64).dag,
    "softmax": lambda: w.softmax(1536, 128).dag,
    "layer_norm": lambda: w.layer_norm(128, 768).dag,
    "norm": lambda: w.norm(16, 256, 256).dag,
    "max_pool": lambda: w.pool2d(1, 112, 112, 64, 3, 2, 1).dag,
}

ANCHORED = (
    *("conv2d", "conv2d_pointwise", "conv2d_grouped", "conv2d_dilated", "depthwise", "conv1d"),
    *("conv3d", "transposed", "matmul", "matvec", "batch_matmul", "attention"),
)
UNLISTED = (
    *("capsule_convolution", "five_index_einsum", "banded_matmul", "convolution_with_pooling"),
)
HARDWARE = Hardware(threads=4)


def test_names_of_all_sketches(golden: Callable[[str, str], None]) -> None:
    lines = []
    for name, make in LARGE.items():
        sketches = generate_sketches(make(), HARDWARE)
        lines.append(f"{name}: {len(sketches)}")
        lines += [f"  {sketch.name or 'plain'}" for sketch in sketches]
    golden("sketch_names", "\n".join(lines) + "\n")


def _kinds(sketch: Sketch, seed: int = 0) -> set[str]:
    nest = follow(sketch, sketch.random(1, np.random.default_rng(seed)))
    return {loop.annotation for stage in nest.stages for loop in stage.loops}


def _is_tiled(sketch: Sketch) -> bool:
    nest = follow(sketch, sketch.random(1, np.random.default_rng(0)))
    return any(loop.level >= 2 for stage in nest.stages for loop in stage.loops)


@pytest.mark.parametrize("name", ANCHORED)
def test_programs_with_reuse_are_tiled_vectorised_and_parallel(name: str) -> None:
    for sketch in generate_sketches(LARGE[name](), HARDWARE):
        assert {"parallel", "vectorize", "unroll"} <= _kinds(sketch)
        assert _is_tiled(sketch)


@pytest.mark.parametrize("name", UNLISTED)
def test_programs_that_no_list_mentions_are_tiled_and_vectorised(name: str) -> None:
    for sketch in generate_sketches(SMALL[name](), HARDWARE):
        assert "vectorize" in _kinds(sketch)
        assert _is_tiled(sketch)


@pytest.mark.parametrize("name", SMALL)
def test_sketches_are_few_and_legal(name: str) -> None:
    """Every row of every sketch can be followed, and no knob is empty."""
    sketches = generate_sketches(SMALL[name](), HARDWARE)
    assert 1 <= len(sketches) <= MOST_SKETCHES
    for sketch in sketches:
        assert all(len(knob.choices) > 0 for knob in sketch.knobs)
        assert len({knob.name for knob in sketch.knobs}) == len(sketch.knobs)
        follow(sketch, sketch.random(64, np.random.default_rng(0)))
        corners = np.stack([np.zeros_like(sketch.sizes), sketch.sizes - 1]).astype(np.int32)
        follow(sketch, corners)


@pytest.mark.parametrize("name", SMALL)
def test_the_default_is_a_candidate_of_the_first_sketch(name: str) -> None:
    dag = SMALL[name]()
    first = generate_sketches(dag, HARDWARE)[0]
    steps = default_steps(dag, HARDWARE)
    assert [type(s) for s in steps] == [type(s) for s in first.steps]
    assert steps == default_steps(dag, HARDWARE)


def test_sketches_do_not_depend_on_names_of_tensors() -> None:
    """Two layers that compute the same get the same sketches."""
    one, two = w.conv2d(1, 14, 14, 8, 32, 3, 1, 1).dag, w.conv2d(1, 14, 14, 8, 32, 3, 1, 1).dag
    assert [s.steps for s in generate_sketches(one, HARDWARE)] == [
        s.steps for s in generate_sketches(two, HARDWARE)
    ]


def test_a_user_rule_comes_first() -> None:
    """A table with a rule in front: its answer wins over all that follow."""
    seen = []

    def note(draft, stage, hardware):  # type: ignore[no-untyped-def]
        seen.append(stage.name)
        return None

    table = RuleTable((note, *CPU_RULES.rewrites), CPU_RULES.placements)
    dag = SMALL["matmul"]()
    sketches = generate_sketches(dag, HARDWARE, table)
    assert [s.steps for s in sketches] == [s.steps for s in generate_sketches(dag, HARDWARE)]
    assert set(dag.by_name) <= set(seen)


def test_effective_steps_of_a_corner_are_clipped() -> None:
    """The largest choices of a small program stop at its extents."""
    sketch = generate_sketches(SMALL["matmul"](), HARDWARE)[0]
    row = (sketch.sizes - 1).astype(np.int32)
    for step in effective_steps(sketch, row):
        factors = getattr(step, "factors", ())
        assert all(1 <= f <= 64 for f in factors)
