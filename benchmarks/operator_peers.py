"""The same operator for other runtimes: an ONNX model, and a description for PyTorch.

Read ``Geometry``. Layouts are the peers' own, channels first. Separate from ``operators.py``, which
compares, and from ``ansor_lite.workloads``, which writes our side.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[np.float32]]
OPSET = 18


@dataclasses.dataclass(frozen=True, slots=True)
class Geometry:
    """An operator in every runtime's terms.

    ``kind``: convolution, transposed, max, avg or matmul. A matrix product has rows ``n``, columns
    ``co`` and depth ``ci``, and no spatial extents.
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

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


KINDS = {
    "conv1d": "convolution",
    "conv2d": "convolution",
    "conv3d": "convolution",
    "depthwise_conv2d": "convolution",
    "conv2d_transpose": "transposed",
}


def geometry(workload: str, arguments: Mapping[str, Any]) -> Geometry:
    """What a call of ``ansor_lite.workloads`` computes."""
    if workload == "matmul":
        return Geometry("matmul", arguments["m"], arguments["k"], arguments["n"])
    spatial = tuple(arguments[name] for name in "dhw" if name in arguments)

    def each(name: str, otherwise: int) -> tuple[int, ...]:
        value = arguments.get(name, otherwise)
        return (value,) * len(spatial) if isinstance(value, int) else tuple(value)

    ci, co = (arguments["c"],) * 2 if "c" in arguments else (arguments["ci"], arguments["co"])
    groups = ci if workload.startswith("depthwise") else arguments.get("groups", 1)
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


def arrays(of: Geometry, seed: int) -> Arrays:
    """``x``, and ``weight`` and ``bias`` where there are any, in the layouts of ONNX."""
    rng = np.random.default_rng(seed)

    def random(*shape: int) -> NDArray[np.float32]:
        return rng.standard_normal(shape, dtype=np.float32)

    x = random(of.n, of.ci, *of.spatial)
    if of.kind in ("max", "avg"):
        return {"x": x}
    weight = {
        "matmul": (of.ci, of.co),
        "transposed": (of.ci, of.co // of.groups, *of.kernel),
        "convolution": (of.co, of.ci // of.groups, *of.kernel),
    }[of.kind]
    return {"x": x, "weight": random(*weight), "bias": random(of.co)}


def save_onnx(of: Geometry, values: Arrays, path: Path) -> None:
    """A model of one operator with input ``x`` and output ``y``; the rest are initializers."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    constants = [name for name in values if name != "x"]
    names = {"convolution": "Conv", "transposed": "ConvTranspose", "matmul": "Gemm"}
    names |= {"max": "MaxPool", "avg": "AveragePool"}
    node = helper.make_node(names[of.kind], ["x", *constants], ["y"], **_attributes(of))
    graph = helper.make_graph(
        [node],
        "operator",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, values["x"].shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(values[name], name) for name in constants],
    )
    opset = [helper.make_opsetid("", OPSET)]
    # The format of the file that goes with OPSET, for runtimes that are older than the writer.
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)


def _attributes(of: Geometry) -> dict[str, Any]:
    if of.kind == "matmul":
        return {}
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
