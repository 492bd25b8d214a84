"""Shared libraries from object files, with whatever linker the machine has."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence

from ansor_lite.errors import CompileError, InputError

COMPILERS = ("cc", "c++", "gcc", "clang")


def linker_command() -> list[str]:
    """The start of a command line that links; :class:`InputError` when there is no linker."""
    for name in COMPILERS:
        if path := shutil.which(name):
            return [path]
    if importlib.util.find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "cc"]
    raise InputError(
        "no linker: install a C compiler (cc or c++ on the PATH) or the Python package ziglang"
    )


def shared_library_linker() -> Callable[..., None]:
    """The ``fcompile`` argument of TVM's ``export_library``."""
    command = linker_command()

    def link(
        output: str, objects: str | Sequence[str], options: Sequence[str] = (), **_: object
    ) -> None:
        files = [objects] if isinstance(objects, str) else list(objects)
        call = [*command, "-shared", "-fPIC", "-o", output, *files, *(options or ())]
        done = subprocess.run(call, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise CompileError(f"{command[0]} could not link {output}: {last}")

    link.output_format = "so"  # type: ignore[attr-defined]
    return link
