"""What compiles a task without a record."""

from __future__ import annotations

import numpy as np
import pytest

from ansor_lite import workloads
from ansor_lite.first_guess import good_steps
from ansor_lite.tasks import Task
from cost_model.baseline import AnalyticModel
from cost_model.extract import features
from schedules.hardware import Hardware
from schedules.nest import follow
from schedules.sketch import closed
from schedules.steps import Step
from search_space.sketch_generation import default_steps

HARDWARE = Hardware(threads=2)
NO_KNOBS = np.zeros((1, 0), dtype=np.int32)


def score(task: Task, steps: tuple[Step, ...]) -> float:
    nest = follow(closed(task.dag, steps), NO_KNOBS)
    return float(AnalyticModel().predict(features(nest, HARDWARE))[0])


@pytest.mark.parametrize(
    "task",
    [
        workloads.matmul(196, 256, 1024),
        workloads.conv2d(n=1, h=14, w=14, ci=64, co=96, kernel=3, stride=1, padding=1),
    ],
    ids=lambda t: t.name.split()[0],
)
def test_the_guess_is_estimated_better_than_the_default_and_always_the_same(task: Task) -> None:
    guess = good_steps(task.dag, HARDWARE)
    assert score(task, guess) > score(task, default_steps(task.dag, HARDWARE))
    assert guess == good_steps(task.dag, HARDWARE)


def test_a_program_without_an_anchor_keeps_its_default() -> None:
    task = workloads.softmax(64, 128)
    assert good_steps(task.dag, HARDWARE) == default_steps(task.dag, HARDWARE)
