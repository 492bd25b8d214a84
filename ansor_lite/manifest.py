"""What a compiled module's file holds behind the shared library: weights and manifest.

``dlopen`` ignores what follows the sections, so the file stays an ordinary shared library. Layout:
library, zeros up to a multiple of ``PAGE``, weights as ``program.py`` places them, UTF-8 JSON, then
as 8 little-endian bytes each where the weights start and the length of the JSON, then ``MAGIC``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ansor_lite.errors import InputError
from ansor_lite.frontend.network import TensorInfo
from ansor_lite.memory import arena
from ansor_lite.program import Program, tensor_bytes

MAGIC = b"ansor-lite-v2\n\0\0"
FORMAT = 2
PAGE = 4096
# Separates the symbol of a kernel from the slice of a larger result that this copy writes.
SLICE_MARK = "__slice"
_NUMBER = 8
_TAIL = 2 * _NUMBER + len(MAGIC)


@dataclass(frozen=True, slots=True)
class KernelInfo:
    """One distinct kernel. ``source``: digest of the scheduled TensorIR; ``tuned``: from a record.

    ``gflop`` and ``bytes`` are of one call; ``reason`` says why TVM's default lowering was used.
    """

    symbol: str
    name: str
    key: str
    source: str
    uses: int
    gflop: float = 0.0
    bytes: int = 0
    tuned: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a compiled module is. ``target`` is the JSON form of the target it was built for."""

    network: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    target: dict[str, Any]
    threads: int
    log_digest: str
    kernels: tuple[KernelInfo, ...]
    program: Program
    versions: dict[str, str]
    format: int = FORMAT

    @property
    def gflop(self) -> float:
        """Work of one run of the whole network."""
        return sum(k.gflop * k.uses for k in self.kernels)

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> Manifest:
        """Raises ``KeyError``, ``TypeError`` or ``ValueError`` for anything else."""
        value = json.loads(text)
        value["inputs"] = tuple(
            TensorInfo(t["name"], tuple(t["shape"]), t["dtype"]) for t in value["inputs"]
        )
        value["outputs"] = tuple(
            TensorInfo(t["name"], tuple(t["shape"]), t["dtype"]) for t in value["outputs"]
        )
        value["kernels"] = tuple(KernelInfo(**k) for k in value["kernels"])
        value["program"] = Program.from_json(value["program"])
        return Manifest(**value)


def append(library: Path, manifest: Manifest, weights: Sequence[NDArray[Any]]) -> None:
    """Append weights (in the program's order) and manifest to a library that has none yet."""
    text = manifest.to_json().encode()
    with library.open("r+b") as file:
        start = -(-file.seek(0, 2) // PAGE) * PAGE
        for place, array in zip(manifest.program.weights, weights, strict=True):
            file.seek(start + place.offset)
            np.ascontiguousarray(array).tofile(file)
        file.seek(start + manifest.program.weight_bytes)
        numbers = (n.to_bytes(_NUMBER, "little") for n in (start, len(text)))
        file.write(text + b"".join(numbers) + MAGIC)


def read_manifest(library: Path) -> tuple[Manifest, int]:
    """The manifest of a compiled module and where in the file its weights start.

    Raises :class:`InputError` when ``library`` is no compiled module.
    """
    if not library.is_file():
        raise InputError(f"no such file: {library}")
    with library.open("rb") as file:
        size = library.stat().st_size
        file.seek(max(0, size - _TAIL))
        tail = file.read()
        start, length = (int.from_bytes(tail[i : i + _NUMBER], "little") for i in (0, _NUMBER))
        if tail[2 * _NUMBER :] != MAGIC or start + length > size - _TAIL:
            raise InputError(f"{library} is not a compiled module of this version of ansor-lite")
        file.seek(size - _TAIL - length)
        return Manifest.from_json(file.read(length).decode()), start


def resident_weights(library: Path, program: Program, start: int) -> list[NDArray[Any]]:
    """The weights, read into memory on huge pages (see ``memory.py``)."""
    memory = arena(program.weight_bytes)
    with library.open("rb") as file:
        file.seek(start)
        read = file.readinto(memory.data)
    if read != len(memory):
        raise InputError(f"{library} ends before its weights do")
    return [
        memory[w.offset : w.offset + tensor_bytes(w.shape, w.dtype)].view(w.dtype).reshape(w.shape)
        for w in program.weights
    ]
