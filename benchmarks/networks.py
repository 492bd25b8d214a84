"""Whole networks against other runtimes: tuned, checked, then timed in turns.

``python -m benchmarks.networks --model-dir DIR --peers onnxruntime openvino --seconds 600``

Read ``_fill`` and ``runtimes.py`` first, then ``comparing.py``, which says what the rounds mean.
Every round times each runtime once, in alternating order, and the ratio of a round is one sample.
Each peer has a control, a second process of itself, which must look like the first; otherwise the
run is void and says so. Whatever fails is a row of the table with its reason.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ansor_lite.errors import InputError
from ansor_lite.frontend.network import TensorInfo
from benchmarks.building import add_options, build, log_of
from benchmarks.children import NOTHING, Children, Peer, Values, start_peers
from benchmarks.common import (
    RESULTS,
    kept_rows,
    measured_rows,
    resolve_model,
    settings,
    show,
    write_result,
)
from benchmarks.comparing import (
    OURS,
    Comparison,
    compare,
    summary,
    time_in_turns,
    tolerance,
)
from benchmarks.paired import CONTROL_RANGE, interval
from benchmarks.runtimes import FMA_PEAK, Runtime, write_arrays

MODELS = (
    "resnet18", "resnet50", "mobilenet_v2", "efficientnet_b0", "convnext_tiny", "dcgan",
    "resnet3d_18", "light_bvlc_alexnet", "light_densenet121", "light_inception_v1",
    "light_inception_v2", "light_resnet50", "light_shufflenet", "light_squeezenet", "light_vgg19",
    "light_zfnet512",
)  # fmt: skip
TRANSFORMERS = (
    "vit_b16", "bert_base_128", "bert_base_128_b8", "bert_base_512", "gpt2_128",
    "whisper_tiny_encoder",
)  # fmt: skip
# By the name of the result file.
FAMILIES = {"networks": MODELS, "transformers": TRANSFORMERS}
REFERENCE = "onnxruntime"
INPUTS = "inputs.npz"
PEERS = ("onnxruntime", "openvino", "torch")
# Peers that cannot take part here, and why.
NO_NETWORKS = {"torch": "an ONNX file holds no torch model; benchmarks.operators measures torch"}


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 also for slow, void or failed networks; 2 for bad input."""
    arguments = _parser().parse_args(argv)
    arguments.output = arguments.output or default_output(arguments.family, arguments.exact)
    names = arguments.models or FAMILIES[arguments.family]
    try:
        models = [resolve_model(name, arguments.model_dir) for name in names]
        logs = [log_of(model, arguments) for model in models]
        entries = kept_rows(arguments, "networks", {model.stem for model in models})
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    chosen = {model.stem: (model, log) for model, log in zip(models, logs, strict=True)}
    path = measured_rows(
        entries,
        chosen,
        lambda entry, each: _fill(entry, *each, arguments),
        lambda rows: _write(rows, arguments),
    )
    _report(entries, arguments)
    print(f"written: {path}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks.networks", description=__doc__.split("\n")[0])
    parser.add_argument("--family", choices=FAMILIES, default="networks")
    parser.add_argument(
        "--models", nargs="+", help="names or paths of ONNX files; default: those of the family"
    )
    parser.add_argument("--threads", type=int, default=2)
    add_options(parser)
    parser.add_argument("--peers", nargs="+", default=["onnxruntime", "openvino"], choices=PEERS)
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter of the peers")
    parser.add_argument("--attempts", type=int, default=1, help="repeat void timings this often")
    parser.add_argument("--output", type=Path, help="default: FAMILY.json among the results")
    parser.add_argument("--append", action="store_true", help="keep other networks of --output")
    return parser


def default_output(family: str, exact: bool) -> Path:
    """Runs with and without algorithms that change rounding do not overwrite each other."""
    return RESULTS / f"{family}{'-exact' * exact}.json"


def _fill(entry: dict[str, Any], model: Path, log: Path, arguments: argparse.Namespace) -> None:
    """Build, check, time. What was found before a failure stays in ``entry``."""
    built = build(model, log, arguments.threads, arguments)
    entry["building"] = built.facts
    entry["batch"] = max((i.shape[0] for i in built.manifest.inputs if i.shape), default=1)
    allowed, python = tolerance(arguments.exact), arguments.peer_python
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        group = Children(Path(folder), arguments.threads, stack)
        write_arrays(group.folder / INPUTS, random_inputs(built.manifest.inputs, arguments.seed))
        write_arrays(group.folder / NOTHING, {})
        expected = _expected(group, Peer(REFERENCE, model, INPUTS, python))
        runtimes = {OURS: group.start(OURS, built.library, INPUTS)}
        entry["accuracy"] = compare(group.outputs(runtimes[OURS]), expected, allowed)
        wanted = [peer for peer in arguments.peers if peer not in NO_NETWORKS]
        peers = {peer: Peer(peer, model, INPUTS, python) for peer in wanted}
        _, refused = start_peers(group, peers, runtimes, expected, allowed)
        refused |= {peer: NO_NETWORKS[peer] for peer in arguments.peers if peer in NO_NETWORKS}
        runtimes |= group.limits((), 0)
        _time(entry, runtimes, refused, arguments)


def _expected(group: Children, reference: Peer) -> Values:
    """The outputs of a runtime that takes no turns."""
    runtime = group.start_peer(reference)
    values = group.outputs(runtime)
    runtime.close()
    return values


def _time(
    entry: dict[str, Any],
    runtimes: dict[str, Runtime],
    refused: dict[str, str],
    arguments: argparse.Namespace,
) -> None:
    """Add latencies, ratios, shares of peak and memory to ``entry``."""
    comparisons: list[Comparison] = []
    while len(comparisons) < arguments.attempts:
        timed = time_in_turns(runtimes, refused, arguments.rounds, arguments.turn, PEERS)
        peak = runtimes[FMA_PEAK].facts["gflop"]
        comparisons.append(Comparison(timed, entry["building"]["gflop"], peak))
        if not comparisons[-1].void:
            break
    entry |= comparisons[-1].to_json()
    entry["voided_attempts"] = [each.to_json() for each in comparisons[:-1]]
    entry["no_peer"] = refused
    entry["run_peak_bytes"] = {
        name: each.peak_bytes() for name, each in runtimes.items() if name in (OURS, *PEERS)
    }
    entry["runtimes"] = {name: dict(each.facts) for name, each in runtimes.items()}


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


def _write(entries: Sequence[dict[str, Any]], arguments: argparse.Namespace) -> Path:
    limits = {"control_range": CONTROL_RANGE, "tolerance": tolerance(arguments.exact)}
    result = summary(entries) | {"networks": list(entries)}
    return write_result("networks", settings(arguments) | limits, result, arguments.output)


def _report(entries: Sequence[Mapping[str, Any]], arguments: argparse.Namespace) -> None:
    show(
        f"Speed-up over the best peer at {arguments.threads} threads (> 1: ansor-lite is faster)",
        ("network", "ours", "best peer", "speed-up", "min-max", "control", "share of peak",
         "deviation"),
        [_speed_row(entry) for entry in entries],
    )  # fmt: skip
    names = [peer for peer in PEERS if any(peer in e.get("speed_up", {}) for e in entries)]
    show(
        "Beside each peer, and peak memory in MB",
        ("network", *(f"over {name}" for name in names), "no peer", "run ours",
         *(f"run {name}" for name in names), "compile"),
        [_detail_row(entry, names) for entry in entries],
    )  # fmt: skip
    total = summary(entries)
    mean = total["geometric_mean"]
    if mean:
        print(
            f"geometric mean {interval(mean, 3)} over "
            f"{total['counted']} of {len(entries)} network(s); "
            f"surely slower: {', '.join(total['surely_slower']) or 'none'}"
        )


def _speed_row(entry: Mapping[str, Any]) -> tuple[str, ...]:
    best = entry.get("best_peer")
    deviation = _deviation(entry)
    if "failure" in entry or best is None:
        reason = entry.get("failure", "no peer is left")
        return (entry["name"], "FAILED", reason, "", "", "", "", deviation)
    latency, ratio, share = (
        entry["latency_seconds"],
        entry["speed_up"][best],
        entry["share_of_peak"],
    )
    return (
        entry["name"],
        f"{latency[OURS]['p50'] * 1e3:.2f} ms",
        f"{latency[best]['p50'] * 1e3:.2f} ms {best}",
        interval(ratio, 3),
        f"{ratio['minimum']:.3f}-{ratio['maximum']:.3f}",
        f"{entry['controls'][best]['median']:.3f}" + (" VOID" if entry["void"] else ""),
        f"{share[OURS]:.2f} / {share[best]:.2f}",
        deviation,
    )


def _deviation(entry: Mapping[str, Any]) -> str:
    if "accuracy" not in entry:
        return ""
    relative = entry["accuracy"]["relative_deviation"]
    text = "not finite" if relative is None else f"{relative:.1e}"
    return text + ("" if entry["accuracy"]["agrees"] else " WRONG")


def _detail_row(entry: Mapping[str, Any], names: Sequence[str]) -> tuple[str, ...]:
    memory = entry.get("run_peak_bytes", {})
    speed_up = entry.get("speed_up", {})
    return (
        entry["name"],
        *(f"{speed_up[n]['median']:.3f}" if n in speed_up else "-" for n in names),
        "; ".join(f"{n}: {why}" for n, why in entry.get("no_peer", {}).items()),
        *(_megabytes(memory.get(n)) for n in (OURS, *names)),
        _megabytes(entry.get("building", {}).get("compile_peak_bytes")),
    )


def _megabytes(size: int | None) -> str:
    return "-" if size is None else f"{size / 1e6:.0f}"


if __name__ == "__main__":
    sys.exit(main())
