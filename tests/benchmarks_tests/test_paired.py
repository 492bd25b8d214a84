"""Ratios of neighbours in time, and how sure they are."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.paired import Ratio, geometric_mean_ratio, is_void, paired_ratio


def test_paired_ratios_do_not_see_a_drift_that_hits_both_sides() -> None:
    drift = np.linspace(1.0, 5.0, 31)
    noise = np.random.default_rng(0).normal(1.0, 0.01, 31)
    ratio = paired_ratio(list(1.25 * drift * noise), list(drift))
    assert ratio.median == pytest.approx(1.25, rel=0.01)
    assert ratio.minimum <= ratio.low <= ratio.median <= ratio.high <= ratio.maximum
    assert ratio.high - ratio.low < 0.03


def test_the_interval_widens_with_the_spread() -> None:
    rng = np.random.default_rng(0)
    quiet, loud = (list(rng.lognormal(0, s, 50)) for s in (0.01, 0.3))
    widths = [r.high - r.low for r in (paired_ratio(x, [1.0] * 50) for x in (quiet, loud))]
    assert widths[1] > 5 * widths[0]


def test_geometric_mean_of_opposite_ratios_is_one() -> None:
    total = geometric_mean_ratio([([0.5] * 5, [1.0] * 5), ([2.0] * 5, [1.0] * 5)])
    assert total.median == pytest.approx(1.0)
    assert (total.minimum, total.maximum) == pytest.approx((0.5, 2.0))


def test_rounds_must_pair() -> None:
    with pytest.raises(ValueError, match="2 and 1 rounds do not pair"):
        paired_ratio([1.0, 2.0], [1.0])


@pytest.mark.parametrize(("median", "void"), [(0.96, True), (0.98, False), (1.04, True)])
def test_a_control_out_of_range_voids_the_run(median: float, void: bool) -> None:
    assert is_void(Ratio(median, median, median, median, median)) is void
