"""What every benchmark shares: the facts of machine and software, the JSON file, the tables.

A result says where and with what it was measured, or it is worth nothing. Paths of this machine are
left out on purpose: results are published. Separate from the measurements so that all files look
alike.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, TypeVar

from rich.console import Console
from rich.table import Table

from ansor_lite.errors import AnsorLiteError, InputError
from ansor_lite.target import available_threads, cpu_model

T = TypeVar("T")

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "ansor-lite", "apache-tvm", "xgboost-cpu", "xgboost", "numpy", "onnx", "onnxruntime",
    "openvino", "matplotlib",
)  # fmt: skip

# Command -> its function in ``ansor_lite.cli``.
COMMANDS = {"tune-model": "tune_model_main", "ansor-lite": "main"}


def machine() -> dict[str, Any]:
    """Processor and system of this machine."""
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "available_threads": available_threads(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    """Installed packages that a result depends on."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """Commit of the code, marked when files differ from it; empty outside a repository."""
    root = Path(__file__).parent.parent
    texts = []
    for command in (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "-uno"]):
        try:
            done = subprocess.run(
                ["git", *command], cwd=root, capture_output=True, text=True, check=False
            )
        except OSError:
            return ""
        texts.append(done.stdout.strip() if done.returncode == 0 else "")
    return texts[0] + ("+changes" if texts[0] and texts[1] else "")


def measured_now() -> dict[str, Any]:
    """When, where and with what something is measured."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
    }


def write_result(
    name: str, settings: Mapping[str, Any], result: Mapping[str, Any], output: Path | None = None
) -> Path:
    """Write ``results/NAME.json``, or ``output``; returns the path."""
    path = output or RESULTS / f"{name}.json"
    document = {
        "benchmark": name,
        **measured_now(),
        "settings": dict(settings),
        "result": dict(result),
    }
    text = json.dumps(document, indent=1, allow_nan=False)
    # A list of numbers belongs on one line, or samples take most of the file's lines.
    text = re.sub(r"\[[-+.\deE,\s]*\]", lambda found: " ".join(found[0].split()), text)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(text + "\n")
    part.replace(path)
    return path


def show(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table; every column but the first is aligned right."""
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        justify: Literal["left", "right"] = "right" if index else "left"
        table.add_column(column, justify=justify, overflow="fold", no_wrap=not index)
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def command_line(name: str, *words: object) -> list[str]:
    """``tune-model`` or ``ansor-lite`` as a child process, installed or not."""
    program = f"import sys; from ansor_lite.cli import {COMMANDS[name]} as f; sys.exit(f())"
    return [sys.executable, "-c", program, *map(str, words)]


def run_command(name: str, *words: object) -> subprocess.CompletedProcess[str]:
    """Run one of our commands; what it prints is in the result."""
    return subprocess.run(command_line(name, *words), capture_output=True, text=True, check=False)


def resolve_model(name: str, folder: Path) -> Path:
    """The path ``name`` itself, or ``folder/NAME.onnx``; raises :class:`InputError`."""
    for path in (Path(name), folder / f"{name}.onnx"):
        if path.is_file():
            return path
    raise InputError(f"no such model: {name} (neither a file, nor in {folder})")


def read_result(path: Path, table: str) -> dict[str, Any]:
    """A file of :func:`write_result` whose result has a ``table`` of rows.

    Raises :class:`InputError` for anything else.
    """
    try:
        document: dict[str, Any] = json.loads(path.read_text())
        document["result"][table]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no result of {table}: {error}") from error
    return document


def kept_rows(
    arguments: argparse.Namespace, table: str, again: Collection[str]
) -> list[dict[str, Any]]:
    """With ``--append``, rows of an earlier result to keep: those whose name is not in ``again``.

    Raises :class:`InputError` for a result of another machine or number of threads.
    """
    if not (arguments.append and arguments.output.exists()):
        return []
    document = read_result(arguments.output, table)
    if (cpu_model(), arguments.threads) != (
        document["machine"]["cpu"],
        document["settings"]["threads"],
    ):
        raise InputError(f"{arguments.output} is of another machine or number of threads")
    return [row for row in document["result"][table] if row["name"] not in again]


def measured_rows(
    rows: list[dict[str, Any]],
    chosen: Mapping[str, T],
    fill: Callable[[dict[str, Any], T], None],
    write: Callable[[list[dict[str, Any]]], Path],
) -> Path:
    """Append a row for each of ``chosen`` to ``rows``, and ``write`` all after every one.

    What ``fill`` puts into a row before it fails stays there, with the reason.
    """
    for name, each in chosen.items():
        row: dict[str, Any] = {"name": name, "measured": measured_now()}
        rows.append(row)
        try:
            fill(row, each)
        except AnsorLiteError as error:
            row["failure"] = str(error)
            print(f"{name}: {error}", file=sys.stderr)
        path = write(rows)
    return path


def add_options(parser: argparse.ArgumentParser) -> None:
    """How long and with what is tuned, and how long everybody's turns are."""
    parser.add_argument("--seconds", type=float, default=600.0, help="tuning budget of each row")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, default=Path("build/benchmarks"), help="folder of logs")
    parser.add_argument("--no-tune", action="store_true", help="use the logs as they are")
    parser.add_argument(
        "--exact", action="store_true", help="no algorithm that changes the rounding"
    )
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--turn", type=float, default=0.2, help="seconds of one runtime's turn")


def settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """What a result says about its options."""
    return {
        "threads": arguments.threads,
        "peers": list(arguments.peers),
        "exact": arguments.exact,
        "tuning_seconds": None if arguments.no_tune else arguments.seconds,
        "seed": arguments.seed,
        "rounds": arguments.rounds,
        "turn_seconds": arguments.turn,
    }
