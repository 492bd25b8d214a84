"""Kernel calls of ``main``: what they are, and putting others in their place."""

# imports TVM
from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import relax
from tvm.relax import transform

# A call site's kernel: name of the function, positions of its constant arguments.
Signature = tuple[str, tuple[int, ...]]

CALL_TIR = "relax.call_tir"


def kernel_calls(module: tvm.IRModule) -> list[Any]:
    """Every ``call_tir`` of ``main``, in program order."""
    found: list[Any] = []

    def visit(expr: Any) -> None:
        if is_kernel_call(expr):
            found.append(expr)

    relax.analysis.post_order_visit(module["main"], visit)
    return found


def is_kernel_call(expr: Any) -> bool:
    if not isinstance(expr, relax.Call) or not isinstance(expr.op, tvm.ir.Op):
        return False
    return bool(expr.op.name == CALL_TIR) and len(expr.args) == 2


def signature(call: Any) -> Signature:
    constants = [i for i, a in enumerate(call.args[1].fields) if isinstance(a, tvm.ir.GenericConst)]
    return call.args[0].name_hint, tuple(constants)


@dataclass(frozen=True, slots=True)
class NewCall:
    """A call of ``function``, to be added to the module under a name like ``name``."""

    name: str
    function: tvm.tirx.PrimFunc
    arguments: tuple[Any, ...]


def replace_calls(
    module: tvm.IRModule, changed: Mapping[Any, NewCall], gone: Collection[Any]
) -> tvm.IRModule:
    """The module with other calls bound to the variables of ``changed``, and ``gone`` unbound."""
    main = module["main"]
    builder = relax.BlockBuilder(module)

    def bound(binding: Any) -> Any:
        new = changed.get(binding.var)
        if new is None:
            return binding
        result = binding.value.ty_args[0]
        types = list(result.fields) if isinstance(result, relax.TupleType) else result
        function = builder.add_func(new.function.without_attr("global_symbol"), new.name)
        call = relax.call_tir(function, relax.Tuple(list(new.arguments)), types)
        return relax.VarBinding(binding.var, call)

    blocks = [
        type(block)([bound(b) for b in block.bindings if b.var not in gone])
        for block in main.body.blocks
    ]
    body = relax.SeqExpr(blocks, main.body.body)
    new_main = relax.Function(main.params, body, main.ret_ty, main.is_pure, main.attrs)
    builder.update_func(module.get_global_var("main"), new_main)
    return tvm.transform.Sequential([transform.Normalize(), transform.DeadCodeElimination()])(
        builder.get()
    )
