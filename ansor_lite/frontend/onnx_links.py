"""Who computes a value, who reads it and what shape it has, for rewrites that follow values.

Separate from ``onnx_graph.py``, because this is a snapshot: whoever changes nodes makes a new one,
or keeps it current.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx

from ansor_lite.frontend.onnx_graph import OnnxGraph
from ansor_lite.frontend.onnx_shapes import Shape


@dataclass(frozen=True, slots=True)
class Cut:
    """The entries ``start:stop`` along ``axis``."""

    axis: int
    start: int
    stop: int

    def of(self, shape: Shape) -> Shape:
        return (*shape[: self.axis], self.stop - self.start, *shape[self.axis + 1 :])


@dataclass(frozen=True, slots=True)
class Links:
    """``shapes``: of computed values and inputs, where they are known."""

    graph: OnnxGraph
    shapes: dict[str, Shape]
    producers: Mapping[str, onnx.NodeProto]
    consumers: Mapping[str, list[onnx.NodeProto]]

    @staticmethod
    def of(graph: OnnxGraph, shapes: dict[str, Shape]) -> Links:
        return Links(graph, shapes, graph.producers(), graph.consumers())

    def shape(self, name: str) -> Shape | None:
        """Of a value or a constant."""
        value = self.graph.constant(name) if name else None
        return value.shape if value is not None else self.shapes.get(name)

    def is_read_once(self, name: str) -> bool:
        return len(self.consumers.get(name, [])) == 1 and name not in self.graph.outputs

    def made_by(self, name: str, *operators: str) -> onnx.NodeProto | None:
        node = self.producers.get(name)
        return node if node is not None and node.op_type in operators else None

    def number(self, name: str) -> float | None:
        """The only element of a constant."""
        value = self.graph.constant(name)
        return float(value.reshape(())) if value is not None and value.size == 1 else None

    def cut(self, node: onnx.NodeProto) -> Cut | None:
        """What a ``Slice`` along one axis keeps, if it is known and has no gaps."""
        shape = self.shapes.get(node.input[0]) if node.op_type == "Slice" else None
        given = [self.number(name) for name in node.input[1:]]
        if shape is None or len(given) < 3 or None in given:
            return None
        start, stop, axis, *step = (int(number) for number in given if number is not None)
        if step not in ([], [1]):
            return None
        axis %= len(shape)
        return Cut(axis, *slice(start, stop).indices(shape[axis])[:2])
