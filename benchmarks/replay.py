"""Replay: model and log alone rebuild the module, with zero trials and the same kernels.

``python -m benchmarks.replay --model light_squeezenet --model-dir DIR --seconds 30``

Tunes briefly, compiles twice from the log in fresh processes, and compares the digests of all
kernel sources. Then the log loses the records of one task: ``--strict`` must name it and exit with 2.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from ansor_lite.errors import AnsorLiteError, InputError
from ansor_lite.manifest import read_manifest
from benchmarks.common import resolve_model, run_command, show, write_result


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 when everything held, 1 when not, 2 for bad input."""
    arguments = _parser().parse_args(argv)
    try:
        model = resolve_model(arguments.model, arguments.model_dir)
        with tempfile.TemporaryDirectory() as folder:
            result = replayed(model, Path(folder), arguments)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except AnsorLiteError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    checks = result["checks"]
    show("Replay", ("check", "held"), [(k, "yes" if v else "NO") for k, v in checks.items()])
    settings = {
        "model": model.stem,
        "seconds": arguments.seconds,
        "threads": arguments.threads,
        "seed": arguments.seed,
    }
    print(f"written: {write_result('replay', settings, result, arguments.output)}")
    return 0 if all(checks.values()) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks.replay", description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="light_squeezenet", help="name or path of an ONNX file")
    parser.add_argument("--model-dir", type=Path, default=Path("build/models"))
    parser.add_argument("--seconds", type=float, default=60.0, help="tuning budget")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    return parser


def replayed(model: Path, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """What was checked, with the sizes involved."""
    from ansor_lite.records import read

    log, threads = folder / "log.jsonl", ("--threads", arguments.threads)
    budget = ("--time", arguments.seconds, "--seed", arguments.seed)
    _succeed(
        run_command(
            "tune-model", model, "--log", log, "-o", folder / "0.so", *threads, *budget, quiet=True
        )
    )
    digest = hashlib.sha256(log.read_bytes()).hexdigest()
    seconds, strict = [], []
    for path in (folder / "1.so", folder / "2.so"):
        start = time.perf_counter()
        done = run_command(
            "ansor-lite", "compile", model, "--log", log, "-o", path, *threads, quiet=True
        )
        seconds.append(time.perf_counter() - start)
        _succeed(done)
    manifests = [read_manifest(folder / f"{i}.so") for i in range(3)]
    sources = [[(k.symbol, k.source) for k in m.kernels] for m in manifests]
    unchanged = digest == hashlib.sha256(log.read_bytes()).hexdigest()
    records = read(log)
    tuned = [k for k in manifests[0].kernels if k.tuned]
    if not tuned:
        raise AnsorLiteError("nothing was tuned: give more --seconds")
    shortened = folder / "shortened.jsonl"
    _without(log, shortened, tuned[-1].key)
    for source in (log, shortened):
        path = folder / f"{source.stem}.strict.so"
        done = run_command(
            "ansor-lite",
            "compile",
            model,
            "--log",
            source,
            "-o",
            path,
            "--strict",
            *threads,
            quiet=True,
        )
        strict.append((done, path))
    refused, nothing = strict[1]
    return {
        "checks": {
            "zero trials: the log is unchanged, byte for byte": unchanged,
            "kernels of both replays have equal sources": sources[1] == sources[2],
            "... and those that tuning compiled": sources[1] == sources[0],
            "--strict accepts a complete log": strict[0][0].returncode == 0,
            "--strict refuses a missing task with exit code 2": refused.returncode == 2,
            "... names it": tuned[-1].name in refused.stderr,
            "... and writes no module": not nothing.exists(),
        },
        "kernels": len(manifests[0].kernels),
        "tuned_kernels": len(tuned),
        "records": len(records),
        "compile_seconds": seconds,
    }


def _succeed(done: CompletedProcess[str]) -> None:
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise AnsorLiteError(f"exit code {done.returncode}: {last}")


def _without(log: Path, out: Path, task: str) -> None:
    """A copy of ``log`` without the lines of one task."""
    lines = log.read_text().splitlines(keepends=True)
    out.write_text("".join(line for line in lines if f'"{task}"' not in line))


if __name__ == "__main__":
    sys.exit(main())
