"""Features of hand-made programs: values that can be counted by hand, and properties of all."""

from __future__ import annotations

import numpy as np
import pytest
from followed_nests import Tensor, chain, loop, program, rows
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cost_model.extract import features
from cost_model.features import ACCESSES, COLUMN
from schedules.hardware import Hardware
from schedules.nest import AccessNest, ProgramNest, StageNest

HARDWARE = Hardware(threads=2)


def one(*extents: int) -> NDArray[np.int64]:
    return np.array(extents, dtype=np.int64)


def product(
    m: tuple[int, int] = (4, 6), n: tuple[int, int] = (2, 32), k: int = 64, threads: int = 2
) -> dict[str, float]:
    """Features of one tiled product with ``m[1] x n[1]`` in registers, logarithms undone."""
    loops = [
        loop("c", "m", 0, one(m[0]), "parallel"),
        loop("c", "n", 0, one(n[0])),
        loop("c", "k", 0, one(k)),
        loop("c", "m", 1, one(m[1]), "unroll"),
        loop("c", "n", 1, one(n[1]), "vectorize"),
    ]
    tensors = [
        Tensor("c", "update", ("m", "n")),
        Tensor("a", "read", ("m", "k")),
        Tensor("b", "read", ("k", "n")),
    ]
    nest = ProgramNest(1, (chain("c", loops, tensors, mad=1),))
    row = features(nest, Hardware(threads=threads))[0, 0].astype(np.float64)
    return {name: float(2 ** row[i] - 1) for name, i in COLUMN.items()}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("float_mad", 4 * 6 * 2 * 32 * 64),
        ("int_mad", 0),
        ("vectorize_product", 32),
        ("vectorize_inner_spatial", 1),
        ("unroll_number", 1),
        ("parallel_outer_spatial", 1),
        ("iterations", 4 * 6 * 2 * 32 * 64),
        ("loops", 5),
        ("redundancy", 16),
        ("tile_iterations", 6 * 32),
        ("accumulators", 6 * 2),
        ("accumulator_share", 6),
        ("loads_vector", 2),
        ("loads_broadcast", 6),
        ("loads_gather", 0),
        ("spilled", 0),
        ("reduction_chain", 64),
        ("latency_factor", 16),
        ("vector_waste", 0),
        ("tasks", 4),
        ("imbalance", 16),
        ("threads", 2),
        ("program_statements", 1),
    ],
)
def test_a_register_tile_is_seen_as_it_is(name: str, value: float) -> None:
    assert product()[name] == pytest.approx(value, rel=1e-4)


def test_a_tile_beyond_the_registers_spills() -> None:
    assert product(m=(1, 24))["spilled"] == pytest.approx(24 * 2 + 2 - 32, rel=1e-4)


def test_few_accumulators_wait_for_the_fma() -> None:
    assert product(m=(24, 1), n=(4, 16))["latency_factor"] == pytest.approx(16 * 6, rel=1e-4)


def test_three_tasks_on_two_threads_leave_one_idle() -> None:
    assert product(m=(3, 6))["imbalance"] == pytest.approx(16 * 4 / 3, rel=1e-4)


def test_more_threads_shorten_the_estimate() -> None:
    assert product(threads=4)["compute_cycles"] < product(threads=2)["compute_cycles"]


def test_a_partly_filled_vector_wastes_lanes() -> None:
    assert product(n=(2, 24))["vector_waste"] == pytest.approx(16 * 8 / 32, rel=1e-4)


def test_the_invariant_loop_is_the_reuse() -> None:
    row = product()
    read = next(i for i in range(ACCESSES) if row[f"access{i}_vector_broadcast"] > 0.5)
    assert row[f"access{read}_reuse_loop"] == pytest.approx(1)
    assert row[f"access{read}_reuse_count"] == pytest.approx(32, rel=1e-4)


def test_what_is_read_elsewhere_is_a_serial_reuse() -> None:
    described = features(program(np.random.default_rng(0), 4), HARDWARE)
    flags = [described[:, 1, COLUMN[f"access{i}_reuse_serial"]] for i in range(ACCESSES)]
    assert (np.sum(flags, axis=0) == 1).all()


def test_missing_accesses_are_zero() -> None:
    described = features(program(np.random.default_rng(0), 4), HARDWARE)
    unused = [i for name, i in COLUMN.items() if name.startswith(f"access{ACCESSES - 1}_")]
    assert not described[:, :, unused].any()


def test_a_statement_without_loops_has_features() -> None:
    single = np.ones((2, 1), dtype=np.int64)
    write = AccessNest("c", "write", 4, 4 * single[:, 0], single, single, single[:, :0])
    scalar = StageNest("c", (), (write,), {}, True, single[:, 0], 0)
    assert np.isfinite(features(ProgramNest(2, (scalar,)), HARDWARE)).all()


@given(seed=st.integers(0, 2**32), n=st.integers(1, 9), size=st.sampled_from([1, 2, 32, 1024]))
@settings(max_examples=30, deadline=None)
def test_features_are_finite(seed: int, n: int, size: int) -> None:
    nest = program(np.random.default_rng(seed), n, size)
    assert np.isfinite(features(nest, HARDWARE)).all()


@given(seed=st.integers(0, 2**32), n=st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_the_order_of_candidates_does_not_matter(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    nest, order = program(rng, n), rng.permutation(n)
    np.testing.assert_allclose(
        features(rows(nest, order), HARDWARE), features(nest, HARDWARE)[order], rtol=1e-5
    )


@given(seed=st.integers(0, 2**32), n=st.integers(2, 9))
@settings(max_examples=30, deadline=None)
def test_a_batch_of_one_is_a_row_of_the_batch(seed: int, n: int) -> None:
    nest = program(np.random.default_rng(seed), n)
    alone = features(rows(nest, np.array([n - 1])), HARDWARE)
    np.testing.assert_allclose(alone, features(nest, HARDWARE)[n - 1 :], rtol=1e-5, atol=1e-6)
