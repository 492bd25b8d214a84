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
    weight, bias = tensors.get("weight"), tensors.get("bias")
    kind, rank = geometry["kind"], len(geometry["kernel"])
    stride, padding = geometry["stride"], geometry["padding"]
    if kind in ("max", "avg"):
        pool = getattr(functional, f"{kind}_pool{rank}d")
        return lambda: pool(x, geometry["kernel"], stride, padding)
    assert weight is not None
    if kind == "matmul":
        transposed = weight.T.contiguous()
        return lambda: functional.linear(x, transposed, bias)
    if weight.dim() == x.dim():
        weight = weight.contiguous(memory_format=layout)
    groups, dilation = geometry["groups"], geometry["dilation"]
    if kind == "transposed":
        transpose = getattr(functional, f"conv_transpose{rank}d")
        return lambda: transpose(x, weight, bias, stride, padding, 0, groups, dilation)
    convolve = getattr(functional, f"conv{rank}d")
    return lambda: convolve(x, weight, bias, stride, padding, dilation, groups)


def _least_seconds(call: Callable[[], torch.Tensor]) -> float:
    seconds = []
    for _ in range(TRIALS):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
