"""Looking statements up changes nothing; reach says which of them may be looked up."""

from __future__ import annotations

import numpy as np
import pytest

from ansor_lite import workloads
from ansor_lite.tasks import Task
from cost_model.extract import features
from cost_model.sketch_features import SketchFeatures
from schedules.hardware import Hardware
from schedules.nest import follow
from schedules.reach import knobs_of, needed
from search_space.sketch_generation import generate_sketches

HARDWARE = Hardware(threads=2, vector_bytes=64, vector_registers=32)
TASKS = (
    workloads.conv2d(n=1, h=14, w=14, ci=32, co=32, kernel=3, stride=1, padding=1),
    workloads.matmul(m=48, n=64, k=96),
    workloads.depthwise_conv2d(n=1, h=14, w=14, c=32, kernel=3, stride=1, padding=1),
)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_features_are_those_of_the_followed_program(task: Task) -> None:
    for sketch in generate_sketches(task.dag, HARDWARE):
        extract = SketchFeatures(sketch, HARDWARE)
        for seed in range(2):
            rows = sketch.random(16, np.random.default_rng(seed))
            expected = features(follow(sketch, rows), HARDWARE)
            assert np.array_equal(extract(rows), expected), sketch.name


def test_a_stage_that_no_knob_reaches_is_the_same_in_every_row() -> None:
    fixed = 0
    for sketch in generate_sketches(TASKS[0].dag, HARDWARE):
        reach = knobs_of(sketch.plan)
        nest = follow(sketch, sketch.random(32, np.random.default_rng(0)))
        for stage in nest.stages:
            if not reach.get(stage.stage, {"a pack"}):
                fixed += 1
                assert all((a.touched == a.touched[0]).all() for a in stage.accesses)
                assert (stage.extents == stage.extents[0]).all()
    assert fixed


def test_a_stage_inside_another_needs_it() -> None:
    inside = 0
    for sketch in generate_sketches(TASKS[0].dag, HARDWARE):
        for stage in sketch.plan.stages:
            if stage.attached is not None:
                inside += 1
                assert stage.attached[0] in needed(sketch.plan, frozenset((stage.name,)))
    assert inside
