"""Replay: model and log alone rebuild the module, with zero trials and the same kernels.

``python -m benchmarks.replay --model light_squeezenet --model-dir DIR --seconds 30``

Tunes briefly, compiles twice from the log in fresh processes, and compares the digests of all
kernel sources. Then the log loses the records of one task: ``--strict`` must name it and exit
with 2.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import ansor_lite
from ansor_lite.errors import AnsorLiteError, InputError
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

    threads = ("--threads", arguments.threads)

    def run(name: str, log: Path, output: Path, *words: object) -> CompletedProcess[str]:
        options = ("--log", log, "-o", output, *threads, *words)
        return run_command(*name.split(), model, *options)

    log, shortened = folder / "log.jsonl", folder / "shortened.jsonl"
    modules = [folder / f"{i}.so" for i in range(3)]
    budget = ("--time", arguments.seconds, "--seed", arguments.seed)
    _succeed(run("tune-model", log, modules[0], *budget))
    before, seconds = log.read_bytes(), []
    for module in modules[1:]:
        start = time.perf_counter()
        _succeed(run("ansor-lite compile", log, module))
        seconds.append(time.perf_counter() - start)
    manifests = [ansor_lite.load(module).manifest for module in modules]
    sources = [[(k.symbol, k.source) for k in m.kernels] for m in manifests]
    tuned = [k for k in manifests[0].kernels if k.tuned]
    if not tuned:
        raise AnsorLiteError("nothing was tuned: give more --seconds")
    _without(log, shortened, tuned[-1].key)
    accepted = run("ansor-lite compile", log, folder / "strict.so", "--strict")
    refused = run("ansor-lite compile", shortened, folder / "refused.so", "--strict")
    return {
        "checks": {
            "zero trials: the log is unchanged, byte for byte": before == log.read_bytes(),
            "both replays have kernels of equal source": sources[1] == sources[2],
            "... those that tuning compiled": sources[1] == sources[0],
            "--strict accepts the complete log": accepted.returncode == 0,
            "--strict refuses a missing task with exit code 2": refused.returncode == 2,
            "... names it": tuned[-1].name in refused.stderr,
            "... and writes no module": not (folder / "refused.so").exists(),
        },
        "kernels": len(manifests[0].kernels),
        "tuned_kernels": len(tuned),
        "records": len(read(log)),
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
