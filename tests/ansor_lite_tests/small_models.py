"""Small ONNX networks for tests, with weights that keep the outputs alive."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[Any]


def weight(*shape: int, seed: int = 0) -> Array:
    rng = np.random.default_rng([seed, *shape])
    fan_in = max(1, int(np.prod(shape[1:])))
    return (rng.standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32)


def build(
    nodes: list[onnx.NodeProto],
    inputs: Mapping[str, tuple[int, tuple[int, ...]]],
    outputs: list[str],
    constants: Mapping[str, Array],
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(n, t, s) for n, (t, s) in inputs.items()],
        [onnx.ValueInfoProto(name=n) for n in outputs],
        [numpy_helper.from_array(v, n) for n, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model)


def small_cnn() -> onnx.ModelProto:
    """Two equal residual convolutions, a depthwise one, pooling, a classifier."""
    conv, node = dict(kernel_shape=[3, 3], pads=[1, 1, 1, 1]), helper.make_node
    nodes = [
        node("Conv", ["x", "w0", "b0"], ["c0"], strides=[2, 2], **conv),
        node("Relu", ["c0"], ["a0"]),
        node("Conv", ["a0", "w1", "b1"], ["c1"], **conv),
        node("Add", ["c1", "a0"], ["a1"]),
        node("Conv", ["a1", "w2", "b1"], ["c2"], **conv),
        node("Add", ["c2", "a1"], ["a2"]),
        node("Conv", ["a2", "w3"], ["c3"], group=8, **conv),
        node("Clip", ["c3", "zero", "six"], ["a3"]),
        node("GlobalAveragePool", ["a3"], ["p"]),
        node("Flatten", ["p"], ["f"]),
        node("Gemm", ["f", "w4", "b4"], ["y"]),
    ]
    constants = {
        "w0": weight(8, 3, 3, 3),
        "b0": weight(8),
        "w1": weight(8, 8, 3, 3),
        "b1": weight(8, seed=1),
        "w2": weight(8, 8, 3, 3, seed=2),
        "w3": weight(8, 1, 3, 3),
        "zero": np.float32(0).reshape(()),
        "six": np.float32(6).reshape(()),
        "w4": weight(8, 10),
        "b4": weight(10),
    }
    return build(nodes, {"x": (TensorProto.FLOAT, (1, 3, 16, 16))}, ["y"], constants)


def small_transformer() -> onnx.ModelProto:
    """Token embedding, one attention head, softmax, layer norm; two outputs."""
    node = helper.make_node
    nodes = [
        node("Gather", ["table", "ids"], ["e"]),
        node("MatMul", ["e", "wq"], ["q"]),
        node("MatMul", ["e", "wk"], ["k"]),
        node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
        node("MatMul", ["q", "kt"], ["s"]),
        node("Softmax", ["s"], ["p"], axis=-1),
        node("MatMul", ["p", "e"], ["o"]),
        node("Add", ["o", "e"], ["r"]),
        node("LayerNormalization", ["r", "g", "b"], ["y"]),
    ]
    constants = {
        "table": weight(50, 16),
        "wq": weight(16, 16),
        "wk": weight(16, 16, seed=1),
        "g": weight(16),
        "b": weight(16, seed=1),
    }
    return build(nodes, {"ids": (TensorProto.INT64, (1, 6))}, ["y", "p"], constants)


def reference(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """What onnxruntime computes."""
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [o.name for o in model.graph.output]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def relative_error(found: Array, expected: Array) -> float:
    """Largest difference over the largest expected magnitude."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())
