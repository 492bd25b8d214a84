"""Attention alone: beside PyTorch's, and windows beside what others make of them.

``python -m benchmarks.attention --seconds 60 --threads 2 --torch-python PYTHON``

Read ``attention_table.py`` for what is measured and ``Measured`` for what the columns mean. Each
row is tuned for a moment; then it takes turns with the multiply-add peak, with a copy of its
footprint (where memory is the limit: a read of it, both as they find the caches and from memory),
and with the peers: PyTorch's ``scaled_dot_product_attention`` (over all tokens where we compute
windows) and, for windows, onnxruntime on the decomposed form that gathers keys and values.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ansor_lite.errors import AnsorLiteError, InputError
from ansor_lite.tasks import Task
from benchmarks import operator_program
from benchmarks.attention_table import ATTENTIONS, Attention, save_gathered
from benchmarks.common import RESULTS, kept_rows, measured_now, show, write_result
from benchmarks.comparing import OURS, TOLERANCE, compare, control_of, time_in_turns
from benchmarks.paired import Ratio, geometric_mean_ratio, is_void, paired_ratio
from benchmarks.runtimes import FMA_PEAK, Runtime, RuntimeFailure, write_arrays
from benchmarks.turns import Series

if TYPE_CHECKING:
    from schedules.steps import Step

FROM_MEMORY = "operator-from-memory"
COPY, READ, READ_FROM_MEMORY = "copy", "read", "read-from-memory"
# What a share of memory's bandwidth is of: whose it is, and what the result calls it.
LIMITED_BY = {COPY: OURS, READ: OURS, READ_FROM_MEMORY: FROM_MEMORY}
SHARE, SHARE_FROM_MEMORY = "share_of_bandwidth", "share_of_bandwidth_from_memory"
SHARES = {COPY: SHARE, READ: SHARE, READ_FROM_MEMORY: SHARE_FROM_MEMORY}
TORCH, GATHERED = "torch", "onnxruntime"
PEERS = (TORCH, GATHERED)


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """What the rounds say about one row. Operations are useful ones: of pairs that are seen.

    ``footprint``: bytes of inputs and outputs; ``moved_bytes``: of one run of each of memory's
    limits, which have about as many.
    """

    series: Series
    flop: float
    footprint: float
    peak_flop: float
    moved_bytes: Mapping[str, float]

    def rate(self, work: float, label: str) -> float:
        """The median round's work per second."""
        return work / float(np.median(self.series.rounds[label]))

    def share(self, work: float, limit: float, by: str, of: str = OURS) -> float:
        """Our ``work`` per second over that of the limit, measured in the same round."""
        ours, other = (np.asarray(self.series.rounds[x]) for x in (of, by))
        return float(np.median(work / ours / (limit / other)))

    def speed_up(self, peer: str) -> Ratio:
        return paired_ratio(self.series.rounds[peer], self.series.rounds[OURS])

    def control(self, peer: str) -> Ratio:
        return paired_ratio(self.series.rounds[control_of(peer)], self.series.rounds[peer])

    def to_json(self) -> dict[str, Any]:
        peers = [name for name in PEERS if name in self.series.rounds]
        return {
            "useful_gflop": self.flop / 1e9,
            "megabytes": self.footprint / 1e6,
            "gflops": self.rate(self.flop, OURS) / 1e9,
            "peak_gflops": self.rate(self.peak_flop, FMA_PEAK) / 1e9,
            "share_of_peak": self.share(self.flop, self.peak_flop, FMA_PEAK),
            **{f"{by}_gbs": self.rate(moved, by) / 1e9 for by, moved in self.moved_bytes.items()},
            **{
                SHARES[by]: self.share(self.footprint, moved, by, LIMITED_BY[by])
                for by, moved in self.moved_bytes.items()
            },
            "speed_up": {p: dataclasses.asdict(self.speed_up(p)) for p in peers},
            "controls": {p: dataclasses.asdict(self.control(p)) for p in peers},
            "void_peers": [p for p in peers if is_void(self.control(p))],
            **self.series.to_json(),
        }


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 whatever comes out; 2 for bad input."""
    arguments = _parser().parse_args(argv)
    chosen = [a for a in ATTENTIONS if any(word in a.name for word in arguments.rows or [""])]
    if not chosen:
        print(f"error: no row is called {' or '.join(arguments.rows)}", file=sys.stderr)
        return 2
    try:
        again = {row.name for row in chosen}
        kept = arguments.append
        rows = kept_rows(arguments.output, arguments.threads, "rows", again) if kept else []
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for attention in chosen:
        rows.append(_measured(attention, arguments))
        path = _write(rows, arguments)
    _report(rows, arguments)
    print(f"written: {path}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="benchmarks.attention", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--rows", nargs="+", help="parts of their names; default: all")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=60.0, help="tuning budget per row")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, default=Path("build/benchmarks"), help="folder of logs")
    parser.add_argument("--no-tune", action="store_true", help="use the log as it is")
    parser.add_argument("--peers", nargs="*", default=list(PEERS), choices=PEERS)
    parser.add_argument("--peer-python", default=sys.executable, help="onnxruntime's interpreter")
    parser.add_argument("--torch-python", default=sys.executable, help="torch's interpreter")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--turn", type=float, default=0.1, help="seconds of one runtime's turn")
    parser.add_argument("--output", type=Path, default=RESULTS / "attention.json")
    parser.add_argument("--append", action="store_true", help="keep other rows of --output")
    return parser


def _measured(attention: Attention, arguments: argparse.Namespace) -> dict[str, Any]:
    """One row of the result; a failure of ours is one too."""
    row: dict[str, Any] = {
        "name": attention.name,
        "arguments": dict(attention.arguments),
        "bandwidth_bound": attention.bandwidth,
        "measured": measured_now(),
    }
    try:
        task = attention.task().canonical()
        steps = _steps(task, arguments)
        row["workspace_bytes"] = workspace_bytes(task, steps, arguments.threads)
        row |= _timed(attention, task, steps, arguments)
    except AnsorLiteError as error:
        row["failure"] = str(error)
        print(f"{attention.name}: {error}", file=sys.stderr)
    return row


def _steps(task: Task, arguments: argparse.Namespace) -> tuple[Step, ...]:
    """The best program of the log, after tuning for a moment.

    Raises :class:`AnsorLiteError` when there is none.
    """
    import ansor_lite
    from ansor_lite import records
    from ansor_lite.options import TuningOptions
    from ansor_lite.replay import replay
    from ansor_lite.target import native

    target = native(arguments.threads)
    arguments.log.mkdir(parents=True, exist_ok=True)
    log = arguments.log / "attention.tune.jsonl"
    if not arguments.no_tune:
        options = TuningOptions(
            seconds=arguments.seconds, threads=arguments.threads, seed=arguments.seed
        )
        ansor_lite.tune_task(task, target=target, options=options, log=log)
    steps = replay(records.read(log), [task], target).steps_for(task)
    if steps is None:
        raise AnsorLiteError(f"no program in {log.name}")
    return steps


def workspace_bytes(task: Task, steps: tuple[Step, ...], threads: int) -> int:
    """Bytes that a program keeps besides its inputs and outputs: what only one loop nest uses,
    every thread has for itself; registers do not count."""
    from ansor_lite.program import tensor_bytes
    from ansor_lite.target import native
    from ansor_lite.workspaces import exposed
    from schedules.lower import lower

    function = lower(task.dag, steps, native(threads).hardware()).func
    shared = exposed(function).workspaces
    total = 0
    for buffer in function.body.block.alloc_buffers:
        if str(buffer.scope()) != "local":
            size = tensor_bytes([int(s) for s in buffer.shape], str(buffer.dtype))
            total += size * (1 if any(buffer.same_as(s) for s in shared) else threads)
    return total


def _timed(
    attention: Attention, task: Task, steps: tuple[Step, ...], arguments: argparse.Namespace
) -> dict[str, Any]:
    """Turns of our program, the two limits and the peers; our values are compared with a peer's."""
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = Path(temporary)
        operator_program.save(folder / "program", task, steps)
        write_arrays(folder / "none.npz", {})
        write_arrays(folder / "qkv.npz", attention.arrays(arguments.seed))

        def start(kind: str, path: Path, inputs: str, python: str = sys.executable) -> Runtime:
            runtime = Runtime(kind, path, folder / inputs, arguments.threads, python)
            return stack.enter_context(runtime)

        runtimes = {
            OURS: start("operator", folder / "program", "qkv.npz"),
            FMA_PEAK: start(FMA_PEAK, Path("-"), "none.npz"),
        }
        limits = (READ, READ_FROM_MEMORY) if attention.bandwidth else (COPY,)
        for limit in limits:
            runtimes[limit] = start(limit, Path(str(task.bytes)), "none.npz")
        if attention.bandwidth:
            runtimes[FROM_MEMORY] = start(FROM_MEMORY, folder / "program", "qkv.npz")
        refused, found = {}, {}
        for peer, (kind, path, python) in _peers(attention, folder, arguments).items():
            try:
                runtimes[peer] = start(kind, path, "qkv.npz", python)
                found[peer] = runtimes[peer].outputs(folder / "out.npz")
                runtimes[control_of(peer)] = start(kind, path, "qkv.npz", python)
            except RuntimeFailure as error:
                runtimes.pop(peer, None)
                refused[peer] = str(error)
        accuracy = _accuracy(attention, runtimes[OURS].outputs(folder / "out.npz"), found)
        series = time_in_turns(runtimes, refused, arguments.rounds, arguments.turn, PEERS)
        peak = runtimes[FMA_PEAK].facts["gflop"] * 1e9
        moved = {limit: runtimes[limit].facts["bytes"] for limit in limits}
        measured = Measured(series, attention.useful_flop, task.bytes, peak, moved)
        facts = {name: dict(each.facts) for name, each in runtimes.items()}
    return measured.to_json() | {"accuracy": accuracy, "no_peer": refused, "runtimes": facts}


def _peers(
    attention: Attention, folder: Path, arguments: argparse.Namespace
) -> dict[str, tuple[str, Path, str]]:
    """Kind, file and interpreter of the wanted peers that know this row."""
    peers = {}
    if TORCH in arguments.peers:
        (folder / "peer.json").write_text(json.dumps(attention.peer()))
        peers[TORCH] = ("torch-attention", folder / "peer.json", arguments.torch_python)
    if GATHERED in arguments.peers and attention.is_windowed:
        save_gathered(attention, folder / "gathered.onnx")
        peers[GATHERED] = ("onnxruntime", folder / "gathered.onnx", arguments.peer_python)
    return peers


def _accuracy(
    attention: Attention, ours: Mapping[str, Any], found: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any] | None:
    """Our values beside those of the peer that computes the same; ``None`` without such a peer.

    Raises :class:`AnsorLiteError` when they disagree.
    """
    same = GATHERED if attention.is_windowed else TORCH
    if same not in found:
        return None
    expected = found[same]["y"]
    compared = compare({"y": ours["y"].reshape(expected.shape)}, {"y": expected}, TOLERANCE)
    if not compared["agrees"]:
        raise AnsorLiteError(f"wrong: off by {compared['relative_deviation']} from {same}")
    return compared | {"beside": same}


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Over the rows that PyTorch computes too: mean and extremes of the speed-ups."""
    pairs = [
        (row["round_medians_seconds"][TORCH], row["round_medians_seconds"][OURS])
        for row in rows
        if TORCH in row.get("speed_up", {})
        and "window" not in row["arguments"]
        and not row["bandwidth_bound"]
    ]
    return {"over_torch": dataclasses.asdict(geometric_mean_ratio(pairs)) if pairs else None}


def _write(rows: Sequence[Mapping[str, Any]], arguments: argparse.Namespace) -> Path:
    settings = {
        "threads": arguments.threads,
        "peers": list(arguments.peers),
        "tuning_seconds": None if arguments.no_tune else arguments.seconds,
        "seed": arguments.seed,
        "rounds": arguments.rounds,
        "turn_seconds": arguments.turn,
    }
    result = {"summary": summary(rows), "rows": list(rows)}
    return write_result("attention", settings, result, arguments.output)


def _report(rows: Sequence[Mapping[str, Any]], arguments: argparse.Namespace) -> None:
    show(
        f"{arguments.threads} thread(s); useful operations; shares of limits of the same rounds; "
        "of memory: caches as they are | emptied",
        ("attention", "ms", "torch", "gathered", "GFLOP/s", "of peak", "of memory", "MB kept",
         "over torch", "over gathered"),
        [_row(row) for row in rows],
    )  # fmt: skip
    total = summary(rows)["over_torch"]
    if total is not None:
        mean = f"{total['median']:.2f} [{total['low']:.2f}, {total['high']:.2f}]"
        print(f"over torch, geometric mean: {mean}, least {total['minimum']:.2f}")


def _row(row: Mapping[str, Any]) -> tuple[str, ...]:
    if "failure" in row:
        return (row["name"], "FAILED", row["failure"], *[""] * 7)
    return (
        row["name"],
        *(_milliseconds(row, label) for label in (OURS, TORCH, GATHERED)),
        f"{row['gflops']:.0f}",
        f"{row['share_of_peak']:.2f}",
        " | ".join(f"{row[share]:.2f}" for share in (SHARE, SHARE_FROM_MEMORY) if share in row)
        if row["bandwidth_bound"]
        else "",
        f"{row['workspace_bytes'] / 1e6:.2f}",
        *(_beside(row, peer) for peer in PEERS),
    )


def _milliseconds(row: Mapping[str, Any], label: str) -> str:
    found = row["latency_seconds"].get(label)
    return "" if found is None else f"{found['p50'] * 1e3:.3g}"


def _beside(row: Mapping[str, Any], peer: str) -> str:
    """Speed-up over a peer with its interval, marked when the peer's control was out of range."""
    if peer not in row["speed_up"]:
        return "no peer" if peer in row["no_peer"] else ""
    ratio = row["speed_up"][peer]
    text = f"{ratio['median']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]"
    return text + (" VOID" if peer in row["void_peers"] else "")


if __name__ == "__main__":
    sys.exit(main())
