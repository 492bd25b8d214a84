"""What every frontend produces: a Relax module and the interface its user sees.

Separate from the importers so that the compiler does not depend on ONNX.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """An input or output of a network: the name the user gave, static shape, numpy dtype name."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class Network:
    """``module``: a ``tvm.IRModule``; its ``main`` takes ``inputs`` and returns ``outputs``."""

    name: str
    module: Any
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
