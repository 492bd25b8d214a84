"""Model files: one line of JSON that says what follows, then compressed bytes (possibly none).

Separate so that every model refuses foreign files in the same words. No pickle: a file is data.
"""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path

from cost_model.base import CostModelError
from cost_model.features import digest

FORMAT = "ansor-lite cost model"
VERSION = 1


def write_model(path: Path, kind: str, payload: bytes) -> None:
    """Write ``payload`` of a model of ``kind``; the file appears whole or not at all."""
    header = {"format": FORMAT, "version": VERSION, "kind": kind, "features": digest()}
    part = path.with_name(path.name + ".part")
    body = zlib.compress(payload, 9) if payload else b""
    part.write_bytes(json.dumps(header).encode() + b"\n" + body)
    os.replace(part, path)


def read_model(path: Path, kind: str) -> bytes:
    """The payload; raises :class:`CostModelError` for a foreign, newer or unfitting file."""
    line, _, body = path.read_bytes().partition(b"\n")
    header = _header(path, line)
    if header.get("version") != VERSION:
        raise CostModelError(f"{path} has version {header.get('version')}, this is {VERSION}")
    if header.get("kind") != kind:
        raise CostModelError(f"{path} holds a model of kind {header.get('kind')}, not {kind}")
    if header.get("features") != digest():
        raise CostModelError(f"{path} was trained on another feature table: train it again")
    try:
        return zlib.decompress(body) if body else b""
    except zlib.error as error:
        raise CostModelError(f"{path} is damaged: {error}") from error


def _header(path: Path, line: bytes) -> dict[str, object]:
    try:
        header = json.loads(line)
    except ValueError as error:
        raise CostModelError(f"{path} is no cost model") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise CostModelError(f"{path} is no cost model")
    return header
