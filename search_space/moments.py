"""The rule for mean and variance: one pass over the data, or two. Read ``schedules/moments.py``.

Separate from ``rewriting.py`` because it changes rounding, and ``--exact`` leaves it out.
"""

from __future__ import annotations

from schedules.dag import Stage
from schedules.hardware import Hardware
from schedules.moments import squares_around_mean
from schedules.steps import ShiftedMoments
from search_space.analysis import dtype_bytes_of
from search_space.draft import Draft

# One element of so many, if there are as many beside each other, makes the guess of a mean.
SHARE = 64


def rule_shifted_moments(
    draft: Draft, stage: Stage, hardware: Hardware
) -> tuple[Draft, ...] | None:
    """Add up squares around a guess beside the sum itself, or around the mean behind it."""
    settled = f"{stage.name}.moments"
    if settled in draft.settled or "." in stage.name:
        return None
    found = squares_around_mean(draft.current, stage)
    if found is None:
        return None
    vector, last = hardware.lanes(dtype_bytes_of(stage)), stage.reduce[-1].extent
    if found.count < 2 * vector:
        return None
    points = min(last, max(vector, found.count // SHARE // vector * vector))
    plain = draft.settle(settled)
    return plain, plain.rewrite(ShiftedMoments(stage.name, points), label="moments")
