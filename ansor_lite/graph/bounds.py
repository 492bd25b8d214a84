"""Indices that come from the user stay inside their tables.

TVM's gathers do not check: an index outside crashes the process. Here it is clamped to the nearest
valid one.
"""

# imports TVM
from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from tvm import relax

from ansor_lite.graph.fold import rewrite_main


@relax.expr_functor.mutator
class _Clamp(relax.PyExprMutator):  # type: ignore[misc]
    def visit_call_(self, call: Any) -> Any:
        call = self.visit_expr_post_order(call)
        if not isinstance(call.op, tvm.ir.Op):
            return call
        args = call.args
        match call.op.name:
            case "relax.take" if call.attrs.mode == "fast":
                return relax.op.take(args[0], args[1], call.attrs.axis, mode="clip")
            case "relax.gather_elements":
                axis = int(call.attrs.axis)
                return relax.op.gather_elements(args[0], self._clamped(args, [axis]), axis)
            case "relax.gather_nd":
                batch = int(call.attrs.batch_dims)
                axes = range(batch, batch + int(args[1].ty.shape[-1]))
                return relax.op.gather_nd(args[0], self._clamped(args, axes), batch)
            case "relax.scatter_elements":
                axis = int(call.attrs.axis)
                indices = self._clamped(args, [axis])
                return relax.op.scatter_elements(
                    args[0], indices, args[2], axis, call.attrs.reduction
                )
            case "relax.scatter_nd":
                axes = range(int(args[1].ty.shape[-1]))
                indices = self._clamped(args, axes)
                return relax.op.scatter_nd(args[0], indices, args[2], call.attrs.reduction)
        return call

    def _clamped(self, args: Any, axes: Any) -> Any:
        """``args[1]`` within the extents of ``args[0]`` along ``axes`` (last index dimension)."""
        dtype = str(args[1].ty.dtype)
        last = np.array([int(args[0].ty.shape[a]) - 1 for a in axes], dtype=dtype)
        last = last if len(last) > 1 else last.reshape(())
        zero = relax.const(np.zeros((), dtype), dtype)
        upper = self.builder_.emit(relax.op.minimum(args[1], relax.const(last, dtype)))
        return self.builder_.emit(relax.op.maximum(upper, zero))


def clamp_indices(module: tvm.IRModule) -> tvm.IRModule:
    """``main`` with every gather and scatter index clamped to its table."""
    return rewrite_main(module, _Clamp(module))
