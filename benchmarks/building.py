"""Our side of a comparison, built as a user would: tuned, compiled from the log, both measured.

Read ``build``. Commands run as child processes; their peak memory is that of the whole tree, so
that a linker counts too. Separate from what is then done with the module.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import ansor_lite
from ansor_lite.errors import AnsorLiteError, InputError
from ansor_lite.manifest import Manifest
from benchmarks import common
from benchmarks.common import command_line
from benchmarks.runtimes import status_bytes

SAMPLE_SECONDS = 0.05


class CommandFailure(AnsorLiteError):
    """One of our commands failed; the message is its last line."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command that ended well. ``peak_bytes``: resident memory of it and its children at once."""

    seconds: float
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class Built:
    """A compiled network and how it came about, ready for JSON."""

    library: Path
    manifest: Manifest
    facts: dict[str, Any]


def add_options(parser: argparse.ArgumentParser) -> None:
    """What :func:`build` and the turns read from the command line."""
    parser.add_argument("--model-dir", type=Path, default=Path("build/models"))
    parser.add_argument("--resume", action="store_true", help="tune on when a log exists")
    common.add_options(parser)


def log_of(model: Path, arguments: argparse.Namespace) -> Path:
    """Where the log of a model belongs; raises :class:`InputError` when it must not be used."""
    log: Path = arguments.log / f"{model.stem}.tune.jsonl"
    if log.exists() and not (arguments.no_tune or arguments.resume):
        raise InputError(f"{log} exists already: give --no-tune, --resume or another --log")
    if arguments.no_tune and not log.exists():
        raise InputError(f"no such log: {log}")
    return log


def build(model: Path, log: Path, threads: int, arguments: argparse.Namespace) -> Built:
    """Tune, unless ``--no-tune`` is given, then compile from the log alone.

    Raises :class:`CommandFailure`.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    exact = ["--exact"] if arguments.exact else []
    library = log.parent / f"{model.stem}.{threads}{'.exact' if exact else ''}.so"
    words = [model, "--log", log, "-o", library, "--threads", threads, *exact]
    facts: dict[str, Any] = {
        "tuned": not arguments.no_tune,
        "resumed": bool(arguments.resume),
        "exact": arguments.exact,
        "budget_seconds": None if arguments.no_tune else arguments.seconds,
    }
    if not arguments.no_tune:
        budget = ["--time", f"{arguments.seconds:g}", "--seed", arguments.seed]
        done = run_measured("tune-model", *words, *budget)
        facts |= {"tuning_seconds": done.seconds, "tuning_peak_bytes": done.peak_bytes}
    done = run_measured("ansor-lite", "compile", *words)
    facts |= {"compile_seconds": done.seconds, "compile_peak_bytes": done.peak_bytes}
    manifest = ansor_lite.load(library).manifest
    return Built(library, manifest, facts | {"records": _lines(log)} | _kernels(manifest))


def run_measured(name: str, *words: object) -> Command:
    """Run one of our commands, its progress on our standard output, and watch its memory."""
    start = time.perf_counter()
    peak = 0
    with tempfile.TemporaryFile() as messages:
        with subprocess.Popen(command_line(name, *words), stderr=messages) as process:
            while process.poll() is None:
                peak = max(peak, tree_bytes(process.pid))
                time.sleep(SAMPLE_SECONDS)
        if process.returncode != 0:
            raise CommandFailure(f"{name}: {_reason(messages, process.returncode)}")
    return Command(time.perf_counter() - start, peak)


def tree_bytes(pid: int) -> int:
    """Resident memory of a process and its descendants; what they share counts for each."""
    total = status_bytes(pid, "VmRSS") or 0
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found = children.read_text().split()
        except OSError:  # the thread has ended meanwhile
            continue
        total += sum(tree_bytes(int(child)) for child in found)
    return total


def _reason(messages: IO[bytes], code: int) -> str:
    messages.seek(0)
    lines = messages.read().decode(errors="replace").split("\n")
    written = [line.strip() for line in lines if line.strip()]
    text = (written[-1] if written else "no message").removeprefix("error: ")
    return f"{text[:300]} (exit code {code})"


def _lines(log: Path) -> int:
    return log.read_bytes().count(b"\n") if log.exists() else 0


def _kernels(manifest: Manifest) -> dict[str, Any]:
    return {
        "gflop": manifest.gflop,
        "kernels": len(manifest.kernels),
        "tuned_kernels": sum(k.tuned for k in manifest.kernels),
        "default_lowered": {k.name: k.reason for k in manifest.kernels if k.reason},
    }
