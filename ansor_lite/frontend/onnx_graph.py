"""A mutable view of an ONNX graph: nodes, constants as numpy arrays, uses.

The rewrites work on this view; ``to_model`` writes it back without what nobody uses.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

Array = NDArray[Any]


@dataclass
class OnnxGraph:
    """``nodes`` in topological order; ``constants`` are the initializers; no name is both."""

    model: onnx.ModelProto
    nodes: list[onnx.NodeProto]
    protos: dict[str, onnx.TensorProto]
    arrays: dict[str, Array] = field(default_factory=dict)
    fresh: int = 0

    @staticmethod
    def of(model: onnx.ModelProto) -> OnnxGraph:
        """A view with nodes of its own: ``model`` never changes."""
        nodes = list(onnx.GraphProto(node=model.graph.node).node)
        return OnnxGraph(model, nodes, {t.name: t for t in model.graph.initializer})

    @property
    def outputs(self) -> set[str]:
        return {o.name for o in self.model.graph.output}

    @property
    def opset(self) -> int:
        """The version of the standard operators."""
        versions = (o.version for o in self.model.opset_import if o.domain in ("", "ai.onnx"))
        return next(versions, 1)

    def is_constant(self, name: str) -> bool:
        return name in self.arrays or name in self.protos

    def value(self, name: str) -> Array:
        """The constant called ``name``; converted from its tensor once."""
        if name not in self.arrays:
            self.arrays[name] = numpy_helper.to_array(self.protos[name])
        return self.arrays[name]

    def take(self, name: str) -> Array:
        """The constant called ``name``; where the model holds it too, the array is let go."""
        value = self.value(name)
        if name in self.protos:
            del self.arrays[name]
        return value

    def constant(self, name: str) -> Array | None:
        return self.value(name) if self.is_constant(name) else None

    def add_constant(self, value: Array, hint: str) -> str:
        """A new initializer; returns its name."""
        name = self.fresh_name(hint)
        self.arrays[name] = value
        return name

    def fresh_name(self, hint: str) -> str:
        self.fresh += 1
        return f"{hint}/folded.{self.fresh}"

    def uses(self) -> Counter[str]:
        """How often each value is read; being an output of the graph counts as a read."""
        found = Counter(name for node in self.nodes for name in node.input if name)
        found.update(self.outputs)
        return found

    def consumers(self) -> dict[str, list[onnx.NodeProto]]:
        found: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                found.setdefault(name, []).append(node)
        return found

    def producers(self) -> dict[str, onnx.NodeProto]:
        return {name: node for node in self.nodes for name in node.output if name}

    def remove(self, gone: list[onnx.NodeProto]) -> None:
        ids = {id(node) for node in gone}
        self.nodes = [node for node in self.nodes if id(node) not in ids]

    def used_constants(self) -> list[str]:
        """Names of the constants that the nodes or the outputs read."""
        used = {name for node in self.nodes for name in node.input} | self.outputs
        return [n for n in dict.fromkeys([*self.protos, *self.arrays]) if n in used]

    def skeleton(self) -> onnx.ModelProto:
        """The model without what nobody uses, and without the values of its constants."""
        self._drop_unused_nodes()
        graph = self.model.graph
        result = onnx.ModelProto(
            ir_version=max(self.model.ir_version, 4), opset_import=self.model.opset_import
        )
        result.graph.name = graph.name or "graph"
        result.graph.node.extend(self.nodes)
        result.graph.input.extend(i for i in graph.input if i.name not in self.protos)
        result.graph.output.extend(graph.output)
        return result

    def to_model(self) -> onnx.ModelProto:
        """The whole model; copies every weight."""
        result = self.skeleton()
        result.graph.initializer.extend(
            self.protos[n] if n not in self.arrays else _tensor(self.arrays[n], n)
            for n in self.used_constants()
        )
        return result

    def _drop_unused_nodes(self) -> None:
        needed = set(self.outputs)
        kept: list[onnx.NodeProto] = []
        for node in reversed(self.nodes):
            if has_subgraph(node) or any(name in needed for name in node.output):
                kept.append(node)
                needed.update(node.input)
        self.nodes = kept[::-1]


def _tensor(array: Array, name: str) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(array, order="C"), name)


def has_subgraph(node: onnx.NodeProto) -> bool:
    """Whether the node runs graphs of its own (``If``, ``Loop``), which read outer names unseen."""
    return any(a.HasField("g") or a.graphs for a in node.attribute)


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    for a in node.attribute:
        if a.name == name:
            return onnx.helper.get_attribute_value(a)
    return default
