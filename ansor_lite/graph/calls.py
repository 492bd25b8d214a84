"""Kernel calls of ``main``: what they are, and putting others in their place."""

# imports TVM
from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import relax
from tvm.relax import transform

from ansor_lite.graph.expressions import constant, numbers, shape_of, stored

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
    """A call of ``function``, to be added to the module under a name like ``name``.

    What the function wants or has in another shape is viewed so.
    """

    name: str
    function: tvm.tirx.PrimFunc
    arguments: tuple[Any, ...]


def replace_calls(
    module: tvm.IRModule, changed: Mapping[Any, NewCall], gone: Collection[Any]
) -> tvm.IRModule:
    """The module with other calls bound to the variables of ``changed``, and ``gone`` unbound."""
    main = module["main"]
    builder = relax.BlockBuilder(module)
    constants: dict[Any, Any] = {}

    def bound(binding: Any) -> list[Any]:
        new = changed.get(binding.var)
        if new is None:
            return [binding]
        function = builder.add_func(new.function.without_attr("global_symbol"), new.name)
        wanted = zip(new.arguments, new.function.params, strict=False)
        arguments = [_viewed(a, numbers(p.shape), constants) for a, p in wanted]
        return _bindings(binding, function, arguments, new.function)

    blocks = [
        type(block)([new for b in block.bindings if b.var not in gone for new in bound(b)])
        for block in main.body.blocks
    ]
    body = relax.SeqExpr(blocks, main.body.body)
    new_main = relax.Function(main.params, body, main.ret_ty, main.is_pure, main.attrs)
    builder.update_func(module.get_global_var("main"), new_main)
    return tvm.transform.Sequential([transform.Normalize(), transform.DeadCodeElimination()])(
        builder.get()
    )


def _bindings(
    before: Any, function: Any, arguments: list[Any], kernel: tvm.tirx.PrimFunc
) -> list[Any]:
    """The bindings that give the variable of ``before`` the result of ``function``."""
    result = before.var.ty
    if isinstance(result, relax.TupleType):
        call = relax.call_tir(function, relax.Tuple(arguments), list(result.fields))
        return [relax.VarBinding(before.var, call)]
    shape = numbers(kernel.params[-1].shape)
    own = result if shape == shape_of(before.var) else relax.TensorType(shape, result.dtype)
    call = relax.call_tir(function, relax.Tuple(arguments), own)
    if own is result:
        return [relax.VarBinding(before.var, call)]
    inner = relax.DataflowVar(before.var.name, own)
    view = relax.op.reshape(inner, shape_of(before.var))
    return [relax.VarBinding(inner, call), relax.VarBinding(before.var, view)]


def _viewed(value: Any, shape: tuple[int, ...], constants: dict[Any, Any]) -> Any:
    """``value`` in another shape; ``constants`` that were viewed before."""
    if shape_of(value) == shape:
        return value
    array = constant(value)
    if array is None:
        return relax.op.reshape(value, shape)
    key = (array.__array_interface__["data"][0], shape)
    return constants.setdefault(key, stored(array.reshape(shape)))
