"""Chunks of exponentials: the same values, whatever the length, the mask and the infinities."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import programs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_tasks import SMALL

from ansor_lite import workloads
from schedules.dag import ComputeDAG
from schedules.errors import ScheduleError
from schedules.evaluate import evaluate
from schedules.rewrites import apply_rewrites
from schedules.steps import Chunk, DivideLate, Permute, Step

LATE = DivideLate("attended")


def _chunked(dag: ComputeDAG, length: int, *steps: Step) -> ComputeDAG:
    (axis,) = dag.stage("attended").reduce
    return apply_rewrites(dag, (LATE, *steps, Chunk("attended.undivided", axis.name, length)))


@given(
    chunks=st.integers(2, 4),
    length=st.integers(2, 5),
    rows=st.integers(1, 7),
    causal=st.booleans(),
    lanes=st.booleans(),
)
def test_values_stay(chunks: int, length: int, rows: int, causal: bool, lanes: bool) -> None:
    dag = workloads.attention(2, rows, chunks * length, 3, causal=causal).dag
    swapped = [Permute(name, ("b", "h", "j", "i")) for name in ("powers", "scores") if lanes]
    rewritten = _chunked(dag, length, *swapped)
    arrays = programs.random_inputs(dag)
    before, after = evaluate(dag, arrays), evaluate(rewritten, arrays)
    for name in dag.outputs:
        np.testing.assert_allclose(after[name], before[name], rtol=1e-4, atol=1e-6)


def test_a_chunk_needs_nothing_of_another() -> None:
    rewritten = _chunked(workloads.attention(2, 5, 12, 3).dag, 4)
    names = [stage.name for stage in rewritten.stages]
    parts = ["peak.part", "powers.part", "total.part", "attended.undivided.part"]
    assert [n for n in names if n.endswith(".part")] == parts
    assert names.index("peak") > names.index(parts[-1])
    for name in parts:
        stage = rewritten.stage(name)
        assert [a.extent for a in stage.spatial if a.name.endswith(".chunk")] == [3]
        assert all(a.extent <= 4 for a in stage.reduce)


def test_chunks_of_nothing_but_minus_infinity() -> None:
    dag = workloads.attention(1, 2, 12, 3).dag
    arrays = programs.random_inputs(dag)
    arrays["k"][:] = np.abs(arrays["k"])
    arrays["q"][:] = np.abs(arrays["q"])
    arrays["k"][..., 4:8, :] = -np.inf
    rewritten = _chunked(dag, 4)
    before, after = evaluate(dag, arrays), evaluate(rewritten, arrays)
    assert np.isfinite(before[dag.outputs[0]]).all()
    np.testing.assert_allclose(after[dag.outputs[0]], before[dag.outputs[0]], rtol=1e-5)


REFUSED: dict[str, tuple[Step, ...]] = {
    "there is no such stage": (Chunk("nobody", "j", 4),),
    "shares are no exponentials": (Chunk("attended", "j", 4),),
    "another axis": (LATE, Chunk("attended.undivided", "d", 4)),
    "a remainder": (LATE, Chunk("attended.undivided", "j", 5)),
    "one chunk": (LATE, Chunk("attended.undivided", "j", 12)),
    "twice": (
        LATE,
        Chunk("attended.undivided", "j", 6),
        Chunk("attended.undivided.part", "j", 3),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_because(name: str) -> None:
    with pytest.raises(ScheduleError, match="chunk of"):
        apply_rewrites(workloads.attention(2, 5, 12, 3).dag, REFUSED[name])


def test_refuses_because_all_exponentials_are_wanted() -> None:
    dag = SMALL["attention"]()
    dag = replace(dag, outputs=(*dag.outputs, "powers"))
    (axis,) = dag.stage("attended").reduce
    with pytest.raises(ScheduleError, match="no normalised exponentials"):
        _chunked(dag, axis.extent)
