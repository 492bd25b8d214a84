"""Static shapes and types of the values of an ONNX graph, without copying its weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ansor_lite.frontend.onnx_graph import OnnxGraph

Shape: TypeAlias = tuple[int, ...]

# Inference reads the values of small constants (shapes, axes); larger ones are weights.
SMALL = 1024


@dataclass(frozen=True, slots=True)
class TensorType:
    dtype: np.dtype[Any]
    shape: Shape


def static_shapes(graph: OnnxGraph) -> dict[str, Shape]:
    """Shapes of values, as far as ``onnx.shape_inference`` finds static ones."""
    return {name: found.shape for name, found in static_types(graph).items()}


def static_types(graph: OnnxGraph) -> dict[str, TensorType]:
    """Types of values whose shape ``onnx.shape_inference`` finds static."""
    light = _light_model(graph, graph.nodes, [*graph.protos, *graph.arrays])
    light.graph.input.extend(i for i in graph.model.graph.input if i.name not in graph.protos)
    light.graph.output.extend(graph.model.graph.output)
    return _inferred(light)


def types_of_results(
    graph: OnnxGraph, nodes: Sequence[onnx.NodeProto], types: Mapping[str, TensorType]
) -> dict[str, TensorType]:
    """What ``nodes`` in a row compute from values of known types."""
    read = list(dict.fromkeys(name for node in nodes for name in node.input))
    light = _light_model(graph, nodes, [name for name in read if graph.is_constant(name)])
    for name in read:
        if name in types and not graph.is_constant(name):
            dtype = helper.np_dtype_to_tensor_dtype(types[name].dtype)
            light.graph.input.append(helper.make_tensor_value_info(name, dtype, types[name].shape))
    written = [name for node in nodes for name in node.output if name]
    light.graph.output.extend(onnx.ValueInfoProto(name=name) for name in written)
    return _inferred(light)


def _light_model(
    graph: OnnxGraph, nodes: Iterable[onnx.NodeProto], constants: Iterable[str]
) -> onnx.ModelProto:
    light = onnx.ModelProto(
        ir_version=max(graph.model.ir_version, 4), opset_import=graph.model.opset_import
    )
    light.graph.name = "shapes"
    light.graph.node.extend(nodes)
    for name in dict.fromkeys(constants):
        _add_constant(light.graph, graph, name)
    return light


def _add_constant(light: onnx.GraphProto, graph: OnnxGraph, name: str) -> None:
    """Small constants with their values; large ones as inputs, so that inference copies none."""
    if name in graph.arrays:
        array = graph.arrays[name]
        dims, dtype = array.shape, helper.np_dtype_to_tensor_dtype(array.dtype)
    else:
        dims, dtype = tuple(graph.protos[name].dims), graph.protos[name].data_type
    if prod(dims) > SMALL:
        light.input.append(helper.make_tensor_value_info(name, dtype, dims))
    elif name in graph.arrays:
        light.initializer.append(numpy_helper.from_array(graph.arrays[name], name))
    else:
        light.initializer.append(graph.protos[name])


def _inferred(light: onnx.ModelProto) -> dict[str, TensorType]:
    inferred = onnx.shape_inference.infer_shapes(light, data_prop=True)
    known: dict[str, TensorType] = {}
    for info in (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output):
        tensor = info.type.tensor_type
        dims = tensor.shape.dim
        static = tensor.HasField("shape") and all(d.HasField("dim_value") for d in dims)
        if static and tensor.elem_type:
            dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
            known[info.name] = TensorType(dtype, tuple(d.dim_value for d in dims))
    return known
