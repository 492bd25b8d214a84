"""The arguments of all kernel calls of a program, in the form that compiled code reads them.

One array of int64 words: first the arguments (``TVMFFIAny``, 2 words each) of one call after the
other, then the ``DLTensor`` structures (6 words) that they point to, then the shapes. Separate from
the executor so that the layout of C structures is known in one place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ansor_lite.program import INT64_WORD, WORDS_PER_OPERAND, Program, Value

WORDS_PER_TENSOR = 6
# TVMFFIAny's type of a pointer to a DLTensor, DLPack's device type of main memory, its type codes.
TENSOR_POINTER, CPU = 7, 1
TYPE_CODES = {"i": 0, "u": 1, "f": 2, "b": 6}


class CallTable:
    """``words``: the table; whoever uses an address into it keeps this object alive."""

    def __init__(self, program: Program, address_of_value: Callable[[Value], int]) -> None:
        """``address_of_value``: where a value's data lies, 0 while that is not known."""
        operands = [v for call in program.calls for v in call.operands]
        self._tensors = WORDS_PER_OPERAND * len(operands)
        shapes = self._tensors + WORDS_PER_TENSOR * (len(program.values) + 1)
        extents = sum(len(v.shape) for v in program.values) + 1
        self.words = np.zeros(shapes + extents + WORDS_PER_OPERAND, np.int64)
        self._base = address(self.words)
        for i, value in enumerate(operands):
            self._write_argument(WORDS_PER_OPERAND * i, value)
        for i, tensor in enumerate(program.values):
            self._write_tensor(i, address_of_value(tensor), tensor.shape, tensor.dtype, shapes)
            shapes += len(tensor.shape)
        # The driver's only argument is the table itself, as a tensor.
        self._write_tensor(len(program.values), self._base, (self._tensors,), "int64", shapes)
        self._driver_word = len(self.words) - WORDS_PER_OPERAND
        self._write_argument(self._driver_word, len(program.values))
        self._counts = [len(call.operands) for call in program.calls]

    @property
    def driver_arguments(self) -> int:
        return self._at(self._driver_word)

    def call_arguments(self) -> Iterator[int]:
        """Address of the arguments of each call, in order."""
        for before in accumulate(self._counts[:-1], initial=0):
            yield self._at(WORDS_PER_OPERAND * before)

    def point(self, value: int, data: int) -> None:
        """Value number ``value`` lies at address ``data``."""
        self.words[self._tensors + WORDS_PER_TENSOR * value] = data

    def _at(self, word: int) -> int:
        return self._base + INT64_WORD * word

    def _write_argument(self, word: int, value: int) -> None:
        self.words[word] = TENSOR_POINTER
        self.words[word + 1] = self._at(self._tensors + WORDS_PER_TENSOR * value)

    def _write_tensor(
        self, value: int, data: int, shape: tuple[int, ...], dtype: str, shape_word: int
    ) -> None:
        kind = np.dtype(dtype)
        word = self._tensors + WORDS_PER_TENSOR * value
        one_lane = 1 << 48
        code = TYPE_CODES[kind.kind] << 32 | kind.itemsize * 8 << 40 | one_lane
        self.words[word : word + 4] = data, CPU, len(shape) | code, self._at(shape_word)
        self.words[shape_word : shape_word + len(shape)] = shape


def address(array: NDArray[Any]) -> int:
    """Of the first element."""
    return int(array.__array_interface__["data"][0])
