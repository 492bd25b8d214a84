"""The kernels behind "share of peak" touch every byte that they claim."""

from __future__ import annotations

import pytest

from ansor_lite.measure.peak import READ_SUMS, copy_run, read_run
from ansor_lite.target import native

TARGET = native(threads=1)


@pytest.mark.parametrize("size", [1, 30_000, 3_000_000])
def test_sizes_are_met_but_for_a_step_of_every_chunk(size: int) -> None:
    for run, moved in (copy_run(TARGET, size // 2), read_run(TARGET, size)[:2]):
        run()
        step = 64 * READ_SUMS * TARGET.vector_bytes
        assert size - step < moved <= max(size, step)


def test_a_read_adds_up_every_element() -> None:
    import tvm

    from ansor_lite.measure import peak

    lanes, chunks, chunk = 4, 2, 3 * 4 * READ_SUMS
    run = peak._build(peak.read_kernel(chunks, chunk, lanes), TARGET)
    source = peak._ones(chunks * chunk)
    sums = tvm.runtime.empty((chunks * READ_SUMS * lanes,), "float32")
    run(source, sums)
    assert sums.numpy().sum() == chunks * chunk
