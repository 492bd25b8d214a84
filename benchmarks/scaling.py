"""What more threads are worth: one network at several thread counts, ours and the peers in turns.

``python -m benchmarks.scaling --model resnet50 --threads 1 2 --peers onnxruntime openvino``

Ours is tuned and compiled for each number of threads by itself. A control, a second process of the
first peer at most threads, voids the run as in ``networks.py``.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ansor_lite.errors import AnsorLiteError, InputError
from benchmarks.building import Built, add_options, build, log_of
from benchmarks.children import Children
from benchmarks.common import RESULTS, resolve_model, settings, show, write_result
from benchmarks.comparing import OURS, control_of
from benchmarks.networks import INPUTS, random_inputs
from benchmarks.paired import interval, is_void, paired_ratio
from benchmarks.runtimes import Runtime, write_arrays
from benchmarks.turns import Series, take_turns

PEERS = ("onnxruntime", "openvino")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 whatever the speed-up, 2 for bad input, 1 for a failure."""
    arguments = _parser().parse_args(argv)
    try:
        model = resolve_model(arguments.model, arguments.model_dir)
        log = log_of(model, arguments)
        built = {n: build(model, log, n, arguments) for n in arguments.threads}
        series = _series(model, built, arguments)
    except AnsorLiteError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    _report(model, built, series, arguments)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks.scaling", description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="resnet50", help="name or path of an ONNX file")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="fewest first")
    add_options(parser)
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=PEERS)
    parser.add_argument("--output", type=Path, default=RESULTS / "scaling.json")
    return parser


def label(kind: str, threads: int) -> str:
    """The name of a runtime at a number of threads."""
    return f"{kind} x{threads}"


def _series(model: Path, built: Mapping[int, Built], arguments: argparse.Namespace) -> Series:
    """Everybody at every number of threads in turns, and the control."""
    kinds = [OURS, *arguments.peers]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        shapes = built[arguments.threads[0]].manifest.inputs
        write_arrays(Path(folder) / INPUTS, random_inputs(shapes, arguments.seed))

        def start(kind: str, threads: int) -> Runtime:
            path = built[threads].library if kind == OURS else model
            return Children(Path(folder), threads, stack).start(kind, path, INPUTS)

        runtimes = {label(k, n): start(k, n) for k in kinds for n in arguments.threads}
        first, most = arguments.peers[0], arguments.threads[-1]
        runtimes[control_of(label(first, most))] = start(first, most)
        turns = dict.fromkeys(runtimes, arguments.turn)
        return take_turns(runtimes, arguments.rounds, turns)


def speed_ups(series: Series, kinds: Sequence[str], threads: Sequence[int]) -> dict[str, Any]:
    """For each runtime, the paired ratio of its latency at the first thread count to the others."""
    return {
        kind: {
            str(n): dataclasses.asdict(
                paired_ratio(series.rounds[label(kind, threads[0])], series.rounds[label(kind, n)])
            )
            for n in threads[1:]
        }
        for kind in kinds
    }


def _report(
    model: Path, built: Mapping[int, Built], series: Series, arguments: argparse.Namespace
) -> None:
    kinds, threads = [OURS, *arguments.peers], arguments.threads
    found = speed_ups(series, kinds, threads)
    first = label(arguments.peers[0], threads[-1])
    control = paired_ratio(series.rounds[control_of(first)], series.rounds[first])
    result = {
        "building": {str(n): each.facts for n, each in built.items()},
        "speed_up": found,
        "control": dataclasses.asdict(control),
        "void": is_void(control),
        **series.to_json(),
    }
    void = " VOID" if is_void(control) else ""
    columns = [f"{n} thread(s)" for n in threads] + [f"speed-up of {n}" for n in threads[1:]]
    show(
        f"{model.stem}: speed-up over {threads[0]} thread(s); control {control.median:.3f}{void}",
        ("runtime", *columns),
        [_row(kind, series, found[kind], threads) for kind in kinds],
    )
    told = {"model": model.stem, **settings(arguments)}
    print(f"written: {write_result('scaling', told, result, arguments.output)}")


def _row(
    kind: str, series: Series, found: Mapping[str, Any], threads: Sequence[int]
) -> tuple[str, ...]:
    latencies = (f"{series.median(label(kind, n)) * 1e3:.2f} ms" for n in threads)
    return (kind, *latencies, *(interval(ratio, 3) for ratio in found.values()))


if __name__ == "__main__":
    sys.exit(main())
