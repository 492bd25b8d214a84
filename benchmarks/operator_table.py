"""Which operators ``operators.py`` measures: one row each, written as calls of ``workloads``.

A new row needs no other change. Separate so that the table is easy to find and to extend.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ansor_lite import workloads
from ansor_lite.tasks import Task


@dataclass(frozen=True, slots=True)
class Operator:
    """A call of ``ansor_lite.workloads``. ``round_shape``: the row whose extents are the next round
    ones, which this one is compared with."""

    name: str
    workload: str
    arguments: Mapping[str, Any]
    round_shape: str = ""

    def task(self) -> Task:
        """The operator and its bias; an activation only where the row names one."""
        plain = {} if self.workload in WITHOUT_BIAS else {"bias": True, "activation": None}
        task: Task = getattr(workloads, self.workload)(**(plain | dict(self.arguments)))
        return task


WITHOUT_BIAS = (
    *("pool2d", "batch_matmul", "gated_matmul"),
    *("softmax", "layer_norm", "rms_norm", "group_norm"),
)


def _conv(
    name: str, size: int, ci: int, co: int, kernel: int, stride: int = 1, *,
    dilation: int = 1, groups: int = 1, n: int = 1, round_shape: str = "",
) -> Operator:  # fmt: skip
    arguments = {
        "n": n, "h": size, "w": size, "ci": ci, "co": co, "kernel": kernel, "stride": stride,
        "padding": dilation * (kernel // 2), "dilation": dilation, "groups": groups,
    }  # fmt: skip
    return Operator(name, "conv2d", arguments, round_shape)


def _depthwise(kernel: int, stride: int, size: int, channels: int) -> Operator:
    arguments = {
        "n": 1, "h": size, "w": size, "c": channels, "kernel": kernel, "stride": stride,
        "padding": kernel // 2,
    }  # fmt: skip
    name = f"depthwise {kernel}x{kernel} stride {stride}, {size}x{size}x{channels}"
    return Operator(name, "depthwise_conv2d", arguments)


def _pool(kind: str, kernel: int, stride: int, padding: int, size: int, c: int) -> Operator:
    arguments = {
        "n": 1, "h": size, "w": size, "c": c, "kernel": kernel, "stride": stride,
        "padding": padding, "kind": kind,
    }  # fmt: skip
    name = f"{kind} pool {kernel}x{kernel} stride {stride}, {size}x{size}x{c}"
    return Operator(name, "pool2d", arguments)


def _matmul(m: int, k: int, n: int, **epilogue: Any) -> Operator:
    words = [f"matmul {m}x{k}x{n}"]
    words += [name if value is True else str(value) for name, value in epilogue.items()]
    return Operator(", ".join(words), "matmul", {"m": m, "n": n, "k": k, **epilogue})


def _products(b: int, m: int, k: int, n: int, transpose_b: bool = False) -> Operator:
    name = f"{b} products {m}x{k}x{n}" + " of rows" * transpose_b
    arguments = {"b": b, "m": m, "n": n, "k": k, "transpose_b": transpose_b}
    return Operator(name, "batch_matmul", arguments)


def _gated(m: int, k: int, n: int) -> Operator:
    return Operator(f"gated matmul {m}x{k}x{n}", "gated_matmul", {"m": m, "n": n, "k": k})


def _rows(workload: str, rows: int, columns: int) -> Operator:
    name = f"{workload.replace('_', ' ')} {rows}x{columns}"
    return Operator(name, workload, {"rows": rows, "columns": columns})


OPERATORS: tuple[Operator, ...] = (
    # resnet50
    _conv("resnet50 3x3, 56x56x64", 56, 64, 64, 3),
    _conv("resnet50 3x3, 28x28x128", 28, 128, 128, 3),
    _conv("resnet50 3x3, 14x14x256", 14, 256, 256, 3),
    _conv("resnet50 1x1, 56x56x64 to 256", 56, 64, 256, 1),
    _conv("resnet50 1x1, 28x28x512 to 128", 28, 512, 128, 1),
    _conv("resnet50 1x1, 14x14x1024 to 256", 14, 1024, 256, 1),
    _conv("resnet50 1x1, 7x7x512 to 2048", 7, 512, 2048, 1),
    _conv("resnet50 7x7 stride 2, 224x224x3", 224, 3, 64, 7, 2),
    # odd extents beside the next round ones
    _conv("odd 3x3, 7x7x512", 7, 512, 512, 3, round_shape="round 3x3, 8x8x512"),
    _conv("round 3x3, 8x8x512", 8, 512, 512, 3),
    _conv("odd 3x3, 17x17x192", 17, 192, 192, 3, round_shape="round 3x3, 24x24x192"),
    _conv("round 3x3, 24x24x192", 24, 192, 192, 3),
    _conv("odd 3x3, 93 to 117", 28, 93, 117, 3, round_shape="round 3x3, 96 to 128"),
    _conv("round 3x3, 96 to 128", 28, 96, 128, 3),
    _conv("odd 1x1, 93 to 117", 28, 93, 117, 1, round_shape="round 1x1, 96 to 128"),
    _conv("round 1x1, 96 to 128", 28, 96, 128, 1),
    Operator(
        "odd 16 rows, 1000 classes", "matmul", {"m": 16, "n": 1000, "k": 2048},
        "round 16 rows, 1024 classes",
    ),
    Operator("round 16 rows, 1024 classes", "matmul", {"m": 16, "n": 1024, "k": 2048}),
    Operator("one row, 1000 classes", "matmul", {"m": 1, "n": 1000, "k": 2048}),
    # transformers: layers of 128 and 197 tokens, vocabularies, epilogues
    _matmul(128, 768, 768),
    _matmul(128, 768, 3072),
    _matmul(128, 3072, 768),
    _matmul(197, 768, 768),
    _matmul(128, 768, 30522),
    _matmul(128, 768, 50257),
    _matmul(128, 768, 3072, activation="gelu"),
    _matmul(128, 768, 3072, activation="gelu_tanh"),
    _matmul(128, 768, 3072, activation="silu"),
    _matmul(128, 3072, 768, residual=True),
    _gated(128, 768, 2048),
    # few rows: the weights come from memory
    *(_matmul(m, 4096, 4096) for m in (1, 4, 8, 16)),
    # products of activations, as attention has them
    _products(12, 128, 64, 128, transpose_b=True),
    _products(12, 128, 128, 64),
    _products(12, 197, 64, 197, transpose_b=True),
    _products(12, 197, 197, 64),
    # depthwise
    _depthwise(3, 1, 56, 144),
    _depthwise(3, 2, 56, 144),
    _depthwise(5, 1, 28, 240),
    _depthwise(5, 2, 28, 240),
    _depthwise(7, 1, 56, 96),
    _depthwise(9, 1, 28, 192),
    _depthwise(11, 2, 28, 192),
    _depthwise(13, 1, 28, 192),
    # pooling
    _pool("max", 3, 2, 1, 112, 64),
    _pool("max", 3, 1, 1, 28, 192),
    _pool("avg", 2, 2, 0, 56, 128),
    _pool("avg", 7, 7, 0, 7, 2048),
    # rows
    *(
        _rows(kind, rows, columns)
        for kind in ("layer_norm", "rms_norm", "softmax")
        for rows, columns in ((128, 768), (197, 768), (4096, 4096), (1, 4096))
    ),
    _rows("layer_norm", 3136, 96),
    _rows("softmax", 2364, 197),
    _rows("softmax", 1, 50257),
    Operator(
        "group norm, 32 groups, 64x64x320", "group_norm",
        {"n": 1, "h": 64, "w": 64, "c": 320, "groups": 32},
    ),
    Operator(
        "instance norm, 64x64x320", "group_norm",
        {"n": 1, "h": 64, "w": 64, "c": 320, "groups": 320},
    ),
    # other forms
    _conv("32 groups of 4, 3x3, 56x56", 56, 128, 128, 3, groups=32),
    _conv("32 groups of 8, 3x3, 28x28", 28, 256, 256, 3, groups=32),
    _conv("4 groups of 32, 3x3, 28x28", 28, 128, 128, 3, groups=4),
    _conv("dilated by 2, 3x3, 28x28x128", 28, 128, 128, 3, dilation=2),
    Operator(
        "transposed 4x4 stride 2, 16x16x256 to 128", "conv2d_transpose",
        {"n": 1, "h": 16, "w": 16, "ci": 256, "co": 128, "kernel": 4, "stride": 2, "padding": 1},
    ),
    Operator(
        "1-D of 3, 1500x384", "conv1d",
        {"n": 1, "w": 1500, "ci": 384, "co": 384, "kernel": 3, "padding": 1},
    ),
    Operator(
        "3-D 3x3x3, 8x28x28x128", "conv3d",
        {"n": 1, "d": 8, "h": 28, "w": 28, "ci": 128, "co": 128, "kernel": 3, "padding": 1},
    ),
)  # fmt: skip
