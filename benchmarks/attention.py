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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ansor_lite.errors import AnsorLiteError
from ansor_lite.tasks import Task
from benchmarks import tables
from benchmarks.attention_table import ATTENTIONS, Attention, save_gathered
from benchmarks.children import Peer, start_peers
from benchmarks.common import show
from benchmarks.comparing import OURS, TOLERANCE, compare, time_in_turns
from benchmarks.paired import geometric_mean_ratio, interval
from benchmarks.runtimes import FMA_PEAK, write_arrays
from benchmarks.tables import COPY, Row, Steps, Table
from benchmarks.turns import Series

INPUTS = "qkv.npz"
TORCH, GATHERED = "torch", "onnxruntime"
PEERS = (TORCH, GATHERED)
FROM_MEMORY = "operator-from-memory"
READ, READ_FROM_MEMORY = "read", "read-from-memory"
# What a share of memory's bandwidth is of: whose it is, and what the result calls it.
LIMITED_BY = {COPY: OURS, READ: OURS, READ_FROM_MEMORY: FROM_MEMORY}
SHARE, SHARE_FROM_MEMORY = "share_of_bandwidth", "share_of_bandwidth_from_memory"
SHARES = {COPY: SHARE, READ: SHARE, READ_FROM_MEMORY: SHARE_FROM_MEMORY}


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

    def to_json(self) -> dict[str, Any]:
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
            **tables.beside_peers(self.series, OURS, PEERS),
            **self.series.to_json(),
        }


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 whatever comes out; 2 for bad input."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.attention", description=__doc__.split("\n")[0]
    )
    parser.add_argument(
        "--rows", nargs="+", default=[""], help="parts of their names; default: all"
    )
    tables.add_options(parser, "attention", PEERS)
    parser.set_defaults(threads=2, seconds=60.0, rounds=15, turn=0.1, peers=list(PEERS))
    arguments = parser.parse_args(argv)
    table = Table("attention", "rows", ATTENTIONS, _facts, _timed, _summaries, _report)
    return tables.measure(table, arguments.rows, arguments)


def _facts(attention: Attention) -> Row:
    return {"arguments": dict(attention.arguments), "bandwidth_bound": attention.bandwidth}


def workspace_bytes(task: Task, steps: Steps, threads: int) -> int:
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
    attention: Attention, task: Task, steps: Steps, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Turns of our program, its limits and the peers; our values are compared with a peer's."""
    moving = (READ, READ_FROM_MEMORY) if attention.bandwidth else (COPY,)
    with tables.children(task, steps, arguments.threads) as group:
        write_arrays(group.folder / INPUTS, attention.arrays(arguments.seed))
        runtimes = {
            OURS: tables.program(group, "operator", INPUTS),
            **group.limits(moving, task.bytes),
        }
        if attention.bandwidth:
            runtimes[FROM_MEMORY] = tables.program(group, FROM_MEMORY, INPUTS)
        peers = _peers(attention, group.folder, arguments)
        found, refused = start_peers(group, peers, runtimes)
        accuracy = _accuracy(attention, group.outputs(runtimes[OURS]), found)
        series = time_in_turns(runtimes, refused, arguments.rounds, arguments.turn, PEERS)
        facts = {name: dict(each.facts) for name, each in runtimes.items()}
    peak, moved = facts[FMA_PEAK]["gflop"] * 1e9, {kind: facts[kind]["bytes"] for kind in moving}
    measured = Measured(series, attention.useful_flop, task.bytes, peak, moved)
    return {
        "workspace_bytes": workspace_bytes(task, steps, arguments.threads),
        **measured.to_json(),
        "accuracy": accuracy,
        "no_peer": refused,
        "runtimes": facts,
    }


def _peers(attention: Attention, folder: Path, arguments: argparse.Namespace) -> dict[str, Peer]:
    """The wanted peers that know this row."""
    peers = {}
    if TORCH in arguments.peers:
        python = arguments.torch_python or arguments.peer_python
        (folder / "peer.json").write_text(json.dumps(attention.peer()))
        peers[TORCH] = Peer("torch-attention", folder / "peer.json", INPUTS, python)
    if GATHERED in arguments.peers and attention.is_windowed:
        save_gathered(attention, folder / "gathered.onnx")
        path = folder / "gathered.onnx"
        peers[GATHERED] = Peer("onnxruntime", path, INPUTS, arguments.peer_python)
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


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Over the rows that PyTorch computes too: mean and extremes of the speed-ups."""
    pairs = [
        (row["round_medians_seconds"][TORCH], row["round_medians_seconds"][OURS])
        for row in rows
        if TORCH in row.get("speed_up", {})
        and "window" not in row["arguments"]
        and not row["bandwidth_bound"]
    ]
    return {"over_torch": dataclasses.asdict(geometric_mean_ratio(pairs)) if pairs else None}


def _summaries(rows: Sequence[Row]) -> Row:
    return {"summary": summary(rows)}


def _report(rows: Sequence[Row], arguments: argparse.Namespace) -> None:
    show(
        f"{arguments.threads} thread(s); useful operations; shares of limits of the same rounds; "
        "of memory: caches as they are | emptied",
        ("attention", "ms", "torch", "gathered", "GFLOP/s", "of peak", "of memory", "MB kept",
         "over torch", "over gathered"),
        [_row(row) for row in rows],
    )  # fmt: skip
    total = summary(rows)["over_torch"]
    if total is not None:
        print(f"over torch, geometric mean: {interval(total)}, least {total['minimum']:.2f}")


def _row(row: Row) -> tuple[str, ...]:
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
        *(tables.beside(row, peer) for peer in PEERS),
    )


def _milliseconds(row: Row, label: str) -> str:
    found = row["latency_seconds"].get(label)
    return "" if found is None else f"{found['p50'] * 1e3:.3g}"


if __name__ == "__main__":
    sys.exit(main())
