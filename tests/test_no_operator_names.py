"""Rules see axes, reads and predicates: the three lower packages name no operator."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OPERATORS = (
    "conv", "convolution", "conv1d", "conv2d", "conv3d", "depthwise", "deconv", "matmul", "gemm",
    "gemv", "dense", "linear", "softmax", "layernorm", "layer_norm", "batchnorm", "batch_norm",
    "rmsnorm", "attention", "relu", "gelu", "silu", "pool1d", "pool2d", "pool3d", "pooling",
    "maxpool", "avgpool", "max_pool", "avg_pool", "winograd", "einsum", "embedding", "resize",
    "upsample", "lstm", "gru",
)  # fmt: skip
# A word of this list inside an identifier counts too: needs_conv_tiling, MatmulRule, conv2d_nhwc.
WORDS = re.compile(r"[A-Z]?[a-z]+[0-9]?d?|[A-Z]+(?![a-z])")
# "linear" speaks of index arithmetic, "dense" of memory, never of layers.
SENSES = {"linear", "dense"}
# A function of NumPy, not one of ours.
NUMPY = "np.einsum("


def words_of(text: str) -> set[str]:
    found = {w.lower() for w in WORDS.findall(text)}
    pairs = re.findall(r"[a-z]+_[a-z]+", text.lower())
    return found | set(pairs)


@pytest.mark.parametrize("package", ["schedules", "search_space", "cost_model"])
def test_no_operator_is_named(package: str) -> None:
    for path in sorted((ROOT / package).rglob("*.py")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            named = words_of(line.replace(NUMPY, "")) & (set(OPERATORS) - SENSES)
            assert not named, f"{path.relative_to(ROOT)}:{number} names {', '.join(sorted(named))}"


@pytest.mark.parametrize("text", ["conv2d_nhwc", "MatmulRule", "needs_conv_tiling", "a softmax"])
def test_the_search_finds_names_inside_identifiers(text: str) -> None:
    assert words_of(text) & set(OPERATORS)
