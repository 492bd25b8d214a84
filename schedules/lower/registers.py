"""The build pipeline: the passes of ``passes.py``, and accumulators that stay on the stack.

TVM asks its allocator for local buffers of 512 bytes and more. LLVM then keeps the values in
registers all the same, but stores each of them as well, which short reductions notice: a window
of 3x3 has nine steps. Separate because this happens to the program that TVM has lowered.
"""

from __future__ import annotations

from math import prod
from typing import Any

import tvm
from tvm import DataType, tirx
from tvm.tirx.compilation_pipeline import get_tir_pipeline, register_tir_pipeline

from schedules.lower.passes import passes
from schedules.lower.statements import statement_pass

PIPELINE = "ansor-lite"

# All vector registers of the largest machine twice: what does not fit them belongs on the heap.
STACK_BYTES = 4096


def _kept_on_stack(statement: Any) -> Any:
    """A small local buffer, marked for the stack; ``None`` for other statements."""
    if not isinstance(statement, tirx.AllocBuffer) or not _fits(statement.buffer):
        return None
    return tirx.AllocBuffer(statement.buffer, {"disable_lower_builtin": tirx.const(1, "bool")})


def _fits(buffer: Any) -> bool:
    dtype = DataType(str(buffer.dtype))
    size = prod(int(extent) for extent in buffer.shape) * dtype.bits * dtype.lanes // 8
    return str(buffer.scope()) == "local" and size <= STACK_BYTES


def _pipeline() -> tuple[Any, Any, Any]:
    _, finish_host, finish_device = get_tir_pipeline("s_tir")
    marking = statement_pass("KeepOnStack", _kept_on_stack)

    def finish() -> Any:
        return tvm.ir.transform.Sequential([marking, finish_host()])

    return passes(), finish, finish_device


register_tir_pipeline(PIPELINE, _pipeline)
