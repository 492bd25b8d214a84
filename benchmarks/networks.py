"""Whole networks against onnxruntime: tuned, checked, then timed in turns.

``python -m benchmarks.networks --models resnet50 bert_base_128 --model-dir DIR --seconds 600``

Read ``measure`` and ``runtimes.py`` first. Every round times each runtime once, in alternating
order, and the ratio of a round is one sample. A second onnxruntime process, the control, must look
like the first; otherwise the run is void and says so.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ansor_lite.errors import AnsorLiteError, InputError
from ansor_lite.frontend.network import TensorInfo
from ansor_lite.manifest import Manifest, read_manifest
from benchmarks.common import resolve_model, run_command, show, write_result
from benchmarks.paired import (
    CONTROL_RANGE,
    Ratio,
    geometric_mean_ratio,
    is_void,
    paired_ratio,
    percentiles,
)
from benchmarks.runtimes import RUNTIMES, Runtime, write_arrays

MODELS = ("resnet50", "mobilenet_v2", "light_squeezenet", "bert_base_128")
OURS = "ansor-lite"
CONTROL = "control"
# Largest deviation allowed, relative to the largest absolute output, which must exceed ALIVE.
TOLERANCE = 1e-4
ALIVE = 1e-3
FEWEST_RUNS = 3


@dataclasses.dataclass(frozen=True, slots=True)
class Timing:
    """One attempt: median seconds per round and runtime, and the seconds of all single runs."""

    rounds: dict[str, list[float]]
    runs: dict[str, list[float]]
    peer: str

    @property
    def control(self) -> Ratio:
        return paired_ratio(self.rounds[CONTROL], self.rounds[self.peer])

    def to_json(self) -> dict[str, Any]:
        peers = [k for k in self.rounds if k not in (OURS, CONTROL)]
        return {
            "void": is_void(self.control),
            "control": dataclasses.asdict(self.control),
            "ratios": {
                p: dataclasses.asdict(paired_ratio(self.rounds[OURS], self.rounds[p]))
                for p in peers
            },
            "latency_seconds": {name: percentiles(seconds) for name, seconds in self.runs.items()},
            "runs": {name: len(seconds) for name, seconds in self.runs.items()},
            "round_medians_seconds": self.rounds,
        }


@dataclasses.dataclass(frozen=True, slots=True)
class Network:
    """Everything found out about one network; ``timings``: one per attempt, the last one counts."""

    name: str
    tuning: dict[str, Any]
    accuracy: dict[str, Any]
    timings: list[Timing]

    def to_json(self) -> dict[str, Any]:
        attempts = [timing.to_json() for timing in self.timings]
        return {
            "name": self.name,
            "tuning": self.tuning,
            "accuracy": self.accuracy,
            **attempts[-1],
            "voided_attempts": attempts[:-1],
        }


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 also for a slow or void result; 2 for bad input, 1 for a failure."""
    arguments = _parser().parse_args(argv)
    try:
        networks = [_network(name, arguments) for name in arguments.models]
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except AnsorLiteError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    _report(networks, arguments)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks.networks", description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", default=MODELS, help="names or paths of ONNX files")
    parser.add_argument("--model-dir", type=Path, default=Path("build/models"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=600.0, help="tuning budget per network")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, default=Path("build/benchmarks"), help="folder of logs")
    parser.add_argument("--no-tune", action="store_true", help="use the logs as they are")
    parser.add_argument("--resume", action="store_true", help="tune on when a log exists")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--turn", type=float, default=0.4, help="seconds of one runtime's turn")
    parser.add_argument("--attempts", type=int, default=1, help="repeat void timings this often")
    parser.add_argument("--peers", nargs="+", default=["onnxruntime"], choices=_peers())
    parser.add_argument("--output", type=Path)
    return parser


def _peers() -> list[str]:
    return [name for name in RUNTIMES if name != OURS]


def _network(name: str, arguments: argparse.Namespace) -> Network:
    model = resolve_model(name, arguments.model_dir)
    arguments.log.mkdir(parents=True, exist_ok=True)
    library = arguments.log / f"{model.stem}.so"
    tuning = tune_or_compile(model, library, arguments)
    manifest = read_manifest(library)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        inputs = Path(folder) / "inputs.npz"
        write_arrays(inputs, random_inputs(manifest.inputs, arguments.seed))
        kinds = {OURS: OURS} | {p: p for p in arguments.peers} | {CONTROL: arguments.peers[0]}
        runtimes = {
            label: stack.enter_context(
                Runtime(kind, library if kind == OURS else model, inputs, arguments.threads)
            )
            for label, kind in kinds.items()
        }
        accuracy = compare(runtimes[OURS], runtimes[arguments.peers[0]], Path(folder))
        timings = measure(runtimes, arguments.rounds, arguments.turn, arguments.attempts)
    return Network(model.stem, tuning | _kernels(manifest), accuracy, timings)


def tune_or_compile(model: Path, library: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the command line as a user would; what it took. Raises :class:`InputError`."""
    log = arguments.log / f"{model.stem}.tune.jsonl"
    if log.exists() and not (arguments.no_tune or arguments.resume):
        raise InputError(f"{log} exists already: give --no-tune, --resume or another --log")
    if arguments.no_tune and not log.exists():
        raise InputError(f"no such log: {log}")
    words = [model, "--log", log, "-o", library, "--threads", arguments.threads]
    start = time.perf_counter()
    if arguments.no_tune:
        done = run_command("ansor-lite", "compile", *words)
    else:
        budget = ["--time", f"{arguments.seconds:g}", "--seed", arguments.seed]
        done = run_command("tune-model", *words, *budget)
    if done.returncode != 0:
        raise AnsorLiteError(f"{model.stem}: the command ended with exit code {done.returncode}")
    return {
        "tuned": not arguments.no_tune,
        "resumed": bool(arguments.resume),
        "budget_seconds": None if arguments.no_tune else arguments.seconds,
        "command_seconds": time.perf_counter() - start,
        "records": log.read_bytes().count(b"\n"),
    }


def _kernels(manifest: Manifest) -> dict[str, Any]:
    return {
        "gflop": manifest.gflop,
        "kernels": len(manifest.kernels),
        "tuned_kernels": sum(k.tuned for k in manifest.kernels),
        "default_lowered": [k.name for k in manifest.kernels if k.reason],
    }


def random_inputs(inputs: Sequence[TensorInfo], seed: int) -> dict[str, NDArray[Any]]:
    """Standard normal floats, small token ids, masks of ones, segment ids of 0 and 1."""
    rng = np.random.default_rng(seed)
    return {tensor.name: _random(tensor, rng) for tensor in inputs}


def _random(tensor: TensorInfo, rng: np.random.Generator) -> NDArray[Any]:
    if "int" not in tensor.dtype and tensor.dtype != "bool":
        return rng.standard_normal(tensor.shape).astype(tensor.dtype)
    if "mask" in tensor.name or tensor.dtype == "bool":
        return np.ones(tensor.shape, dtype=tensor.dtype)
    limit = 2 if "type" in tensor.name else 100
    return rng.integers(0, limit, tensor.shape).astype(tensor.dtype)


def compare(ours: Runtime, peer: Runtime, folder: Path) -> dict[str, Any]:
    """Largest deviation over all outputs, relative to each output's largest absolute value."""
    mine, theirs = ours.outputs(folder / "ours.npz"), peer.outputs(folder / "peer.npz")
    if set(mine) != set(theirs):
        raise AnsorLiteError(f"outputs differ in name: {sorted(mine)} and {sorted(theirs)}")
    largest = {name: float(np.abs(value).max()) for name, value in theirs.items()}
    deviation = {
        name: float(np.abs(mine[name].astype(np.float64) - value).max())
        for name, value in theirs.items()
    }
    alive = all(math.isfinite(v) and v > ALIVE for v in largest.values())
    relative = max(deviation[n] / largest[n] if largest[n] else math.inf for n in largest)
    return {
        "agrees": alive and relative <= TOLERANCE,
        "relative_deviation": relative if math.isfinite(relative) else None,
        "smallest_largest_output": min(largest.values()),
    }


def measure(
    runtimes: Mapping[str, Runtime], rounds: int, turn: float, attempts: int
) -> list[Timing]:
    """Time in turns until the control is in range, at most ``attempts`` times."""
    repeats = {name: _repeats(runtime, turn) for name, runtime in runtimes.items()}
    timings: list[Timing] = []
    while len(timings) < attempts:
        timings.append(_rounds(runtimes, repeats, rounds))
        if not is_void(timings[-1].control):
            break
    return timings


def _repeats(runtime: Runtime, turn: float) -> int:
    return max(FEWEST_RUNS, math.ceil(turn / float(np.median(runtime.seconds(FEWEST_RUNS)))))


def _rounds(runtimes: Mapping[str, Runtime], repeats: Mapping[str, int], rounds: int) -> Timing:
    medians: dict[str, list[float]] = {name: [] for name in runtimes}
    runs: dict[str, list[float]] = {name: [] for name in runtimes}
    peer = next(name for name in runtimes if name not in (OURS, CONTROL))
    for index in range(rounds):
        # Every other round backwards, so that a drift within a round favours nobody.
        for name in list(runtimes)[:: -1 if index % 2 else 1]:
            seconds = runtimes[name].seconds(repeats[name])
            medians[name].append(float(np.median(seconds)))
            runs[name].extend(seconds)
    return Timing(medians, runs, peer)


def _report(networks: Sequence[Network], arguments: argparse.Namespace) -> None:
    peer = arguments.peers[0]
    valid = [n for n in networks if not is_void(n.timings[-1].control)]
    pairs = [(n.timings[-1].rounds[OURS], n.timings[-1].rounds[peer]) for n in valid]
    total = geometric_mean_ratio(pairs) if pairs else None
    worst = max((paired_ratio(*pair).median for pair in pairs), default=None)
    result = {
        "networks": [n.to_json() for n in networks],
        "geometric_mean": dataclasses.asdict(total) if total else None,
        "worst_ratio": worst,
        "void_networks": [n.name for n in networks if n not in valid],
    }
    settings = {
        "threads": arguments.threads,
        "seconds": None if arguments.no_tune else arguments.seconds,
        "seed": arguments.seed,
        "rounds": arguments.rounds,
        "turn_seconds": arguments.turn,
        "attempts": arguments.attempts,
        "peers": list(arguments.peers),
        "control_range": CONTROL_RANGE,
        "tolerance": TOLERANCE,
    }
    show(
        f"Latency at {arguments.threads} threads; ratio below 1: ansor-lite is faster",
        ("network", "ansor-lite", peer, "ratio [95 %]", "min-max", "control", "deviation"),
        [_row(network, peer) for network in networks],
    )
    if total:
        print(f"geometric mean {total}, worst {worst:.3f}, {len(valid)} network(s)")
    print(f"written: {write_result('networks', settings, result, arguments.output)}")


def _row(network: Network, peer: str) -> tuple[str, ...]:
    timing = network.timings[-1]
    ratio = paired_ratio(timing.rounds[OURS], timing.rounds[peer])
    ours, theirs = (percentiles(timing.runs[k])["p50"] * 1e3 for k in (OURS, peer))
    relative = network.accuracy["relative_deviation"]
    deviation = "not finite" if relative is None else f"{relative:.1e}"
    return (
        network.name,
        f"{ours:.2f} ms",
        f"{theirs:.2f} ms",
        str(ratio),
        f"{ratio.minimum:.3f}-{ratio.maximum:.3f}",
        f"{timing.control.median:.3f}" + (" VOID" if is_void(timing.control) else ""),
        deviation + ("" if network.accuracy["agrees"] else " WRONG"),
    )


if __name__ == "__main__":
    sys.exit(main())
