"""A real network without a download: SqueezeNet, as the ``onnx`` package ships it for its tests.

That file holds the graph and the shapes of the weights; random values that keep the activations
alive take their place. The other examples tune what this one writes.

    python examples/squeezenet.py squeezenet.onnx
"""

from __future__ import annotations

import sys
from math import prod, sqrt
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, numpy_helper

GRAPH = Path(onnx.__file__).parent / "backend/test/data/light/light_squeezenet.onnx"


def build(seed: int = 0) -> ModelProto:
    """SqueezeNet with random weights; input ``data_0`` is float32[1, 3, 224, 224]."""
    model = onnx.load(GRAPH)
    model.ir_version = 8  # since 4, weights need not be listed among the inputs
    graph = model.graph
    shapes = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    rng = np.random.default_rng(seed)
    weights = []
    for node in [n for n in graph.node if n.op_type == "ConstantOfShape"]:
        weight = random_weight(tuple(int(e) for e in shapes.pop(node.input[0])), rng)
        weights.append(numpy_helper.from_array(weight, node.output[0]))
        graph.node.remove(node)
    kept = [i for i in graph.initializer if i.name in shapes]
    inputs = [i for i in graph.input if i.name == "data_0"]
    del graph.initializer[:], graph.input[:]
    graph.initializer.extend([*kept, *weights])
    graph.input.extend(inputs)
    return model


def random_weight(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Scaled by the number of values that are summed, so that activations keep their size."""
    fan_in = prod(shape[1:]) if len(shape) > 1 else 1
    scale = sqrt(2.0 / fan_in) if len(shape) > 1 else 0.1
    return (rng.standard_normal(shape) * scale).astype(np.float32)


if __name__ == "__main__":
    onnx.save(build(), sys.argv[1] if len(sys.argv) > 1 else "squeezenet.onnx")
