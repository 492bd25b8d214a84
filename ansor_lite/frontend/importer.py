"""Any accepted model to a ``Network``: the only file of the frontend that loads TVM."""

# imports TVM
from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
import tvm
from onnx import helper
from tvm import relax
from tvm.relax.frontend.onnx.onnx_frontend import ONNXGraphImporter, _get_convert_map

from ansor_lite.errors import ModelError
from ansor_lite.frontend.network import Network, TensorInfo
from ansor_lite.frontend.onnx_file import read_model
from ansor_lite.frontend.onnx_graph import OnnxGraph
from ansor_lite.frontend.onnx_norms import NORMS_SINCE
from ansor_lite.frontend.onnx_rewrites import simplify
from ansor_lite.graph.expressions import constant, shape_of, stored

# What the importer raises for a node it cannot convert, besides its own errors.
IMPORT_ERRORS = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    AssertionError,
    NotImplementedError,
    RuntimeError,
)
# How TVM begins what it prints of a value that the reader of an error does not know.
OMITTED = "# Metadata omitted. Use show_meta=True in script() method to show it."
STANDARD_DOMAINS = ("", "ai.onnx")
# The importer ignores domains; these names mean something else in the standard domain.
CONTRIB_OPERATORS = frozenset({"Attention", "RotaryEmbedding"})

Model: TypeAlias = "str | Path | onnx.ModelProto | tvm.IRModule"


def import_network(model: Model, shapes: Mapping[str, Sequence[int]] | None = None) -> Network:
    """ONNX file, ``ModelProto`` or Relax ``IRModule`` (with a ``main``) to a :class:`Network`.

    Raises :class:`ModelError` for anything that cannot be imported, with the reason.
    """
    if isinstance(model, tvm.IRModule):
        return _from_relax(model)
    if not isinstance(model, (str, Path, onnx.ModelProto)):
        raise ModelError(f"a model is an ONNX file, a ModelProto or an IRModule, not {type(model)}")
    graph = simplify(read_model(model, shapes))
    proto = graph.skeleton()
    for node in proto.graph.node:
        node.name = node.name or next(iter(node.output), "")
    _check_operators(proto)
    _check_operands(proto, graph)
    name = proto.graph.name if isinstance(model, onnx.ModelProto) else Path(model).stem
    module = _convert(proto, graph)
    inputs = tuple(_onnx_info(i) for i in proto.graph.input)
    outputs = _outputs(module, [o.name for o in proto.graph.output])
    return Network(name, module, inputs, outputs)


class _Importer(ONNXGraphImporter):  # type: ignore[misc]
    """TVM's importer, remembering the node it works on and taking constants as arrays."""

    def __init__(self, constants: OnnxGraph) -> None:
        super().__init__({}, "float32")
        self.constants = constants
        self.at = ("", "")

    def _parse_graph_initializers(self, graph: onnx.GraphProto) -> None:
        for name in self.constants.used_constants():
            self._nodes[name] = stored(self.constants.take(name))

    def _convert_operator(self, op_name: str, inputs: Any, attrs: Any, opset: int) -> Any:
        self.at = (op_name, attrs["tvm_custom"]["name"])
        if op_name == "Clip" and (clipped := _clip(inputs, attrs, opset)) is not None:
            return self.bb.normalize(clipped)
        if op_name in ("GroupNormalization", "InstanceNormalization"):
            return self.bb.normalize(_group_norm(inputs, attrs))
        since = max(opset, NORMS_SINCE.get(op_name, opset))
        return super()._convert_operator(op_name, inputs, attrs, since)


def _clip(inputs: Any, attrs: Any, opset: int) -> Any:
    """``Clip`` with constant bounds as operators that layout conversion knows; else ``None``."""
    if opset < 11:
        bounds: list[Any] = [attrs.get("min"), attrs.get("max")]
    else:
        given = [inputs[1], inputs[2]]
        if not all(b is None or isinstance(b, tvm.ir.GenericConst) for b in given):
            return None
        bounds = [None if b is None else b.value.numpy().item() for b in given]
    result, dtype = inputs[0], str(inputs[0].ty.dtype)
    for operator, bound in zip((relax.op.maximum, relax.op.minimum), bounds, strict=True):
        if bound is not None and bound == bound:  # a NaN bound is no bound
            result = operator(result, relax.const(bound, dtype))
    return result


def _group_norm(inputs: Any, attrs: Any) -> Any:
    """A norm over groups of channels, or over each; one scale per group (opset 18) or channel."""
    data, *affine = inputs
    channels = shape_of(data)[1]
    groups = int(attrs.get("num_groups", channels))
    if shape_of(affine[0]) != (channels,):
        affine = [_repeated(value, channels // groups) for value in affine]
    axes = list(range(2, len(shape_of(data))))
    epsilon = float(attrs.get("epsilon", 1e-5))
    return relax.op.nn.group_norm(data, *affine, groups, 1, axes, epsilon)


def _repeated(value: Any, times: int) -> Any:
    array = constant(value)
    return relax.op.repeat(value, times, 0) if array is None else stored(np.repeat(array, times))


def _convert(proto: onnx.ModelProto, constants: OnnxGraph) -> tvm.IRModule:
    opset = next((o.version for o in proto.opset_import if o.domain in STANDARD_DOMAINS), 1)
    importer = _Importer(constants)
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            module = importer.from_onnx(proto.graph, opset)
        except IMPORT_ERRORS as error:
            (operator, node), reason = importer.at, _last_line(error)
        else:
            return module
    # What the error holds goes first: TVM writes to standard error when it is destroyed.
    del importer
    raise ModelError(f"operator {operator!r} of node {node!r} cannot be imported: {reason}")


def _check_operators(proto: onnx.ModelProto) -> None:
    known = set(_get_convert_map()) | {"If", "Constant"}
    for node in proto.graph.node:
        contrib = node.domain not in STANDARD_DOMAINS
        mistaken = node.op_type in CONTRIB_OPERATORS and not contrib
        if node.op_type not in known or mistaken or (contrib and node.domain != "com.microsoft"):
            label = f"{node.domain}.{node.op_type}" if contrib else node.op_type
            raise ModelError(
                f"operator {label!r} of node {node.name or node.output[0]!r} is not supported"
            )


def _check_operands(proto: onnx.ModelProto, constants: OnnxGraph) -> None:
    """All that is read is an input, a constant, or a result of a node before."""
    known = {"", *(i.name for i in proto.graph.input), *constants.used_constants()}
    for node in proto.graph.node:
        unknown = [name for name in node.input if name not in known]
        if unknown:
            raise ModelError(
                f"operator {node.op_type!r} of node {node.name!r} reads {unknown[0]!r}, "
                "which nothing computes before it"
            )
        known.update(node.output)
    for output in proto.graph.output:
        if output.name not in known:
            raise ModelError(f"nothing computes the output {output.name!r}")


def _onnx_info(info: onnx.ValueInfoProto) -> TensorInfo:
    tensor = info.type.tensor_type
    dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    return TensorInfo(info.name, tuple(d.dim_value for d in tensor.shape.dim), dtype.name)


def _from_relax(module: tvm.IRModule) -> Network:
    names = [gv.name_hint for gv in module.get_global_vars()]
    if "main" not in names or not isinstance(module["main"], relax.Function):
        raise ModelError("a Relax module needs a function called 'main'")
    main = module["main"]
    inputs = tuple(_relax_info(str(p.name), p.ty) for p in main.params)
    return Network("main", module, inputs, _outputs(module, []))


def _outputs(module: tvm.IRModule, names: list[str]) -> tuple[TensorInfo, ...]:
    returned = module["main"].ret_ty
    fields = list(returned.fields) if isinstance(returned, relax.TupleType) else [returned]
    names = names or [f"output{i}" if len(fields) > 1 else "output" for i in range(len(fields))]
    return tuple(_relax_info(n, t) for n, t in zip(names, fields, strict=True))


def _relax_info(name: str, ty: Any) -> TensorInfo:
    if not isinstance(ty, relax.TensorType):
        raise ModelError(f"{name!r} is not a tensor")
    extents: list[Any] = list(ty.shape) if ty.shape is not None else [None]
    if not all(isinstance(e, tvm.tirx.IntImm) for e in extents):
        raise ModelError(f"the shape of {name!r} is not static")
    return TensorInfo(name, tuple(int(e) for e in extents), str(ty.dtype))


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].removeprefix(OMITTED).strip() if lines else type(error).__name__
