"""Static shapes of the values of an ONNX graph, without copying its weights."""

from __future__ import annotations

from math import prod

import onnx
from onnx import helper, numpy_helper

from ansor_lite.frontend.onnx_graph import OnnxGraph

# Inference reads the values of small constants (shapes, axes); larger ones are weights.
SMALL = 1024


def static_shapes(graph: OnnxGraph) -> dict[str, tuple[int, ...]]:
    """Shapes of values, as far as ``onnx.shape_inference`` finds static ones."""
    light = onnx.ModelProto(
        ir_version=max(graph.model.ir_version, 4), opset_import=graph.model.opset_import
    )
    light.graph.name = "shapes"
    light.graph.node.extend(graph.nodes)
    light.graph.input.extend(i for i in graph.model.graph.input if i.name not in graph.protos)
    _add_constants(light.graph, graph)
    light.graph.output.extend(graph.model.graph.output)
    inferred = onnx.shape_inference.infer_shapes(light, data_prop=True)
    known: dict[str, tuple[int, ...]] = {}
    for info in (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output):
        tensor = info.type.tensor_type
        dims = tensor.shape.dim
        if tensor.HasField("shape") and all(d.HasField("dim_value") for d in dims):
            known[info.name] = tuple(d.dim_value for d in dims)
    return known


def _add_constants(light: onnx.GraphProto, graph: OnnxGraph) -> None:
    """Small constants with their values; large ones as inputs, so that inference copies none."""
    for name, tensor in graph.protos.items():
        if name in graph.arrays:
            continue
        if prod(tensor.dims) <= SMALL:
            light.initializer.append(tensor)
        else:
            shape = list(tensor.dims)
            light.input.append(helper.make_tensor_value_info(name, tensor.data_type, shape))
    for name, array in graph.arrays.items():
        if array.size <= SMALL:
            light.initializer.append(numpy_helper.from_array(array, name))
        else:
            dtype = helper.np_dtype_to_tensor_dtype(array.dtype)
            light.input.append(helper.make_tensor_value_info(name, dtype, list(array.shape)))
