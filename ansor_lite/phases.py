"""Transposed convolution as small ordinary ones: which tap meets which input at which output.

With stride ``s`` an output position is ``s * q + r``; the outputs of one phase ``r`` are an
ordinary convolution with every ``s``-th tap, and no product meets an inserted zero. Plain numbers
and numpy: ``layers.py`` writes the stages, ``graph/convolutions.py`` reorders a network's weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

NO_TAP = -1
# With two phases, those that start one input later are all but the first: an affine index.
AFFINE_PHASES = 2


@dataclass(frozen=True, slots=True)
class Phases:
    """One dimension: ``out[count * q + r] = sum over d of x[q + shift * r + d - before] * w[tap]``.

    ``tap`` is ``taps[r][d]``, or nothing is added where it is ``NO_TAP``; ``x`` is zero outside.
    The result is the ``extent`` elements from ``start`` on.
    """

    blocks: int
    taps: tuple[tuple[int, ...], ...]
    shift: int
    before: int
    start: int
    extent: int

    @property
    def count(self) -> int:
        return len(self.taps)

    @property
    def window(self) -> int:
        return len(self.taps[0])

    @property
    def reach(self) -> int:
        """One more than the largest ``q + shift * r + d``."""
        return self.blocks + self.shift * (self.count - 1) + self.window - 1

    @property
    def is_whole(self) -> bool:
        """The phases hold the result and nothing else."""
        return self.blocks * self.count == self.extent


def phases(size: int, kernel: int, stride: int, before: int, extent: int) -> Phases:
    """Phases of a dimension of ``size`` inputs; ``before`` outputs cut off, ``extent`` left.

    A single input meets every tap once: then each output is a phase of its own. Where ``before`` is
    no multiple of more than two phases, up to ``stride - 1`` outputs too many are computed.
    """
    if size == 1:
        single = tuple((_tap(before + r, kernel),) for r in range(extent))
        return Phases(1, single, 0, 0, 0, extent)
    skipped, rest = divmod(before, stride)
    shift = 1 if rest and stride == AFFINE_PHASES else 0
    start = 0 if shift else rest
    window = -(-kernel // stride)
    taps = tuple(
        tuple(
            _tap((r + rest - start) % stride + stride * j, kernel) for j in reversed(range(window))
        )
        for r in range(stride)
    )
    return Phases(-(-(extent + start) // stride), taps, shift, window - 1 - skipped, start, extent)


def _tap(position: int, kernel: int) -> int:
    return position if position < kernel else NO_TAP


def phase_weights(weight: NDArray[Any], dimensions: Sequence[Phases]) -> NDArray[Any]:
    """``[kernel..., ci, co]`` as ``[phase, d, phase, d, ..., ci, co]``, zero where no tap is."""
    for axis, dimension in enumerate(dimensions):
        widths = [(0, 1 if a == 2 * axis else 0) for a in range(weight.ndim)]
        weight = np.take(np.pad(weight, widths), np.array(dimension.taps), axis=2 * axis)
    return weight


def in_channels(
    weight: NDArray[Any], dimension: Phases, channels: int
) -> tuple[NDArray[Any], Phases]:
    """The phases of the last dimension as channels, each of ``channels`` (zeros are added).

    ``weight``: ``[..., phase, d, ci, co]`` becomes ``[..., 1, d', ci, phase * channels]``. All
    phases read the same window, which multiplies zeros, but fills vectors where channels are few.
    """
    count, window, inputs, outputs = weight.shape[-4:]
    reach = window + dimension.shift * (count - 1)
    wide = np.zeros((*weight.shape[:-4], 1, reach, inputs, count, channels), weight.dtype)
    for r in range(count):
        at = dimension.shift * r
        wide[..., 0, at : at + window, :, r, :outputs] = weight[..., r, :, :, :]
    taps = (tuple(range(reach)),)
    single = Phases(dimension.blocks, taps, 0, dimension.before, 0, dimension.blocks)
    return wide.reshape(*wide.shape[:-2], count * channels), single
