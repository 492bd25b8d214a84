"""The manifest of a compiled module: JSON appended to the shared library, behind its last section.

``dlopen`` ignores what follows the sections, so the file stays an ordinary shared library. Layout:
library, UTF-8 JSON, its length as 8 little-endian bytes, ``MAGIC``.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ansor_lite.errors import InputError
from ansor_lite.frontend.network import TensorInfo

MAGIC = b"ansor-lite-v1\n\0\0"
FORMAT = 1
# Separates the symbol of a kernel from the slice of a larger result that this copy writes.
SLICE_MARK = "__slice"
_TAIL = 8 + len(MAGIC)


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
        return Manifest(**value)


def append_manifest(library: Path, manifest: Manifest) -> None:
    """Append to a library that has none yet."""
    text = manifest.to_json().encode()
    with library.open("ab") as file:
        file.write(text + len(text).to_bytes(8, "little") + MAGIC)


def read_manifest(library: Path) -> Manifest:
    """The manifest of a compiled module; raises :class:`InputError` when ``library`` is none."""
    if not library.is_file():
        raise InputError(f"no such file: {library}")
    with library.open("rb") as file:
        size = library.stat().st_size
        file.seek(max(0, size - _TAIL))
        tail = file.read()
        length = int.from_bytes(tail[:8], "little")
        if not tail.endswith(MAGIC) or length > size - _TAIL:
            raise InputError(f"{library} is not a compiled module of ansor-lite")
        file.seek(size - _TAIL - length)
        text = file.read(length)
    version = json.loads(text).get("format", 0)
    if version > FORMAT:
        raise InputError(f"{library} was written by a newer ansor-lite (format {version})")
    return Manifest.from_json(text.decode())
