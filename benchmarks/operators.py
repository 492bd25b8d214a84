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
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ansor_lite.errors import AnsorLiteError, InputError
from ansor_lite.tasks import Task
from benchmarks import operator_program
from benchmarks.common import RESULTS, kept_rows, measured_now, show, write_result
from benchmarks.comparing import TOLERANCE, compare, control_of, time_in_turns
from benchmarks.operator_peers import FED, arrays, geometry, save_onnx
from benchmarks.operator_table import OPERATORS, Operator
from benchmarks.paired import Ratio, is_void, paired_ratio
from benchmarks.runtimes import FMA_PEAK, Runtime, RuntimeFailure, write_arrays
from benchmarks.turns import Series

if TYPE_CHECKING:
    from schedules.steps import Step

HOT, COLD, COPY = "operator", "cold-operator", "copy"
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

    def control(self, peer: str) -> Ratio:
        return paired_ratio(self.series.rounds[control_of(peer)], self.series.rounds[peer])

    def achieved(self, label: str) -> NDArray[np.float64]:
        """Operations per second, by round."""
        return self.flop / np.asarray(self.series.rounds[label])

    def to_json(self) -> dict[str, Any]:
        peers = [name for name in PEERS if name in self.series.rounds]
        rounds = self.series.rounds
        hot, cold = self.achieved(HOT), self.achieved(COLD)
        return {
            "gflop": self.flop / 1e9,
            "megabytes": self.footprint / 1e6,
            "gflops_hot": float(np.median(hot)) / 1e9,
            "gflops_cold": float(np.median(cold)) / 1e9,
            "peak_gflops": float(np.median(self.peak)) / 1e9,
            "copy_gbs": self.copied_bytes / float(np.median(rounds[COPY])) / 1e9,
            "share_of_peak_hot": float(np.median(hot / self.peak)),
            "share_of_peak_cold": float(np.median(cold / self.peak)),
            "share_of_roofline_hot": float(np.median(hot / self.limit)),
            "bound": "memory" if np.median(self.limit / self.peak) < 1 else "compute",
            "speed_up": {
                p: dataclasses.asdict(paired_ratio(rounds[p], rounds[HOT])) for p in peers
            },
            "controls": {p: dataclasses.asdict(self.control(p)) for p in peers},
            "void_peers": [p for p in peers if is_void(self.control(p))],
            **self.series.to_json(),
        }


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 whatever the shares; 2 for bad input."""
    arguments = _parser().parse_args(argv)
    chosen = [o for o in OPERATORS if any(word in o.name for word in arguments.operators or [""])]
    if not chosen:
        print(f"error: no operator is called {' or '.join(arguments.operators)}", file=sys.stderr)
        return 2
    try:
        rows = _earlier(arguments, chosen)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for operator in chosen:
        rows.append(_measured(operator, arguments))
        path = _write(rows, arguments)
    _report(rows, arguments)
    print(f"written: {path}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="benchmarks.operators", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--operators", nargs="+", help="parts of their names; default: all")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=20.0, help="tuning budget per operator")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, default=Path("build/benchmarks"), help="folder of logs")
    parser.add_argument("--no-tune", action="store_true", help="use the log as it is")
    parser.add_argument("--exact", action="store_true", help="direct algorithms only")
    parser.add_argument("--peers", nargs="*", default=[], choices=PEERS)
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter of the peers")
    parser.add_argument("--torch-python", help="interpreter of torch, if it is another one")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--turn", type=float, default=0.03, help="seconds of one runtime's turn")
    parser.add_argument("--output", type=Path, default=RESULTS / "operators.json")
    parser.add_argument("--append", action="store_true", help="keep other operators of --output")
    return parser


def _earlier(arguments: argparse.Namespace, chosen: Sequence[Operator]) -> list[dict[str, Any]]:
    """Rows to keep: of the same machine and threads, and not measured again now."""
    if not arguments.append:
        return []
    again = {operator.name for operator in chosen}
    return kept_rows(arguments.output, arguments.threads, "operators", again)


def _measured(operator: Operator, arguments: argparse.Namespace) -> dict[str, Any]:
    """One row of the result; a failure of ours is one too."""
    row: dict[str, Any] = {
        "name": operator.name,
        "workload": operator.workload,
        "arguments": dict(operator.arguments),
        "round_shape": operator.round_shape,
        "measured": measured_now(),
    }
    try:
        task, steps = _steps(operator, arguments)
        row |= _timed(operator, task, steps, arguments)
    except AnsorLiteError as error:
        row["failure"] = str(error)
        print(f"{operator.name}: {error}", file=sys.stderr)
    return row


def _steps(operator: Operator, arguments: argparse.Namespace) -> tuple[Task, tuple[Step, ...]]:
    """The best program of the log, after tuning for a moment, and that it computes right.

    Raises :class:`AnsorLiteError` when there is none.
    """
    import ansor_lite
    from ansor_lite import records
    from ansor_lite.measure.local import LocalWorkers
    from ansor_lite.measure.protocol import Candidate
    from ansor_lite.options import TuningOptions
    from ansor_lite.replay import replay
    from ansor_lite.target import native

    task, target = operator.task().canonical(), native(arguments.threads)
    arguments.log.mkdir(parents=True, exist_ok=True)
    log = arguments.log / f"operators{'.exact' if arguments.exact else ''}.tune.jsonl"
    if not arguments.no_tune:
        options = TuningOptions(
            seconds=arguments.seconds,
            threads=arguments.threads,
            seed=arguments.seed,
            exact=arguments.exact,
        )
        ansor_lite.tune_task(task, target=target, options=options, log=log)
    steps = replay(records.read(log), [task], target).steps_for(task)
    if steps is None:
        raise AnsorLiteError(f"no program in {log.name}")
    with LocalWorkers(target, 1) as workers:
        verdict = workers.check(Candidate(task, steps))
    if not verdict.ok:
        raise AnsorLiteError(f"wrong: {verdict.message or verdict.status.value}")
    return task, steps


def _timed(
    operator: Operator, task: Task, steps: tuple[Step, ...], arguments: argparse.Namespace
) -> dict[str, Any]:
    """Turns of our program with hot and with cold weights, the two limits, and the peers."""
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = Path(temporary)
        operator_program.save(folder / "program", task, steps)
        write_arrays(folder / "none.npz", {})

        def start(kind: str, path: Path, inputs: str, python: str = sys.executable) -> Runtime:
            runtime = Runtime(kind, path, folder / inputs, arguments.threads, python)
            return stack.enter_context(runtime)

        runtimes = {
            HOT: start(HOT, folder / "program", "none.npz"),
            COLD: start(COLD, folder / "program", "none.npz"),
            COPY: start(COPY, Path(str(task.bytes)), "none.npz"),
            FMA_PEAK: start(FMA_PEAK, Path("-"), "none.npz"),
        }
        refused = _start_peers(operator, folder, start, runtimes, arguments)
        series = time_in_turns(runtimes, refused, arguments.rounds, arguments.turn, PEERS)
        peak, copied = runtimes[FMA_PEAK].facts["gflop"] * 1e9, runtimes[COPY].facts["bytes"]
        shares = Shares(series, task.flop, task.bytes, peak, copied)
        facts = {name: dict(each.facts) for name, each in runtimes.items()}
    return shares.to_json() | {"no_peer": refused, "runtimes": facts}


def _start_peers(
    operator: Operator,
    folder: Path,
    start: Callable[[str, Path, str, str], Runtime],
    runtimes: dict[str, Runtime],
    arguments: argparse.Namespace,
) -> dict[str, str]:
    """Add the peers and their controls to ``runtimes``; who fails or disagrees, and why."""
    shape = geometry(operator.workload, operator.arguments)
    values = arrays(shape, arguments.seed)
    save_onnx(shape, values, folder / "model.onnx")
    (folder / "geometry").write_text(json.dumps(shape.to_json()))
    write_arrays(folder / "x.npz", {name: values[name] for name in FED if name in values})
    write_arrays(folder / "all.npz", values)
    refused: dict[str, str] = {}
    expected: dict[str, NDArray[Any]] = {}
    for peer in arguments.peers:
        python = arguments.peer_python
        path, inputs = folder / "model.onnx", "x.npz"
        if peer == "torch":
            python = arguments.torch_python or python
            path, inputs = folder / "geometry", "all.npz"
        try:
            runtimes[peer] = start(peer, path, inputs, python)
            found = runtimes[peer].outputs(folder / "out.npz")
            expected = expected or found
            if not compare(found, expected, TOLERANCE)["agrees"]:
                raise RuntimeFailure(f"wrong output: unlike {arguments.peers[0]}'s")
            runtimes[control_of(peer)] = start(peer, path, inputs, python)
        except AnsorLiteError as error:
            runtimes.pop(peer, None)
            refused[peer] = str(error)
    return refused


def _write(rows: Sequence[Mapping[str, Any]], arguments: argparse.Namespace) -> Path:
    settings = {
        "threads": arguments.threads,
        "peers": list(arguments.peers),
        "exact": arguments.exact,
        "tuning_seconds": None if arguments.no_tune else arguments.seconds,
        "seed": arguments.seed,
        "rounds": arguments.rounds,
        "turn_seconds": arguments.turn,
    }
    result = {"beside_round_shapes": beside_round_shapes(rows), "operators": list(rows)}
    return write_result("operators", settings, result, arguments.output)


def beside_round_shapes(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """For odd shapes: their share of peak over that of the next round shape."""
    shares = {row["name"]: row["share_of_peak_hot"] for row in rows if "failure" not in row}
    return {
        row["name"]: shares[row["name"]] / shares[row["round_shape"]]
        for row in rows
        if row["name"] in shares and row["round_shape"] in shares
    }


def _report(rows: Sequence[Mapping[str, Any]], arguments: argparse.Namespace) -> None:
    odd = beside_round_shapes(rows)
    peers = [peer for peer in PEERS if any(peer in row.get("speed_up", {}) for row in rows)]
    show(
        f"{arguments.threads} thread(s); shares of the peak of the same rounds; weights hot | cold",
        ("operator", "ms", "GFLOP/s", "of peak", "bound", "of roofline", "of round",
         *(f"over {peer}" for peer in peers)),
        [_row(row, odd, peers) for row in rows],
    )  # fmt: skip


def _row(row: Mapping[str, Any], odd: Mapping[str, float], peers: Sequence[str]) -> tuple[str, ...]:
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
        *(_beside(row, peer) for peer in peers),
    )


def _beside(row: Mapping[str, Any], peer: str) -> str:
    """Speed-up over a peer, marked when the peer's control was out of range."""
    if peer not in row["speed_up"]:
        return "no peer" if peer in row["no_peer"] else "-"
    return f"{row['speed_up'][peer]['median']:.2f}" + (" VOID" if peer in row["void_peers"] else "")


if __name__ == "__main__":
    sys.exit(main())
