"""The short list of passes is enough for plain nests, too; ``built.py`` tries it on schedules."""

from __future__ import annotations

import numpy as np
import programs
import pytest
import tvm
from small_tasks import SMALL

from schedules.evaluate import evaluate
from schedules.lower import PIPELINE
from schedules.to_tir import to_tir


@pytest.mark.parametrize("name", ("conv2d", "softmax", "max_pool"))
def test_plain_nests_compute_their_program(name: str) -> None:
    dag = SMALL[name]()
    inputs = programs.random_inputs(dag)
    outputs = [
        tvm.runtime.tensor(np.full(dag.shape_of(n), np.nan, np.float32)) for n in dag.outputs
    ]
    function = tvm.tirx.build(to_tir(dag), target="llvm", pipeline=PIPELINE)["main"]
    function(*(tvm.runtime.tensor(array) for array in inputs.values()), *outputs)
    for found, expected in zip(outputs, evaluate(dag, inputs).values(), strict=False):
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)
