"""The same operator for other runtimes: an ONNX model, and a description for PyTorch.

Read ``Geometry``. Layouts are the peers' own, channels first. Separate from ``operators.py``, which
compares, and from ``ansor_lite.workloads``, which writes our side.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from math import pi, sqrt
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[np.float32]]
OPSET = 21


@dataclasses.dataclass(frozen=True, slots=True)
class Geometry:
    """An operator in every runtime's terms.

    ``kind``: convolution, transposed, max, avg, group_norm, matmul, gated, products, or one of
    :data:`ROWS`, with ``ci`` columns. A matrix product has
    rows ``n``, columns ``co`` and depth ``ci``, and no spatial extents; products are ``groups`` of
    them, whose second operand is no constant (by rows of it where ``transposed``).
    """

    kind: str
    n: int
    ci: int
    co: int
    spatial: tuple[int, ...] = ()
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    transposed: bool = False
    activation: str | None = None
    residual: bool = False

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


KINDS = {
    "conv1d": "convolution",
    "conv2d": "convolution",
    "conv3d": "convolution",
    "depthwise_conv2d": "convolution",
    "conv2d_transpose": "transposed",
}

PRODUCTS = {"matmul": "matmul", "gated_matmul": "gated", "batch_matmul": "products"}
ROWS = ("softmax", "layer_norm", "rms_norm")
# Values that are given with every run; all others are constants.
FED = ("x", "other", "residual")


def geometry(workload: str, arguments: Mapping[str, Any]) -> Geometry:
    """What a call of ``ansor_lite.workloads`` computes."""
    if workload in PRODUCTS:
        return _product(PRODUCTS[workload], arguments)
    if workload in ROWS:
        return Geometry(workload, arguments["rows"], *(arguments["columns"],) * 2)
    spatial = tuple(arguments[name] for name in "dhw" if name in arguments)

    def each(name: str, otherwise: int) -> tuple[int, ...]:
        value = arguments.get(name, otherwise)
        return (value,) * len(spatial) if isinstance(value, int) else tuple(value)

    ci, co = (arguments["c"],) * 2 if "c" in arguments else (arguments["ci"], arguments["co"])
    groups = ci if workload.startswith("depthwise") else arguments.get("groups", 1)
    if workload == "group_norm":
        return Geometry("group_norm", arguments["n"], ci, co, spatial, groups=groups)
    return Geometry(
        KINDS.get(workload) or arguments.get("kind", "max"),
        arguments["n"],
        ci,
        co,
        spatial,
        each("kernel", 1),
        each("stride", 1),
        each("padding", 0),
        each("dilation", 1),
        groups,
    )


NORM_CONSTANTS: Mapping[str, tuple[str, ...]] = {
    "softmax": (),
    "rms_norm": ("weight",),
    "layer_norm": ("weight", "bias"),
    "group_norm": ("weight", "bias"),
}


def _product(kind: str, arguments: Mapping[str, Any]) -> Geometry:
    return Geometry(
        kind,
        arguments["m"],
        arguments["k"],
        arguments["n"],
        groups=arguments.get("b", 1),
        transposed=arguments.get("transpose_b", False),
        activation=arguments.get("activation", "silu" if kind == "gated" else None),
        residual=arguments.get("residual", False),
    )


def arrays(of: Geometry, seed: int) -> Arrays:
    """``x``, the other values of :data:`FED`, and the constants, in the layouts of ONNX."""
    rng = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {"x": (of.n, of.ci, *of.spatial)}
    if of.kind == "products":
        other = (of.co, of.ci) if of.transposed else (of.ci, of.co)
        shapes = {"x": (of.groups, of.n, of.ci), "other": (of.groups, *other)}
    elif of.kind == "gated":
        shapes |= {"weight": (of.ci, of.co), "value_weight": (of.ci, of.co)}
    elif of.kind in (*ROWS, "group_norm"):
        shapes |= dict.fromkeys(NORM_CONSTANTS[of.kind], (of.ci,))
    elif of.kind not in ("max", "avg"):
        weight = {
            "matmul": (of.ci, of.co),
            "transposed": (of.ci, of.co // of.groups, *of.kernel),
            "convolution": (of.co, of.ci // of.groups, *of.kernel),
        }[of.kind]
        shapes |= {"weight": weight, "bias": (of.co,)}
    if of.residual:
        shapes |= {"residual": (of.n, of.co)}
    return {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


def save_onnx(of: Geometry, values: Arrays, path: Path) -> None:
    """A model whose inputs are the values of :data:`FED`, with output ``y``."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape)
        for name, value in values.items()
        if name in FED
    ]
    written = _nodes(of, values)
    read = {word for _, words, _, _ in written for word in words}
    constants = {name: value for name, value in values.items() if name not in FED}
    constants |= {name: value for name, value in NUMBERS.items() if name in read}
    nodes = [
        helper.make_node(operator, words, [result], **attributes)
        for operator, words, result, attributes in written
    ]
    graph = helper.make_graph(
        nodes,
        "operator",
        inputs,
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opset = [helper.make_opsetid("", OPSET)]
    # The format of the file that goes with OPSET, for runtimes that are older than the writer.
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)


Node: TypeAlias = tuple[str, list[str], str, dict[str, Any]]
"""Operator, operands, result, attributes."""


def _nodes(of: Geometry, values: Arrays) -> list[Node]:
    """The operator and its epilogue, as exporters write them."""
    nodes = _anchor(of, values)
    if of.residual:
        nodes.append(("Add", [nodes[-1][2], "residual"], "joined", {}))
    if of.activation is not None:
        nodes += _activation(of.activation, nodes[-1][2])
    if of.kind == "gated":
        nodes.append(("MatMul", ["x", "value_weight"], "value", {}))
        nodes.append(("Mul", [nodes[-2][2], "value"], "gated", {}))
    operator, words, _, attributes = nodes.pop()
    return [*nodes, (operator, words, "y", attributes)]


def _anchor(of: Geometry, values: Arrays) -> list[Node]:
    if of.kind == "gated":
        return [("MatMul", ["x", "weight"], "product", {})]
    if of.kind == "products":
        turn: list[Node] = [("Transpose", ["other"], "turned", {"perm": (0, 2, 1)})]
        words = ["x", "turned" if of.transposed else "other"]
        return [*turn[: int(of.transposed)], ("MatMul", words, "product", {})]
    names = {"convolution": "Conv", "transposed": "ConvTranspose", "matmul": "Gemm"}
    names |= {"max": "MaxPool", "avg": "AveragePool", "softmax": "Softmax"}
    names |= {"layer_norm": "LayerNormalization", "group_norm": "GroupNormalization"}
    if of.kind == "rms_norm":
        return RMS_NORM
    words = [name for name in values if name != "residual"]
    return [(names[of.kind], words, "product", _attributes(of))]


RMS_NORM: list[Node] = [
    ("Mul", ["x", "x"], "squared", {}),
    ("ReduceMean", ["squared", "last axis"], "mean", {}),
    ("Add", ["mean", "1e-6"], "shifted", {}),
    ("Sqrt", ["shifted"], "root", {}),
    ("Div", ["x", "root"], "normed", {}),
    ("Mul", ["normed", "weight"], "product", {}),
]
# Operator, operands ("x": what the activation is of), result.
ACTIVATIONS: dict[str, tuple[tuple[str, tuple[str, ...], str], ...]] = {
    "silu": (("Sigmoid", ("x",), "sigmoid"), ("Mul", ("x", "sigmoid"), "silu")),
    "gelu": (
        ("Div", ("x", "sqrt(2)"), "scaled"),
        ("Erf", ("scaled",), "erf"),
        ("Add", ("erf", "1"), "shifted"),
        ("Mul", ("x", "shifted"), "doubled"),
        ("Mul", ("doubled", "1/2"), "gelu"),
    ),
    "gelu_tanh": (
        ("Pow", ("x", "3"), "cube"),
        ("Mul", ("cube", "0.044715"), "small"),
        ("Add", ("x", "small"), "curve"),
        ("Mul", ("curve", "sqrt(2/pi)"), "scaled"),
        ("Tanh", ("scaled",), "tanh"),
        ("Add", ("tanh", "1"), "shifted"),
        ("Mul", ("x", "1/2"), "half"),
        ("Mul", ("half", "shifted"), "gelu"),
    ),
}
NUMBERS: Arrays = {
    name: np.asarray(value, np.float32)
    for name, value in {
        "sqrt(2)": sqrt(2), "1": 1, "1/2": 0.5, "3": 3, "0.044715": 0.044715,
        "sqrt(2/pi)": sqrt(2 / pi), "1e-6": 1e-6,
    }.items()
} | {"last axis": np.asarray([-1], np.int64)}  # fmt: skip


def _activation(name: str, of: str) -> list[Node]:
    return [
        (operator, [of if word == "x" else word for word in words], result, {})
        for operator, words, result in ACTIVATIONS[name]
    ]


def _attributes(of: Geometry) -> dict[str, Any]:
    if of.kind in ("matmul", "softmax"):
        return {}
    if of.kind in ("layer_norm", "group_norm"):
        return {"epsilon": 1e-5} | ({"num_groups": of.groups} if of.kind == "group_norm" else {})
    found: dict[str, Any] = {
        "kernel_shape": of.kernel,
        "strides": of.stride,
        "pads": of.padding * 2,
    }
    if of.kind == "avg":
        return found | {"count_include_pad": 1}
    if of.kind == "max":
        return found
    return found | {"dilations": of.dilation, "group": of.groups}
