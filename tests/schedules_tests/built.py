"""Builds a schedule for this CPU and runs it: what it computes, next to what it should."""

from __future__ import annotations

from typing import Any

import numpy as np
import programs
import tvm
from numpy.typing import NDArray

from ansor_lite.target import native
from schedules.dag import ComputeDAG
from schedules.evaluate import evaluate
from schedules.hardware import Hardware
from schedules.lower import PIPELINE, lower
from schedules.steps import Step


class Case:
    """A DAG with random inputs and its expected outputs; ``error`` runs one schedule."""

    def __init__(self, dag: ComputeDAG, hardware: Hardware) -> None:
        self.dag = dag
        self.hardware = hardware
        self.target = native(2).tvm()
        self.arrays = programs.random_inputs(dag)
        self.expected = evaluate(dag, self.arrays)

    def error(self, steps: tuple[Step, ...]) -> float:
        """Largest difference of any output, relative to its largest element."""
        outputs = self.run(steps)
        return max(_distance(outputs[name], self.expected[name]) for name in self.dag.outputs)

    def run(self, steps: tuple[Step, ...]) -> dict[str, NDArray[Any]]:
        lowered = lower(self.dag, steps, self.hardware)
        function = tvm.tirx.build(lowered.func, self.target, pipeline=PIPELINE)["main"]
        inputs = [
            lowered.packs[name].apply(array) if name in lowered.packs else array
            for name, array in self.arrays.items()
        ]
        outputs = {
            name: tvm.runtime.tensor(np.full(self.dag.shape_of(name), np.nan, np.float32))
            for name in self.dag.outputs
        }
        function(*(tvm.runtime.tensor(a) for a in inputs), *outputs.values())
        return {name: tensor.numpy() for name, tensor in outputs.items()}


def _distance(actual: NDArray[Any], expected: NDArray[Any]) -> float:
    scale = float(np.abs(expected).max()) or 1.0
    worst = float(np.abs(actual - expected).max())
    return worst / scale if np.isfinite(worst) else float("inf")
