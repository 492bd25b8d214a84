"""The ``main`` of a Relax module whose calls are all kernels, as a ``Program``.

Read ``program.py`` first. Reshapes and results written in place share memory; what kernels leave
for each other is placed by lifetime in one arena; a result is computed where its caller wants it.
"""

# imports TVM
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax, tirx

from ansor_lite.errors import CompileError
from ansor_lite.program import (
    ALIGNMENT,
    ARENA,
    INPUT,
    OUTPUT,
    WEIGHT,
    WORDS_PER_OPERAND,
    Call,
    Lifetime,
    Program,
    Value,
    Weight,
    aligned,
    plan_memory,
    tensor_bytes,
)
from ansor_lite.workspaces import Exposed

# A compiled function's name in C starts with this.
SYMBOL_PREFIX = "__tvm_ffi_"

IN_PLACE = "relax.call_tir_inplace"
KERNEL_CALLS = ("relax.call_tir", IN_PLACE)
VIEWS = ("relax.reshape", "relax.expand_dims", "relax.flatten", "relax.squeeze")


@dataclass(slots=True)
class _Buffer:
    """Memory of one or more tensors. ``index``: of the input, output or weight that it is;
    ``alignment``: a multiple of which kernels assume its address to be."""

    space: str
    index: int
    bytes: int
    first: int = 0
    last: int = 0
    alignment: int = 1


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A view of a buffer."""

    buffer: int
    shape: tuple[int, ...]
    dtype: str


def flatten(
    main: relax.Function, kernels: Mapping[str, Exposed]
) -> tuple[Program, list[NDArray[Any]]]:
    """The program of ``main`` and its weights, which share memory with the function's constants.

    ``kernels``: what ``main`` calls, by name. Raises :class:`CompileError` for a call that is no
    kernel and no reshape.
    """
    return _Flattening(main, kernels).result()


class _Flattening:
    """Follows the bindings of ``main`` in order; ``env`` is what each variable holds."""

    def __init__(self, main: relax.Function, kernels: Mapping[str, Exposed]) -> None:
        self.main = main
        self.kernels = kernels
        self.env: dict[Any, Any] = {}
        self.buffers: list[_Buffer] = []
        self.weights: list[NDArray[Any]] = []
        self.weight_buffers: dict[int, int] = {}
        self.calls: list[tuple[str, tuple[_Tensor, ...]]] = []

    def result(self) -> tuple[Program, list[NDArray[Any]]]:
        for index, parameter in enumerate(self.main.params):
            self.env[parameter] = self._new(parameter.ty, INPUT, index)
        for block in self.main.body.blocks:
            for binding in block.bindings:
                self.env[binding.var] = self._value(binding.value)
        found = self._value(self.main.body.body)
        outputs: list[_Tensor] = list(found) if isinstance(found, tuple) else [found]
        self._claim_outputs(outputs)
        return self._program(outputs), self.weights

    def _value(self, expr: Any) -> Any:
        if isinstance(expr, relax.Var):
            return self.env[expr]
        if isinstance(expr, tvm.ir.GenericConst):
            return self._weight(expr)
        if isinstance(expr, relax.Tuple):
            return tuple(self._value(field) for field in expr.fields)
        if isinstance(expr, relax.TupleGetItem):
            return self._value(expr.tuple_value)[expr.index]
        if isinstance(expr, relax.Call) and isinstance(expr.op, tvm.ir.Op):
            if expr.op.name in KERNEL_CALLS:
                return self._kernel(expr)
            if expr.op.name in VIEWS:
                source = self._value(expr.args[0])
                return _Tensor(source.buffer, _shape(expr.ty), source.dtype)
        operator = expr.op if isinstance(expr, relax.Call) else None
        what = operator.name if isinstance(operator, tvm.ir.Op) else type(expr).__name__
        raise CompileError(f"the network needs {what}, for which there is no kernel")

    def _kernel(self, call: Any) -> Any:
        operands = [self._value(field) for field in call.args[1].fields]
        now = len(self.calls)
        if call.op.name == IN_PLACE:
            result = operands[int(call.attrs.inplace_indices[0])]
        else:
            types = call.ty_args[0]
            several = isinstance(types, relax.TupleType)
            made = tuple(
                self._new(t, ARENA, -1, now) for t in (types.fields if several else [types])
            )
            operands += made
            result = made if several else made[0]
        name = call.args[0].name_hint
        kernel = self.kernels[name]
        operands += [self._new(w, ARENA, -1, now) for w in kernel.workspaces]
        for operand, parameter in zip(operands, kernel.function.params, strict=True):
            buffer = self.buffers[operand.buffer]
            buffer.last = now
            buffer.alignment = max(buffer.alignment, int(parameter.data_alignment))
        self.calls.append((name, tuple(operands)))
        return result

    def _weight(self, constant: Any) -> _Tensor:
        array = np.from_dlpack(constant.value)
        address = array.__array_interface__["data"][0]
        if address not in self.weight_buffers:
            self.weight_buffers[address] = len(self.buffers)
            self.buffers.append(_Buffer(WEIGHT, len(self.weights), array.nbytes))
            self.weights.append(array if address % ALIGNMENT == 0 else _aligned_copy(array))
        return _Tensor(self.weight_buffers[address], array.shape, array.dtype.name)

    def _new(self, kind: Any, space: str, index: int, now: int = 0) -> _Tensor:
        tensor = _Tensor(len(self.buffers), _shape(kind), str(kind.dtype))
        size = tensor_bytes(tensor.shape, tensor.dtype)
        self.buffers.append(_Buffer(space, index, size, now, now))
        return tensor

    def _claim_outputs(self, outputs: Sequence[_Tensor]) -> None:
        """What a kernel computes for the caller lies in the caller's memory, at most once."""
        for index, tensor in enumerate(outputs):
            buffer = self.buffers[tensor.buffer]
            if buffer.space == ARENA:
                buffer.space, buffer.index = OUTPUT, index

    def _program(self, outputs: Sequence[_Tensor]) -> Program:
        arena = [i for i, b in enumerate(self.buffers) if b.space == ARENA]
        lifetimes = [self.buffers[i] for i in arena]
        offsets, size = plan_memory([Lifetime(b.bytes, b.first, b.last) for b in lifetimes])
        start = dict(zip(arena, offsets, strict=True))
        positions: dict[Value, int] = {}

        def position(tensor: _Tensor) -> int:
            buffer = self.buffers[tensor.buffer]
            at = start.get(tensor.buffer, buffer.index)
            value = Value(buffer.space, at, tensor.shape, tensor.dtype)
            return positions.setdefault(value, len(positions))

        calls = [Call(symbol, tuple(map(position, operands))) for symbol, operands in self.calls]
        results = tuple(map(position, outputs))
        inputs = tuple(b.alignment for b in self.buffers if b.space == INPUT)
        placed = _placed(self.weights)
        return Program(tuple(positions), tuple(calls), results, placed, size, inputs)


def _shape(kind: Any) -> tuple[int, ...]:
    return tuple(int(extent) for extent in kind.shape)


def _aligned_copy(array: NDArray[Any]) -> NDArray[Any]:
    copy = tvm.runtime.tensor(array)
    return np.from_dlpack(copy)


def _placed(arrays: Sequence[NDArray[Any]]) -> tuple[Weight, ...]:
    weights, offset = [], 0
    for array in arrays:
        weights.append(Weight(array.shape, array.dtype.name, offset))
        offset += aligned(array.nbytes)
    return tuple(weights)


def driver(program: Program) -> tirx.PrimFunc:
    """A function that makes all calls of a program, and stops at the first that fails.

    Its parameter is a table of int64: the operands of one call after the other, each of
    ``WORDS_PER_OPERAND``, as TVM's C interface wants them.
    """
    words = WORDS_PER_OPERAND * sum(len(c.operands) for c in program.calls)
    table = tirx.decl_buffer([max(words, 1)], "int64", name="table")
    nothing = tirx.reinterpret("handle", tirx.const(0, "uint64"))
    failed = tirx.Return(tirx.const(-1, "int32"))
    body, word = [], 0
    for call in program.calls:
        status = tirx.call_extern(
            "int32",
            SYMBOL_PREFIX + call.symbol,
            nothing,
            tirx.address_of(table[word]),
            tirx.const(len(call.operands), "int32"),
            nothing,
        )
        body.append(tirx.IfThenElse(status != 0, failed, None))
        word += WORDS_PER_OPERAND * len(call.operands)
    calls = tirx.PrimFunc([table], tirx.SeqStmt(body) if len(body) > 1 else body[0])
    # One function of a module without this, and LLVM assumes that all of them have aliases: no
    # accumulator stays in a register.
    return calls.with_attr("tirx.noalias", True)
