"""Some rows of an output are those of the whole."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
from small_tasks import SMALL

from ansor_lite import workloads
from ansor_lite.tasks import Task
from schedules.dag import ComputeDAG
from schedules.evaluate import evaluate
from schedules.sampled import sampled


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("name", list(SMALL))
def test_rows_are_those_of_the_whole(name: str, share: float) -> None:
    dag = SMALL[name]()
    sample = sampled(dag, share)
    if sample is None:
        assert len(dag.outputs) > 1 or not dag.stage(dag.outputs[0]).spatial
        return
    rng = np.random.default_rng(0)
    arrays = {t.name: rng.random(t.shape, dtype=np.float32) + 0.5 for t in dag.inputs}
    (whole,) = evaluate(dag, arrays).values()
    (part,) = evaluate(sample.dag, arrays).values()
    np.testing.assert_allclose(part, whole.take(sample.rows, sample.dimension), rtol=1e-5)


def _work(dag: ComputeDAG) -> int:
    return Task("", dag).flop


@pytest.mark.parametrize("layout", ["bhsd", "bshd"])
def test_what_leads_to_the_rows_is_cut_too(layout: str) -> None:
    dag = workloads.attention(2, 400, depth=8, causal=True, layout=layout).dag
    sample = sampled(dag, 0.1)
    assert sample is not None and sample.rows[-1] == 399
    assert _work(sample.dag) < 0.11 * _work(dag)
    assert max(prod(s.shape) for s in sample.dag.stages) == 2 * 40 * 400
