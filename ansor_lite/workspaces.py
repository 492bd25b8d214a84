"""What a kernel keeps between its loop nests, as memory that its caller brings.

A tensor that one nest of a kernel leaves for the next would be taken from a pool of TVM's, which
returns nothing while the process lives. As a parameter it gets a place in the planned arena (see
``program.py``), beside the activations of that moment. Separate from ``flatten.py``, which plans.
"""

# imports TVM
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.s_tir.stmt import SBlock, SBlockRealize
from tvm.tirx.analysis import undefined_vars

from ansor_lite.program import tensor_bytes

# Smaller ones stay where they are: TVM puts them on the stack.
STACK_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Exposed:
    """A kernel and the last of its parameters: buffers that hold nothing between calls."""

    function: tirx.PrimFunc
    workspaces: Sequence[Any] = ()


def exposed(function: tirx.PrimFunc) -> Exposed:
    """``function`` with its workspaces as further parameters, behind the others.

    What only one nest uses stays inside: each thread of a parallel loop needs its own.
    """
    realize = function.body
    if not isinstance(realize, SBlockRealize):
        return Exposed(function)
    root = realize.block
    shared = [b for b in root.alloc_buffers if _is_large(b) and _users(b, root.body) > 1]
    if not shared:
        return Exposed(function)
    inside = [b for b in root.alloc_buffers if not any(b.same_as(s) for s in shared)]
    block = SBlock(
        root.iter_vars, root.reads, root.writes, root.name_hint, root.body, root.init, inside,
        root.match_buffers, root.annotations,
    )  # fmt: skip
    body = SBlockRealize(realize.iter_values, realize.predicate, block)
    params = [*function.params, *shared]
    return Exposed(tirx.PrimFunc(params, body, function.ret_type, function.attrs), shared)


def _is_large(buffer: Any) -> bool:
    return tensor_bytes([int(s) for s in buffer.shape], str(buffer.dtype)) > STACK_BYTES


def _users(buffer: Any, body: tirx.Stmt) -> int:
    """How many statements of a sequence use ``buffer``, which none of them declares."""
    statements = body.seq if isinstance(body, tirx.SeqStmt) else [body]
    return sum(any(v.same_as(buffer) for v in undefined_vars(s, [])) for s in statements)
