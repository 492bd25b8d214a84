"""Single operators: their share of what this machine can do, and other runtimes beside them.

``python -m benchmarks.operators --seconds 20 --peers onnxruntime openvino``

Read ``OPERATORS`` for what is measured and ``Shares`` for what the shares are of. Each operator is
tuned for a moment; then it takes turns with the multiply-add peak and with a copy of its footprint,
so that every share is of a peak that was measured in the same round.
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
from numpy.typing import NDArray

from ansor_lite.errors import AnsorLiteError
from ansor_lite.tasks import Task
from benchmarks import tables
from benchmarks.children import Peer, start_peers
from benchmarks.common import show
from benchmarks.comparing import TOLERANCE, time_in_turns
from benchmarks.operator_peers import FED, arrays, geometry, save_onnx
from benchmarks.operator_table import OPERATORS, Operator
from benchmarks.runtimes import FMA_PEAK, write_arrays
from benchmarks.tables import COPY, Row, Steps, Table
from benchmarks.turns import Series

HOT, COLD = "operator", "cold-operator"
PEERS = ("onnxruntime", "openvino", "torch")


@dataclasses.dataclass(frozen=True, slots=True)
class Shares:
    """What the rounds say about one operator. Work is per run, in operations and bytes.

    Memory's limit is a copy that reads and writes as many bytes as the operator's tensors have.
    """

    series: Series
    flop: float
    footprint: float
    peak_flop: float
    copied_bytes: float

    @property
    def peak(self) -> NDArray[np.float64]:
        """Operations per second of the multiply-add units, by round."""
        return self.peak_flop / np.asarray(self.series.rounds[FMA_PEAK])

    @property
    def limit(self) -> NDArray[np.float64]:
        """The roofline in operations per second, by round: the peak, or what a copy leaves."""
        bandwidth = self.copied_bytes / np.asarray(self.series.rounds[COPY])
        return np.minimum(self.peak, self.flop / self.footprint * bandwidth)

    def achieved(self, label: str) -> NDArray[np.float64]:
        """Operations per second, by round."""
        return self.flop / np.asarray(self.series.rounds[label])

    def to_json(self) -> dict[str, Any]:
        hot, cold = self.achieved(HOT), self.achieved(COLD)
        return {
            "gflop": self.flop / 1e9,
            "megabytes": self.footprint / 1e6,
            "gflops_hot": float(np.median(hot)) / 1e9,
            "gflops_cold": float(np.median(cold)) / 1e9,
            "peak_gflops": float(np.median(self.peak)) / 1e9,
            "copy_gbs": self.copied_bytes / float(np.median(self.series.rounds[COPY])) / 1e9,
            "share_of_peak_hot": float(np.median(hot / self.peak)),
            "share_of_peak_cold": float(np.median(cold / self.peak)),
            "share_of_roofline_hot": float(np.median(hot / self.limit)),
            "bound": "memory" if np.median(self.limit / self.peak) < 1 else "compute",
            **tables.beside_peers(self.series, HOT, PEERS),
            **self.series.to_json(),
        }


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 whatever the shares; 2 for bad input."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.operators", description=__doc__.split("\n")[0]
    )
    parser.add_argument(
        "--operators", nargs="+", default=[""], help="parts of their names; default: all"
    )
    tables.add_options(parser, "operators", PEERS)
    parser.set_defaults(threads=1, seconds=20.0, rounds=20, turn=0.03, peers=[])
    arguments = parser.parse_args(argv)
    table = Table("operators", "operators", OPERATORS, _facts, _timed, _summaries, _report)
    return tables.measure(table, arguments.operators, arguments)


def _facts(operator: Operator) -> Row:
    return {
        "workload": operator.workload,
        "arguments": dict(operator.arguments),
        "round_shape": operator.round_shape,
    }


def _require_right(task: Task, steps: Steps, threads: int) -> None:
    """Raises :class:`AnsorLiteError` unless the program computes what the unscheduled one does."""
    from ansor_lite.measure.local import LocalWorkers
    from ansor_lite.measure.protocol import Candidate
    from ansor_lite.target import native

    with LocalWorkers(native(threads), 1) as workers:
        verdict = workers.check(Candidate(task, steps))
    if not verdict.ok:
        raise AnsorLiteError(f"wrong: {verdict.message or verdict.status.value}")


def _timed(
    operator: Operator, task: Task, steps: Steps, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Turns of our program with hot and with cold weights, the two limits, and the peers."""
    _require_right(task, steps, arguments.threads)
    with tables.children(task, steps, arguments.threads) as group:
        runtimes = {kind: tables.program(group, kind) for kind in (HOT, COLD)}
        runtimes |= group.limits((COPY,), task.bytes)
        peers = _peers(operator, group.folder, arguments)
        _, refused = start_peers(group, peers, runtimes, tolerance=TOLERANCE)
        series = time_in_turns(runtimes, refused, arguments.rounds, arguments.turn, PEERS)
        facts = {name: dict(each.facts) for name, each in runtimes.items()}
    peak, copied = facts[FMA_PEAK]["gflop"] * 1e9, facts[COPY]["bytes"]
    shares = Shares(series, task.flop, task.bytes, peak, copied)
    return shares.to_json() | {"no_peer": refused, "runtimes": facts}


def _peers(operator: Operator, folder: Path, arguments: argparse.Namespace) -> dict[str, Peer]:
    """The wanted peers, and the files that they read."""
    shape = geometry(operator.workload, operator.arguments)
    values = arrays(shape, arguments.seed)
    save_onnx(shape, values, folder / "model.onnx")
    (folder / "geometry").write_text(json.dumps(shape.to_json()))
    write_arrays(folder / "x.npz", {name: values[name] for name in FED if name in values})
    write_arrays(folder / "all.npz", values)
    python = arguments.peer_python
    peers = {peer: Peer(peer, folder / "model.onnx", "x.npz", python) for peer in arguments.peers}
    if "torch" in peers:
        python = arguments.torch_python or python
        peers["torch"] = Peer("torch", folder / "geometry", "all.npz", python)
    return peers


def _summaries(rows: Sequence[Row]) -> Row:
    return {"beside_round_shapes": beside_round_shapes(rows)}


def beside_round_shapes(rows: Sequence[Row]) -> dict[str, float]:
    """For odd shapes: their share of peak over that of the next round shape."""
    shares = {row["name"]: row["share_of_peak_hot"] for row in rows if "failure" not in row}
    return {
        row["name"]: shares[row["name"]] / shares[row["round_shape"]]
        for row in rows
        if row["name"] in shares and row["round_shape"] in shares
    }


def _report(rows: Sequence[Row], arguments: argparse.Namespace) -> None:
    odd = beside_round_shapes(rows)
    peers = [peer for peer in PEERS if any(peer in row.get("speed_up", {}) for row in rows)]
    show(
        f"{arguments.threads} thread(s); shares of limits of the same rounds: multiply-adds, and a "
        "copy of as many bytes; weights hot | cold",
        ("operator", "ms", "GFLOP/s", "of peak", "bound", "of roofline", "of round",
         *(f"over {peer}" for peer in peers)),
        [_row(row, odd, peers) for row in rows],
    )  # fmt: skip


def _row(row: Row, odd: Mapping[str, float], peers: Sequence[str]) -> tuple[str, ...]:
    if "failure" in row:
        return (row["name"], "FAILED", row["failure"], *[""] * (4 + len(peers)))
    return (
        row["name"],
        f"{row['latency_seconds'][HOT]['p50'] * 1e3:.3f}",
        f"{row['gflops_hot']:.0f} | {row['gflops_cold']:.0f}",
        f"{row['share_of_peak_hot']:.2f} | {row['share_of_peak_cold']:.2f}",
        row["bound"],
        f"{row['share_of_roofline_hot']:.2f}",
        f"{odd[row['name']]:.2f}" if row["name"] in odd else "",
        *(tables.beside(row, peer) for peer in peers),
    )


if __name__ == "__main__":
    sys.exit(main())
