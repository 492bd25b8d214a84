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

PIPELINE = "ansor-lite"

# All vector registers of the largest machine twice: what does not fit them belongs on the heap.
STACK_BYTES = 4096


def keep_on_stack(statement: Any) -> Any:
    """``statement`` with its small local buffers marked for the stack."""
    match statement:
        case tirx.SeqStmt():
            return tirx.SeqStmt([keep_on_stack(s) for s in statement.seq])
        case tirx.For():
            return tirx.For(
                statement.loop_var,
                statement.min,
                statement.extent,
                statement.kind,
                keep_on_stack(statement.body),
                statement.thread_binding,
                statement.annotations,
            )
        case tirx.AttrStmt():
            body = keep_on_stack(statement.body)
            return tirx.AttrStmt(statement.node, statement.attr_key, statement.value, body)
        case tirx.IfThenElse():
            other = statement.else_case
            other = None if other is None else keep_on_stack(other)
            return tirx.IfThenElse(statement.condition, keep_on_stack(statement.then_case), other)
        case tirx.AllocBuffer() if _fits(statement.buffer):
            return tirx.AllocBuffer(
                statement.buffer, {"disable_lower_builtin": tirx.const(1, "bool")}
            )
        case _:
            return statement


def _fits(buffer: Any) -> bool:
    dtype = DataType(str(buffer.dtype))
    size = prod(int(extent) for extent in buffer.shape) * dtype.bits * dtype.lanes // 8
    return str(buffer.scope()) == "local" and size <= STACK_BYTES


def _pass(function: Any, module: Any, context: Any) -> Any:
    return tirx.PrimFunc(
        function.params, keep_on_stack(function.body), function.ret_type, function.attrs
    )


def _pipeline() -> tuple[Any, Any, Any]:
    _, finish_host, finish_device = get_tir_pipeline("s_tir")
    marking = tirx.transform.prim_func_pass(_pass, opt_level=0, name="ansor_lite.KeepOnStack")

    def finish() -> Any:
        return tvm.ir.transform.Sequential([marking, finish_host()])

    return passes(), finish, finish_device


register_tir_pipeline(PIPELINE, _pipeline)
