"""Hints that fetch ahead: they change no value, and stay inside the tensor."""

from __future__ import annotations

import numpy as np
from built import Case

from ansor_lite import workloads as w
from schedules.hardware import Hardware
from schedules.lower import lower
from schedules.lower.prefetch import AHEAD_BYTES
from schedules.nest import effective_steps
from schedules.steps import Annotate, Step
from search_space.sketch_generation import generate_sketches

SMALL_CACHE = Hardware(threads=2, l2_bytes=1024)


def _hinted(case: Case, seed: int) -> list[tuple[Step, ...]]:
    sketches = generate_sketches(case.dag, SMALL_CACHE)
    closed = [effective_steps(s, s.random(1, np.random.default_rng(seed))[0]) for s in sketches]
    return [c for c in closed if any(isinstance(s, Annotate) and s.kind == "prefetch" for s in c)]


def test_hints_change_no_value() -> None:
    case = Case(w.matmul(7, 93, 101, bias=True).dag, SMALL_CACHE)
    for seed in range(2):
        for steps in _hinted(case, seed):
            assert "llvm.prefetch" in lower(case.dag, steps, SMALL_CACHE).func.script()
            assert case.error(steps) < 1e-5


def test_a_constant_that_ends_before_the_hints_begin_has_none() -> None:
    case = Case(w.matmul(7, 16, AHEAD_BYTES // 64, bias=True).dag, SMALL_CACHE)
    for steps in _hinted(case, 0):
        assert "llvm.prefetch" not in lower(case.dag, steps, SMALL_CACHE).func.script()


def test_the_next_rows_are_fetched_while_these_are_computed() -> None:
    """The last ones of a tensor, odd in every way, again instead of what lies behind it."""
    case = Case(w.softmax(7, 197).dag, SMALL_CACHE)
    for sketch in generate_sketches(case.dag, SMALL_CACHE):
        for seed in range(2):
            row = sketch.random(1, np.random.default_rng(seed))[0]
            assert case.error(effective_steps(sketch, row)) < 1e-5
    (sketch, *_) = generate_sketches(w.softmax(64, 256).dag, SMALL_CACHE)
    hints = lower(sketch.dag, sketch.close(np.zeros(len(sketch.knobs), np.int32)), SMALL_CACHE)
    assert hints.func.script().count("llvm.prefetch") == 1
