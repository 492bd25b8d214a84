"""Static shapes of the values of an ONNX graph, without copying its weights."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ansor_lite.frontend.onnx_graph import OnnxGraph

# Inference reads the values of small constants (shapes, axes); larger ones are weights.
SMALL = 1024


def static_shapes(graph: OnnxGraph) -> dict[str, tuple[int, ...]]:
    """Shapes of values, as far as ``onnx.shape_inference`` finds static ones."""
    # Large weights become inputs, so that inference copies no weight.
    large = {n: t for n, t in graph.protos.items() if int(np.prod(t.dims, dtype=np.float64)) > SMALL}
    light = onnx.ModelProto(
        ir_version=max(graph.model.ir_version, 4), opset_import=graph.model.opset_import
    )
    light.graph.node.extend(graph.nodes)
    light.graph.initializer.extend(t for n, t in graph.protos.items() if n not in large)
    light.graph.initializer.extend(
        numpy_helper.from_array(a, n) for n, a in graph.arrays.items() if a.size <= SMALL
    )
    weights = set(graph.protos)
    light.graph.input.extend(i for i in graph.model.graph.input if i.name not in weights)
    light.graph.input.extend(
        helper.make_tensor_value_info(n, t.data_type, list(t.dims)) for n, t in large.items()
    )
    light.graph.output.extend(graph.model.graph.output)
    inferred = onnx.shape_inference.infer_shapes(light, data_prop=True)
    known: dict[str, tuple[int, ...]] = {}
    for info in (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output):
        tensor = info.type.tensor_type
        dims = tensor.shape.dim
        if tensor.HasField("shape") and all(d.HasField("dim_value") for d in dims):
            known[info.name] = tuple(d.dim_value for d in dims)
    return known
