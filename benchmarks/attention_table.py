"""Which attentions ``attention.py`` measures: one row each, written as calls of ``workloads``.

Also the same for the peers: what PyTorch is told, and the ONNX graph of the decomposed form, which
gathers the keys and values of every window. Separate so that the table is easy to find.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod, sqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ansor_lite import workloads
from ansor_lite.tasks import Task

OPSET = 18
NAMES = ("q", "k", "v")


@dataclass(frozen=True, slots=True)
class Attention:
    """A call of ``ansor_lite.workloads.attention``. ``bandwidth``: memory is its limit."""

    name: str
    arguments: Mapping[str, Any]
    bandwidth: bool = False

    def task(self) -> Task:
        return workloads.attention(**self.arguments)

    @property
    def queries(self) -> tuple[int, ...]:
        """Positions along each axis."""
        value = self.arguments["queries"]
        return (value,) if isinstance(value, int) else tuple(value)

    def each(self, name: str) -> tuple[int, ...]:
        """``window`` or ``dilation`` along each axis."""
        value = self.arguments.get(name, 1)
        return (value,) * len(self.queries) if isinstance(value, int) else tuple(value)

    @property
    def is_windowed(self) -> bool:
        return "window" in self.arguments

    @property
    def pairs(self) -> int:
        """Pairs of a query and a key that it sees, in one head."""
        queries = prod(self.queries)
        if self.is_windowed:
            return queries * prod(self.each("window"))
        keys: int = self.arguments.get("keys", queries)
        if self.arguments.get("causal", False):
            return sum(min(keys, keys - queries + i + 1) for i in range(queries))
        return queries * keys

    @property
    def useful_flop(self) -> float:
        """Two products of a multiply-add for every channel of every pair."""
        return 4.0 * self.pairs * int(self.arguments["heads"]) * int(self.arguments["depth"])

    def peer(self) -> dict[str, Any]:
        """What ``torch_attention.py`` needs to know: windows become attention over all tokens."""
        return {
            "tokens_first": self.arguments.get("layout", "bhsd") == "bshd",
            "causal": self.arguments.get("causal", False),
            "grouped": "kv_heads" in self.arguments,
        }

    def arrays(self, seed: int) -> dict[str, NDArray[np.float32]]:
        """Random ``q``, ``k`` and ``v``."""
        rng = np.random.default_rng(seed)
        inputs = self.task().dag.inputs
        return {t.name: rng.standard_normal(t.shape, dtype=np.float32) for t in inputs}


def window_table(extent: int, window: int, dilation: int) -> NDArray[np.int64]:
    """``[extent, window]``: the positions that each position sees."""
    position = np.arange(extent)
    phase, step = position % dilation, position // dilation
    length = -(-(extent - phase) // dilation)
    first = np.clip(step - window // 2, 0, length - window)
    return (first[:, None] + np.arange(window)) * dilation + phase[:, None]


def save_gathered(of: Attention, path: Path) -> None:
    """The decomposed form as ONNX: gather keys and values by constant indices, multiply, softmax,
    multiply. Inputs ``q``, ``k`` and ``v``, output ``y``."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    (shape,) = {t.shape for t in of.task().dag.inputs}
    batch, heads, *sizes, depth = shape
    tokens = prod(sizes)
    table = _joint_table(of, sizes)
    constants = {
        "row": np.array([batch, heads, tokens, depth], np.int64),
        "column": np.array([batch, heads, tokens, depth, 1], np.int64),
        "flat": np.array([batch, heads, tokens, 1, table.shape[1]], np.int64),
        "shape": np.array(shape, np.int64),
        "table": table,
        "scale": np.array(1 / sqrt(depth), np.float32),
    }
    node = helper.make_node
    nodes = [
        node("Reshape", ["q", "column"], ["queries"]),
        *(node("Reshape", [x, "row"], [f"{x}_row"]) for x in "kv"),
        *(node("Gather", [f"{x}_row", "table"], [f"{x}_windows"], axis=2) for x in "kv"),
        node("MatMul", ["k_windows", "queries"], ["scores"]),
        node("Reshape", ["scores", "flat"], ["scores_flat"]),
        node("Mul", ["scores_flat", "scale"], ["scaled"]),
        node("Softmax", ["scaled"], ["shares"], axis=-1),
        node("MatMul", ["shares", "v_windows"], ["attended"]),
        node("Reshape", ["attended", "shape"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "gathered",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in NAMES],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opset = [helper.make_opsetid("", OPSET)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)


def _joint_table(of: Attention, sizes: list[int]) -> NDArray[np.int64]:
    """``[tokens, keys of a window]`` over all axes, row by row."""
    joint = np.zeros((1, 1), np.int64)
    for columns in zip(sizes, of.each("window"), of.each("dilation"), strict=True):
        table = window_table(*columns)
        wide = joint[:, None, :, None] * columns[0] + table[None, :, None, :]
        joint = wide.reshape(joint.shape[0] * table.shape[0], -1)
    return joint


def _dense(tokens: int, causal: bool) -> Attention:
    arguments = {
        "heads": 12, "queries": tokens, "depth": 64, "causal": causal, "layout": "bshd",
    }  # fmt: skip
    return Attention(f"{tokens} tokens{', causal' if causal else ''}", arguments)


def _image(dilation: int) -> Attention:
    arguments = {
        "heads": 4, "queries": (56, 56), "depth": 32, "window": (7, 7), "dilation": dilation,
    }  # fmt: skip
    return Attention(f"window 7x7 of 56x56, dilation {dilation}", arguments)


ATTENTIONS: tuple[Attention, ...] = (
    *(_dense(tokens, causal) for tokens in (128, 197, 512, 2048, 8192) for causal in (False, True)),
    Attention(
        "decode, 4096 cached, 32 heads over 8",
        {"heads": 32, "queries": 1, "keys": 4096, "depth": 128, "kv_heads": 8},
        bandwidth=True,
    ),
    _image(1),
    _image(2),
    Attention(
        "window 127 of 4096", {"heads": 4, "queries": 4096, "depth": 32, "window": 127}
    ),
)  # fmt: skip
