"""What a compiled network does: a list of kernel calls on tensors at fixed places.

Nothing here knows TVM. ``flatten.py`` writes programs, ``executor.py`` runs them, the manifest of a
compiled module stores them. Places are planned once, so a run allocates nothing but its results.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# Kernels assume that every tensor starts at a multiple of this many bytes.
ALIGNMENT = 64

# The compiled function that makes all calls of a program, and how much of its table of int64 words
# one operand of a call takes.
DRIVER = "main"
INT64_WORD = 8
WORDS_PER_OPERAND = 2

INPUT, OUTPUT, WEIGHT, ARENA = "input", "output", "weight", "arena"


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor that kernels see. ``at``: position of the input, output or weight it lies in, or
    the byte of the arena where it starts. Several values may share a place (reshapes).
    """

    space: str
    at: int
    shape: tuple[int, ...]
    dtype: str

    @property
    def bytes(self) -> int:
        return tensor_bytes(self.shape, self.dtype)


@dataclass(frozen=True, slots=True)
class Call:
    """One kernel call. ``operands``: positions in ``Program.values``, what it writes last."""

    symbol: str
    operands: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Weight:
    """A constant; ``offset`` in bytes from where the weights of the network start in its file."""

    shape: tuple[int, ...]
    dtype: str
    offset: int


@dataclass(frozen=True, slots=True)
class Program:
    """``results``: for every output of the network, the value that holds it after the calls.

    ``input_alignments``: a multiple of which the address of each input must be; modules of before
    do not say, and assume ``ALIGNMENT``.
    """

    values: tuple[Value, ...]
    calls: tuple[Call, ...]
    results: tuple[int, ...]
    weights: tuple[Weight, ...]
    arena_bytes: int
    input_alignments: tuple[int, ...] = ()

    def may_lie_at(self, index: int, address: int) -> bool:
        """Whether kernels can read input ``index`` there."""
        return address % (self.input_alignments or (ALIGNMENT,) * (index + 1))[index] == 0

    @property
    def weight_bytes(self) -> int:
        return max((w.offset + tensor_bytes(w.shape, w.dtype) for w in self.weights), default=0)

    @staticmethod
    def from_json(value: Any) -> Program:
        """Inverse of ``dataclasses.asdict``, for the JSON form that a manifest stores."""
        return Program(
            tuple(Value(**{**v, "shape": tuple(v["shape"])}) for v in value["values"]),
            tuple(Call(c["symbol"], tuple(c["operands"])) for c in value["calls"]),
            tuple(value["results"]),
            tuple(Weight(**{**w, "shape": tuple(w["shape"])}) for w in value["weights"]),
            value["arena_bytes"],
            tuple(value.get("input_alignments", ())),
        )


@dataclass(frozen=True, slots=True)
class Lifetime:
    """A tensor of ``bytes`` that must stay from call ``first`` to call ``last``, both included."""

    bytes: int
    first: int
    last: int

    def overlaps(self, other: Lifetime) -> bool:
        return self.first <= other.last and other.first <= self.last


def tensor_bytes(shape: Sequence[int], dtype: str) -> int:
    return math.prod(shape) * np.dtype(dtype).itemsize


def aligned(size: int) -> int:
    """``size`` rounded up to ``ALIGNMENT``."""
    return -(-size // ALIGNMENT) * ALIGNMENT


# Which tensor is placed first: the largest, the one that takes most bytes for longest, the first
# to live. On the networks measured one of them comes to 1.0-1.13 times what is alive at once.
ORDERS: tuple[Callable[[Lifetime], tuple[int, ...]], ...] = (
    lambda t: (-t.bytes,),
    lambda t: (-t.bytes * (t.last - t.first + 1),),
    lambda t: (t.first, -t.bytes),
)


def plan_memory(lifetimes: Sequence[Lifetime]) -> tuple[list[int], int]:
    """An offset for each tensor, and the bytes of the arena that holds them all.

    Tensors that live at the same time never overlap. The smallest of the plans by ``ORDERS``.
    """
    plans = [_placed_in(order, lifetimes) for order in ORDERS]
    return min(plans, key=lambda plan: plan[1])


def _placed_in(
    order: Callable[[Lifetime], tuple[int, ...]], lifetimes: Sequence[Lifetime]
) -> tuple[list[int], int]:
    """Each at the lowest offset that is free while it lives (greedy, Pisarchyk and Lee 2020)."""
    offsets = [0] * len(lifetimes)
    placed: list[int] = []
    for index in sorted(range(len(lifetimes)), key=lambda i: (order(lifetimes[i]), i)):
        mine = lifetimes[index]
        taken = sorted(
            (offsets[i], offsets[i] + aligned(lifetimes[i].bytes))
            for i in placed
            if mine.overlaps(lifetimes[i])
        )
        start = 0
        for low, high in taken:
            if start + mine.bytes <= low:
                break
            start = max(start, high)
        offsets[index] = start
        placed.append(index)
    ends = (o + aligned(t.bytes) for o, t in zip(offsets, lifetimes, strict=True))
    return offsets, max(ends, default=0)
