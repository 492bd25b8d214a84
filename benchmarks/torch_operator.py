"""One operator in PyTorch, eager: imports torch, so only a child whose interpreter has it may.

Read ``load``. Weights come with the inputs; the memory format that is faster here is used.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from benchmarks.runtimes import Array, Loaded, Request

TRIALS = 5
# Channels last, by the number of dimensions of the data.
FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}

ACTIVATIONS: Mapping[str | None, Callable[[torch.Tensor], torch.Tensor]] = {
    None: lambda x: x,
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
}


def load(request: Request) -> Loaded:
    """``path``: a file of ``Geometry.to_json``."""
    torch.set_num_threads(request.threads)
    torch.set_grad_enabled(False)
    geometry = json.loads(Path(request.path).read_text())
    tensors = {name: torch.from_numpy(array) for name, array in request.feeds.items()}
    formats = {"contiguous": torch.contiguous_format}
    if (last := FORMATS.get(tensors["x"].dim())) is not None:
        formats["channels last"] = last
    calls = {name: _call(geometry, tensors, layout) for name, layout in formats.items()}
    chosen = min(calls, key=lambda name: _least_seconds(calls[name]))
    call = calls[chosen]

    def run() -> dict[str, Array]:
        return {"y": call().numpy()}

    return Loaded(run, {"version": torch.__version__, "memory_format": chosen})


def _call(
    geometry: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], layout: torch.memory_format
) -> Callable[[], torch.Tensor]:
    x = tensors["x"].contiguous(memory_format=layout)
    if geometry["kind"] in ("matmul", "gated", "products"):
        return _product_call(geometry, tensors)
    weight, bias = tensors.get("weight"), tensors.get("bias")
    kind, rank = geometry["kind"], len(geometry["kernel"])
    if kind == "softmax":
        return lambda: functional.softmax(x, -1)
    if kind == "layer_norm":
        return lambda: functional.layer_norm(x, x.shape[-1:], weight, bias)
    if kind == "rms_norm":
        return lambda: functional.rms_norm(x, x.shape[-1:], weight, 1e-6)
    if kind == "group_norm":
        return lambda: functional.group_norm(x, geometry["groups"], weight, bias)
    stride, padding = geometry["stride"], geometry["padding"]
    if kind in ("max", "avg"):
        pool = getattr(functional, f"{kind}_pool{rank}d")
        return lambda: pool(x, geometry["kernel"], stride, padding)
    assert weight is not None
    if weight.dim() == x.dim():
        weight = weight.contiguous(memory_format=layout)
    groups, dilation = geometry["groups"], geometry["dilation"]
    if kind == "transposed":
        transpose = getattr(functional, f"conv_transpose{rank}d")
        return lambda: transpose(x, weight, bias, stride, padding, 0, groups, dilation)
    convolve = getattr(functional, f"conv{rank}d")
    return lambda: convolve(x, weight, bias, stride, padding, dilation, groups)


def _product_call(
    geometry: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]
) -> Callable[[], torch.Tensor]:
    x, residual = tensors["x"], tensors.get("residual")
    if geometry["kind"] == "products":
        other = tensors["other"]
        other = other.transpose(1, 2) if geometry["transposed"] else other
        return lambda: torch.matmul(x, other)
    weight, bias = tensors["weight"].T.contiguous(), tensors.get("bias")
    activation = ACTIVATIONS[geometry["activation"]]
    if geometry["kind"] == "gated":
        value = tensors["value_weight"].T.contiguous()
        return lambda: activation(functional.linear(x, weight)) * functional.linear(x, value)
    if residual is None:
        return lambda: activation(functional.linear(x, weight, bias))
    return lambda: activation(functional.linear(x, weight, bias) + residual)


def _least_seconds(call: Callable[[], torch.Tensor]) -> float:
    seconds = []
    for _ in range(TRIALS):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
