"""PyTorch's attention in a child process: imports torch, so only an interpreter that has it may.

Read ``load``. Tensors stay in the layout that the other side has, and so does the result; the
transposes between them are views wherever PyTorch can do with one.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.runtimes import Array, Loaded, Request


def load(request: Request) -> Loaded:
    """``path``: a file of ``Attention.peer``; feeds: ``q``, ``k`` and ``v``.

    Several axes of positions are taken as one, and windows as no limit.
    """
    torch.set_num_threads(request.threads)
    torch.set_grad_enabled(False)
    told = json.loads(Path(request.path).read_text())
    shape = request.feeds["q"].shape
    feeds = [torch.from_numpy(request.feeds[name]) for name in "qkv"]
    if len(shape) > 4:
        feeds = [x.reshape(*shape[:2], -1, shape[-1]) for x in feeds]
    options = {"is_causal": told["causal"]} | ({"enable_gqa": True} if told["grouped"] else {})

    def attended() -> torch.Tensor:
        if not told["tokens_first"]:
            return scaled_dot_product_attention(*feeds, **options).contiguous()
        heads_first = [x.transpose(1, 2) for x in feeds]
        return scaled_dot_product_attention(*heads_first, **options).transpose(1, 2).contiguous()

    def run() -> dict[str, Array]:
        return {"y": attended().numpy().reshape(shape)}

    return Loaded(run, {"version": torch.__version__})
