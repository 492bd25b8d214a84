"""The table of networks in README, written from a result file.

``python -m benchmarks.markdown benchmarks/results/networks.json --into README.md``

What stands in README between two marks, the first of which has the name of the result file, is
replaced; without ``--into`` the table is printed. Separate from ``networks.py``, so that a table
can be written again without measuring.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from ansor_lite.errors import InputError
from benchmarks.common import read_result
from benchmarks.comparing import OURS, summary
from benchmarks.networks import FAMILIES
from benchmarks.paired import interval

Entry: TypeAlias = Mapping[str, Any]

BEGIN, END = "<!-- benchmarks.markdown: {} -->", "<!-- end -->"
PEER_NAMES = {"onnxruntime": "onnxruntime", "openvino": "OpenVINO", "torch": "torch"}
MISSING = "-"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 2 for a file that is no result of ``benchmarks.networks`` or has no marks."""
    parser = argparse.ArgumentParser(prog="benchmarks.markdown", description=__doc__.split("\n")[0])
    parser.add_argument("result", type=Path, help="what benchmarks.networks wrote")
    parser.add_argument("--into", type=Path, help="Markdown file with the two marks")
    arguments = parser.parse_args(argv)
    try:
        text = table(read_result(arguments.result, "networks")["result"]["networks"])
        if arguments.into is None:
            print(text)
            return 0
        arguments.into.write_text(replaced(arguments.into, arguments.result.stem, text))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"written: {arguments.into}")
    return 0


def replaced(path: Path, name: str, text: str) -> str:
    """The file with ``text`` between the marks of the result ``name``.

    Raises :class:`InputError` without them.
    """
    try:
        whole = path.read_text()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    mark = BEGIN.format(name)
    before, begin, rest = whole.partition(mark)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise InputError(f"{path} has no place for the table: {mark} ... {END}")
    return f"{before}{begin}\n{text}\n{end}{after}"


def table(entries: Sequence[Entry]) -> str:
    """A row for every network, failures included, and the geometric mean for each batch size."""
    names = [name for family in FAMILIES.values() for name in family]
    order = {name: position for position, name in enumerate(names)}
    entries = sorted(entries, key=lambda entry: order.get(entry["name"], len(order)))
    peers = [p for p in PEER_NAMES if any(p in e.get("speed_up", {}) for e in entries)]
    head = [
        "network", "ansor-lite", *(PEER_NAMES[p] for p in peers), "speed-up", "share of peak",
        "running, MB", "compiling, MB",
    ]  # fmt: skip
    rows = [head, ["---"] * len(head)]
    rows += [_row(entry, peers) for entry in entries]
    # A network that failed early, or a result of an earlier version, says nothing of its batch.
    batches = sorted({entry.get("batch", 0) for entry in entries if "failure" not in entry})
    rows += [_mean_row(entries, batch, len(peers)) for batch in batches]
    if len(batches) > 1:
        rows.append(_mean_row(entries, None, len(peers)))
    notes = [note for entry in entries for note in _notes(entry)]
    return "\n".join([*("| " + " | ".join(row) + " |" for row in rows), *_paragraph(notes)])


def _row(entry: Entry, peers: Sequence[str]) -> list[str]:
    memory = [_running(entry, peers), _megabytes(entry.get("building", {}), "compile_peak_bytes")]
    best = entry.get("best_peer")
    if "failure" in entry or best is None:
        reason = entry.get("failure", "no peer is left").replace("|", "/")
        return [entry["name"], f"failed: {reason}", *(MISSING for _ in peers), "", "", *memory]
    latency, ratio = entry["latency_seconds"], entry["speed_up"][best]
    share = entry["share_of_peak"]
    return [
        entry["name"],
        *(_milliseconds(latency.get(name)) for name in (OURS, *peers)),
        interval(ratio) + _doubt(entry),
        f"{share[OURS]:.2f} / {share[best]:.2f}",
        *memory,
    ]


def _doubt(entry: Entry) -> str:
    """Why a row counts in no mean."""
    wrong = not entry["accuracy"]["agrees"]
    return " wrong" if wrong else " void" if entry["void"] else ""


def _running(entry: Entry, peers: Sequence[str]) -> str:
    """Ours and the smaller peer's."""
    bytes_of = entry.get("run_peak_bytes", {})
    theirs = [bytes_of[p] for p in peers if bytes_of.get(p) is not None]
    smaller = f"{min(theirs) / 1e6:.0f}" if theirs else MISSING
    return f"{_megabytes(bytes_of, OURS)} / {smaller}"


def _mean_row(entries: Iterable[Entry], batch: int | None, peers: int) -> list[str]:
    """Of one batch size, or of all."""
    found = summary([e for e in entries if batch is None or e.get("batch", 0) == batch])
    mean = found["geometric_mean"]
    text = interval(mean) if mean else MISSING
    name = f"geometric mean of {found['counted']}" + (f", batch {batch}" if batch else "")
    return [name, "", *("" for _ in range(peers)), text, "", "", ""]


def _notes(entry: Entry) -> list[str]:
    """What a reader must know beside the numbers: kernels no schedule fits, peers left out."""
    unscheduled = entry.get("building", {}).get("default_lowered", {})
    notes = [
        f"{entry['name']}: {kernel} is unscheduled, {why}" for kernel, why in unscheduled.items()
    ]
    return notes + [
        f"{entry['name']}: no {p}, {why}" for p, why in entry.get("no_peer", {}).items()
    ]


def _paragraph(notes: Sequence[str]) -> list[str]:
    return ["", *(f"- {note}" for note in notes)] if notes else []


def _milliseconds(percentiles: Mapping[str, float] | None) -> str:
    """Three digits of the median."""
    if percentiles is None:
        return MISSING
    value = percentiles["p50"] * 1e3
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _megabytes(values: Mapping[str, Any], name: str) -> str:
    size = values.get(name)
    return MISSING if size is None else f"{size / 1e6:.0f}"


if __name__ == "__main__":
    sys.exit(main())
