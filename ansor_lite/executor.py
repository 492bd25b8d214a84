"""Runs a ``Program``: its tensors are laid out once, and a run is one call into machine code.

Read ``program.py`` first. A run writes the addresses of its inputs and results into the table of
calls and calls the driver, which makes all calls of kernels without coming back to Python.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ansor_lite import runtime_library as native
from ansor_lite.call_table import CallTable, address
from ansor_lite.memory import aligned_empty, arena
from ansor_lite.program import (
    ARENA,
    DRIVER,
    INPUT,
    OUTPUT,
    WEIGHT,
    Program,
    Value,
)

Array = NDArray[Any]


class Code(Protocol):
    """Where compiled functions come from."""

    def function(self, name: str) -> native.Handle: ...


class Executor:
    """A program with its memory. One run at a time, which is the caller's care."""

    def __init__(self, program: Program, code: Code, weights: Sequence[Array]) -> None:
        """``weights``: aligned arrays in the order of ``program.weights``."""
        self._program = program
        self._code = code
        self._weights = weights
        self._arena = arena(program.arena_bytes)
        self._table = CallTable(program, self._address)
        self._driver = code.function(DRIVER)
        self._kernels: dict[str, native.Handle] = {}
        self._staged: dict[int, Array] = {}
        self._places = {
            (space, at): [i for i, v in enumerate(program.values) if (v.space, v.at) == (space, at)]
            for space, at in {(v.space, v.at) for v in program.values}
            if space in (INPUT, OUTPUT)
        }

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """Fresh arrays, one per output. ``inputs``: contiguous, of the right shapes and dtypes."""
        results = self._bind(inputs)
        native.call(self._driver.address, self._table.driver_arguments, 1)
        return [
            self._copied(position, inputs, results) if result is None else result
            for position, result in zip(self._program.results, results, strict=True)
        ]

    def timed_run(self, inputs: Sequence[Array]) -> list[tuple[str, float]]:
        """One run, call by call: the symbol of each kernel and its seconds."""
        bound = self._bind(inputs)
        times = []
        for call, arguments in zip(self._program.calls, self._table.call_arguments(), strict=True):
            function, count = self._kernel(call.symbol), len(call.operands)
            start = time.perf_counter()
            native.call(function.address, arguments, count)
            times.append((call.symbol, time.perf_counter() - start))
        del bound  # the memory that the results went to
        return times

    def timer_seconds(self, samples: int = 50) -> float:
        """What :meth:`timed_run` adds to the time of every call."""
        empty = native.global_function("runtime.NumThreads")
        seconds = []
        for _ in range(samples):
            start = time.perf_counter()
            native.call(empty.address, self._table.driver_arguments, 0)
            seconds.append(time.perf_counter() - start)
        return float(np.median(seconds))

    def _kernel(self, symbol: str) -> native.Handle:
        if symbol not in self._kernels:
            self._kernels[symbol] = self._code.function(symbol)
        return self._kernels[symbol]

    def _address(self, value: Value) -> int:
        if value.space == ARENA:
            return address(self._arena) + value.at
        return address(self._weights[value.at]) if value.space == WEIGHT else 0

    def _bind(self, inputs: Sequence[Array]) -> list[Array | None]:
        """Point the table at the inputs and at fresh memory for those results that need some."""
        for index, array in enumerate(inputs):
            there = self._program.may_lie_at(index, address(array))
            self._point(INPUT, index, array if there else self._stage(index, array))
        results: list[Array | None] = []
        for index, position in enumerate(self._program.results):
            value = self._program.values[position]
            own = (value.space, value.at) == (OUTPUT, index)
            results.append(aligned_empty(value.shape, value.dtype) if own else None)
            if own:
                self._point(OUTPUT, index, results[-1])
        return results

    def _point(self, space: str, index: int, array: Array | None) -> None:
        assert array is not None
        for value in self._places.get((space, index), ()):
            self._table.point(value, address(array))

    def _stage(self, index: int, array: Array) -> Array:
        """A copy at an aligned address, in memory that all runs share."""
        if index not in self._staged:
            self._staged[index] = aligned_empty(array.shape, array.dtype.name)
        np.copyto(self._staged[index], array)
        return self._staged[index]

    def _copied(
        self, position: int, inputs: Sequence[Array], results: Sequence[Array | None]
    ) -> Array:
        """A result that is an input, a weight or another result, perhaps in another shape."""
        value = self._program.values[position]
        spaces = {INPUT: inputs, OUTPUT: results, WEIGHT: self._weights}
        return np.array(spaces[value.space][value.at]).reshape(value.shape)
