"""Keeps TVM's C++ log lines, which no setting turns off, away from the user's terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

STDERR = 2


@contextmanager
def native_stderr_hidden(hidden: bool = True) -> Iterator[None]:
    """Writes to file descriptor 2 are dropped inside the block; Python's ``sys.stderr`` as well."""
    if not hidden:
        yield
        return
    sys.stderr.flush()
    saved, nothing = os.dup(STDERR), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, STDERR)
    try:
        yield
    finally:
        os.dup2(saved, STDERR)
        os.close(saved)
        os.close(nothing)
