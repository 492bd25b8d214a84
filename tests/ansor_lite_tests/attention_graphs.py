"""What ``attention_forms.py`` builds its graphs with; ``FORMS`` is their table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Array = NDArray[Any]
Build = Callable[[], "Form"]

LOWEST = float(np.finfo(np.float32).min)
BATCH, HEADS, TOKENS, DEPTH = 2, 4, 20, 16
SCALE = 1 / sqrt(DEPTH)
FORMS: dict[str, Build] = {}


@dataclass(frozen=True)
class Form:
    model: onnx.ModelProto
    feeds: dict[str, Array]
    expected: Array


class Graph:
    """A model in the making; ``g.Add(a, b)`` is the result of a node."""

    def __init__(self, opset: int = 20) -> None:
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Array] = {}
        self.feeds: dict[str, Array] = {}

    def __getattr__(self, op: str) -> Callable[..., Any]:
        def node(*inputs: str, results: int = 1, domain: str = "", **attributes: Any) -> Any:
            names = [f"{op.lower()}{len(self.nodes)}.{i}" for i in range(results)]
            made = helper.make_node(op, list(inputs), names, domain=domain, **attributes)
            self.nodes.append(made)
            return names[0] if results == 1 else names

        return node

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(value, dtype)
        return name

    def input(self, name: str, value: Array) -> str:
        self.feeds[name] = value
        return name

    def shaped(self, x: str, *shape: int) -> str:
        return self.Reshape(x, self.constant(shape, np.int64))

    def turned(self, x: str, *order: int) -> str:
        return self.Transpose(x, perm=order)

    def cut(self, x: str, axis: int, start: int, stop: int, step: int = 1) -> str:
        bounds = [self.constant([n], np.int64) for n in (start, stop, axis, step)]
        return self.Slice(x, *bounds)

    def form(self, result: str, expected: Array) -> Form:
        self.nodes.append(helper.make_node("Identity", [result], ["y"]))
        graph = helper.make_graph(
            self.nodes,
            "form",
            [
                helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
                for n, v in self.feeds.items()
            ],
            [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, expected.shape)],
            [numpy_helper.from_array(v, n) for n, v in self.constants.items()],
        )
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]
        return Form(
            helper.make_model(graph, opset_imports=opsets, ir_version=10), self.feeds, expected
        )


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def attended(q: Array, k: Array, v: Array, bias: Any = 0, scale: float = SCALE) -> Array:
    """Attention in float64; a query that may attend to nothing gets zeros."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    scores = q @ np.swapaxes(k, -1, -2) * scale + bias
    largest = np.maximum(scores.max(-1, keepdims=True), LOWEST)
    shares = np.exp(scores - largest)
    return shares / np.maximum(shares.sum(-1, keepdims=True), 1e-300) @ v


def form(build: Build) -> Build:
    FORMS[build.__name__] = build
    return build


def heads_first(
    g: Graph, heads: int = HEADS, groups: int = HEADS, queries: int = TOKENS, keys: int = TOKENS
) -> tuple[str, str, str]:
    """Inputs q, k, v: [batch, heads, tokens, depth]."""
    q = g.input("q", normal(BATCH, heads, queries, DEPTH))
    k = g.input("k", normal(BATCH, groups, keys, DEPTH, seed=1))
    v = g.input("v", normal(BATCH, groups, keys, DEPTH, seed=2))
    return q, k, v


def of_inputs(g: Graph, bias: Any = 0, scale: float = SCALE) -> Array:
    q, k, v = g.feeds["q"], g.feeds["k"], g.feeds["v"]
    repeats = q.shape[1] // k.shape[1]
    return attended(q, np.repeat(k, repeats, 1), np.repeat(v, repeats, 1), bias, scale)


def scaled(g: Graph, scores: str) -> str:
    return g.Mul(scores, g.constant(SCALE))


def softmax(g: Graph, scores: str) -> str:
    return g.Softmax(scores, axis=-1)


def scores_of(g: Graph, q: str, k: str) -> str:
    """Of heads first."""
    return scaled(g, g.MatMul(q, g.turned(k, 0, 1, 3, 2)))
