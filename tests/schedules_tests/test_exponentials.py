"""exp(x - m) beside a maximum: one factor a row may err, nothing else; what is masked stays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ansor_lite.target import native
from schedules.dag import REDUCE, ComputeDAG, IterAxis, Stage, Tensor
from schedules.expr import Axis, Call, Read
from schedules.lower import PIPELINE, lower
from schedules.steps import Annotate, Tile

ROWS, COLUMNS = 8, 64
UNIT = 2.0**-23
LOWEST = float(np.finfo(np.float32).min)


def shares(combiner: str = "max") -> ComputeDAG:
    """``exp(x - m) / sum exp(x - m)``, ``m`` what ``combiner`` makes of the row."""
    i, j, k = IterAxis("i", ROWS), IterAxis("j", COLUMNS), IterAxis("j", COLUMNS, REDUCE)
    x = Read("x", (Axis("i"), Axis("j")), "float32")
    most = Read("most", (Axis("i"),), "float32")
    power = Read("power", (Axis("i"), Axis("j")), "float32")
    body = Call("exp", (Call("sub", (x, most), "float32"),), "float32")
    stages = (
        Stage("most", (i, k), x, "float32", combiner),
        Stage("power", (i, j), body, "float32"),
        Stage("total", (i, k), power, "float32", "sum"),
        Stage(
            "share",
            (i, j),
            Call("div", (power, Read("total", (Axis("i"),), "float32")), "float32"),
            "float32",
        ),
    )
    return ComputeDAG((Tensor("x", (ROWS, COLUMNS), "float32"),), stages, ("share",))


VECTORS = (Tile("power", "j", (16,)), Annotate("power", ("j.1",), "vectorize"))


def built(dag: ComputeDAG, target: tvm.target.Target) -> Any:
    function = lower(dag, VECTORS, native(1).hardware()).func
    return tvm.tirx.build(function, target=target, pipeline=PIPELINE)


@pytest.fixture(scope="module")
def normalised() -> Any:
    """The program of this CPU as a function of ``x``."""
    program = built(shares(), native(1).tvm())["main"]

    def run(x: NDArray[np.float32]) -> NDArray[np.float32]:
        result = tvm.runtime.empty(x.shape, "float32")
        program(tvm.runtime.tensor(x), result)
        return np.asarray(result.numpy())

    return run


def true_shares(x: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = x.astype(np.float64)
    powers = np.exp(wide - wide.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.01, 1.0, 8.0, 60.0]),
    st.sampled_from([0.0, 0.7, -37.5, 1e4, -3e7, 1e30]),
)
def test_shares_are_as_close_as_rounded_differences_allow(
    normalised: Any, seed: int, width: float, offset: float
) -> None:
    """Within 3.5 units and the distance from the maximum, twice: of the share and of the sum."""
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((ROWS, COLUMNS)) * width + offset).astype(np.float32)
    true = true_shares(x)
    distance = x.max(axis=1, keepdims=True).astype(np.float64) - x
    mean = (true * distance).sum(axis=1, keepdims=True)
    allowed = (2 * 3.5 + 2 + 8 + distance + mean) * UNIT * true + 2.0**-140
    assert (np.abs(normalised(x) - true) <= allowed).all()


@pytest.mark.parametrize("hidden", [-np.inf, LOWEST, -1e30, -1e20, -1e9])
def test_what_is_masked_has_no_share_and_a_row_of_it_equal_ones(
    normalised: Any, hidden: float
) -> None:
    x = np.random.default_rng(0).standard_normal((ROWS, COLUMNS)).astype(np.float32)
    x[0, 3:] = x[1] = hidden
    found = normalised(x)
    assert (found[0, 3:] == 0).all() and abs(found[0].sum() - 1) < 1e-6
    same = np.full(COLUMNS, np.nan if np.isinf(hidden) else 1 / COLUMNS)
    np.testing.assert_allclose(found[1], same, rtol=1e-6)


@pytest.mark.parametrize("odd", [np.nan, -np.nan, np.inf])
def test_nan_and_infinity_make_a_row_of_nan(normalised: Any, odd: float) -> None:
    x = np.zeros((ROWS, COLUMNS), np.float32)
    x[2, 5] = odd
    found = normalised(x)
    assert np.isnan(found[2]).all() and not np.isnan(np.delete(found, 2, axis=0)).any()


def multiplications(combiner: str) -> int:
    target = tvm.target.Target({"kind": "llvm", "mcpu": "skylake-avx512"})
    text = str(built(shares(combiner), target).inspect_source("s"))
    return sum(
        "zmm" in line and ("vmulps" in line or "vfm" in line or "vfn" in line)
        for line in text.splitlines()
    )


def test_only_beside_a_maximum_may_the_factor_err() -> None:
    """Nothing bounds what is taken off a sum, and no row is normalised by it."""
    assert multiplications("max") < multiplications("sum")


def test_other_vectors_and_machines_get_the_difference() -> None:
    text = str(built(shares(), tvm.target.Target({"kind": "llvm"})).inspect_source("ll"))
    assert "scalef" not in text and "expf" not in text
