"""Chunked rows: what a block keeps does not grow with the length of the rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from brute_force import disagreements
from built import Case
from small_tasks import HARDWARE

from ansor_lite import workloads
from schedules.dag import ComputeDAG
from schedules.hardware import Hardware
from schedules.nest import effective_steps, follow
from schedules.sketch import Sketch
from schedules.steps import Chunk, ComputeAt, StoreAt
from search_space.chunked_rows import USUAL_ROWS
from search_space.sketch_generation import generate_sketches

TINY = replace(HARDWARE, l2_bytes=4096)


def _chunked(dag: ComputeDAG, hardware: Hardware) -> Sketch:
    (found,) = (s for s in generate_sketches(dag, hardware) if "chunked-rows" in s.name)
    return found


@pytest.mark.parametrize("layout", ["bhsd", "bshd"])
def test_the_program_is_as_followed_and_right(layout: str) -> None:
    dag = workloads.attention(2, 37, 256, 19, layout=layout).dag
    sketch = _chunked(dag, TINY)
    rows = sketch.random(3, np.random.default_rng(0))
    found = disagreements(sketch, rows, TINY)
    assert not found, found[0]
    case = Case(dag, TINY)
    for row in rows:
        assert case.error(effective_steps(sketch, row)) < 1e-5


def test_a_chunk_is_computed_inside_the_sum_of_parts() -> None:
    sketch = _chunked(workloads.attention(2, 37, 256, 19).dag, TINY)
    places = {s.stage: (s.target, s.loop) for s in sketch.steps if isinstance(s, ComputeAt)}
    part = ("attended.undivided.part", "j.chunk.0")
    inside = ("scaled", "powers.part", "peak.part", "total.part", "peak.part.acc")
    assert {places[name] for name in inside} == {part}
    block = {places[name] for name in ("peak", "peak.weight", "total", part[0], "scores.operand")}
    assert len(block) == 1
    kept = {s.stage: (s.target, s.loop) for s in sketch.steps if isinstance(s, StoreAt)}
    assert set(kept) == {"peak.part", "total.part"}
    assert set(kept.values()) == block


@pytest.mark.parametrize("keys", [8192, 16384, 24576])
def test_what_a_block_needs_of_a_chunk_takes_about_half_of_the_cache(keys: int) -> None:
    sketch = _chunked(workloads.attention(2, 768, keys, 64).dag, HARDWARE)
    (length,) = (s.length for s in sketch.steps if isinstance(s, Chunk))
    assert 0.3 < length * USUAL_ROWS * 4 / HARDWARE.l2_bytes < 0.7


def test_what_is_kept_grows_slower_than_the_rows() -> None:
    def kept(keys: int) -> int:
        sketch = _chunked(workloads.attention(2, 64, keys, 64).dag, HARDWARE)
        row = np.array([sketch.random(1, np.random.default_rng(0))[0]])
        return int(sum(stage.allocated_bytes[0] for stage in follow(sketch, row).stages))

    assert kept(65536) < 3 * kept(16384)


def test_refuses_because_a_mask_ends_the_rows() -> None:
    dag = workloads.attention(2, 64, 16384, 64, causal=True).dag
    assert not any("chunk" in s.name for s in generate_sketches(dag, HARDWARE))


@pytest.mark.parametrize("keys", [1024, 16381])
def test_refuses_because_rows_fit_or_are_no_chunks(keys: int) -> None:
    sketches = generate_sketches(workloads.attention(2, 64, keys, 64).dag, HARDWARE)
    assert not any("chunk" in s.name for s in sketches)
