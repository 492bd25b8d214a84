"""Command-line arguments to values: shapes, input files, output paths. Each says what was wrong.

Separate from ``cli.py``, which only names the options, so that every refusal is a function to test.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansor_lite.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def parse_shapes(texts: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """``["x=1,3,224,224"]`` to ``{"x": (1, 3, 224, 224)}``."""
    shapes: dict[str, tuple[int, ...]] = {}
    for text in texts:
        name, equals, extents = text.rpartition("=")
        parts = [p.strip() for p in extents.split(",")]
        if not (equals and name and all(p.isdecimal() and int(p) > 0 for p in parts)):
            raise InputError(f"--shape {text!r}: write it like name=1,3,224,224")
        if name in shapes:
            raise InputError(f"--shape names {name!r} twice")
        shapes[name] = tuple(int(p) for p in parts)
    return shapes


def check_writable(path: Path) -> None:
    """Raise :class:`InputError` unless a file can be put at ``path``; leaves nothing behind."""
    if path.exists() and not path.is_file():
        raise InputError(f"cannot write {path}: it is not a regular file")
    if not path.parent.is_dir():
        raise InputError(f"cannot write {path}: there is no folder {path.parent}")
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}."):
            pass
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error


def check_appendable(path: Path) -> None:
    """Raise :class:`InputError` unless lines can be appended to ``path``, new or not."""
    if not path.is_file():
        check_writable(path)
        return
    try:
        with path.open("ab"):
            pass
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error


def check_readable(path: Path) -> None:
    """Raise :class:`InputError` unless ``path`` is a file that can be opened."""
    try:
        with path.open("rb"):
            pass
    except FileNotFoundError as error:
        raise InputError(f"no such file: {path}") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def read_inputs(texts: Iterable[str]) -> dict[str, NDArray[Any]]:
    """``["x=x.npy"]`` to ``{"x": array}``."""
    import numpy as np

    arrays: dict[str, NDArray[Any]] = {}
    for text in texts:
        name, equals, file = text.partition("=")
        if not (equals and name and file):
            raise InputError(f"--input {text!r}: write it like name=file.npy")
        check_readable(Path(file))
        try:
            array = np.load(file, allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise InputError(f"{file} is not a .npy file of numbers") from error
        if not isinstance(array, np.ndarray):
            raise InputError(f"{file} is an archive of arrays; give one .npy file per input")
        arrays[name] = array
    return arrays


def write_outputs(arrays: dict[str, NDArray[Any]], folder: Path) -> list[Path]:
    """One ``.npy`` per output in ``folder``, which is made; names lose what paths cannot hold."""
    import numpy as np

    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, array in arrays.items():
            path = folder / f"{_file_name(name)}.npy"
            with tempfile.TemporaryDirectory(dir=folder, prefix=".output.") as part:
                np.save(Path(part) / "array.npy", array)
                os.replace(Path(part) / "array.npy", path)
            written.append(path)
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror or error}") from error
    return written


def write_json(value: object, path: Path) -> None:
    """``value`` as JSON; what stood at ``path`` is replaced at once or not at all."""
    check_writable(path)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        part = Path(folder) / "part"
        part.write_text(json.dumps(value, indent=1) + "\n")
        os.replace(part, path)


def _file_name(name: str) -> str:
    kept = "".join(c if c.isalnum() or c in "._-" else "_" for c in name)
    return kept.lstrip(".") or "output"
