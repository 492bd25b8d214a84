"""A picture of a result file: speed-ups over each peer, with their 95 % intervals.

``python -m benchmarks.plot benchmarks/results/networks.json benchmarks/results/networks.png``

Separate from ``networks.py``, so that measuring needs no plotting library.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ansor_lite.errors import InputError
from benchmarks.common import read_result

# Peer -> colour and marker; colours that people of any colour vision tell apart.
STYLES = {"onnxruntime": ("#0072b2", "o"), "openvino": ("#d55e00", "s")}
OTHER_STYLE = ("#666666", "D")
PIXELS_PER_INCH = 110
# On a logarithmic axis, where 0.5 is as far from 1 as 2 is.
TICKS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.3, 1.4, 1.5, 1.75, 2, 2.5, 3,
         4, 5, 7, 10)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 2 for a file that is no result of ``benchmarks.networks``."""
    parser = argparse.ArgumentParser(prog="benchmarks.plot", description=__doc__.split("\n")[0])
    parser.add_argument("result", type=Path, help="what benchmarks.networks wrote")
    parser.add_argument("output", type=Path, help="PNG to write")
    arguments = parser.parse_args(argv)
    try:
        document = read_result(arguments.result, "networks")
        rows = [row for row in document["result"]["networks"] if "speed_up" in row]
        if not rows:
            raise InputError(f"{arguments.result} has no measured network")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    draw(document, rows, arguments.output)
    print(f"written: {arguments.output}")
    return 0


def draw(document: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], output: Path) -> None:
    """One line per network, in the order of speed-up over the best peer; void ones are grey."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    rows = sorted(rows, key=_best_speed_up)
    figure = Figure(figsize=(8.6, 1.6 + 0.34 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    axes.axvline(1.0, color="black", linewidth=1)
    for name in _peers(rows):
        _draw_peer(axes, rows, name)
    _draw_mean(axes, document["result"]["geometric_mean"])
    axes.set_yticks(range(len(rows)), [_label(row) for row in rows])
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.set_xscale("log", base=2)
    low, high = _limits(rows)
    axes.set_xlim(low, high)
    axes.set_xticks(ticks := [t for t in TICKS if low <= t <= high], [f"{t:g}" for t in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(axis="x", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(
        "latency of the peer / latency of ansor-lite  (right of 1: ansor-lite is faster)"
    )
    axes.set_title(_title(document), loc="left", fontsize=10)
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    output.parent.mkdir(parents=True, exist_ok=True)
    # Without the version of the library in the file, equal results give equal files.
    figure.savefig(output, dpi=PIXELS_PER_INCH, metadata={"Software": None})


def _draw_peer(axes: Any, rows: Sequence[Mapping[str, Any]], name: str) -> None:
    """Medians and intervals; the best peer of a network is filled, the other one hollow."""
    colour, marker = STYLES.get(name, OTHER_STYLE)
    axes.plot([], [], marker, color=colour, label=f"over {name}")
    for place, row in enumerate(rows):
        if name not in row["speed_up"]:
            continue
        ratio, best = row["speed_up"][name], name == row["best_peer"]
        shown = "#aaaaaa" if row["void"] else colour
        axes.errorbar(
            ratio["median"],
            place,
            xerr=[[ratio["median"] - ratio["low"]], [ratio["high"] - ratio["median"]]],
            fmt=marker,
            color=shown,
            markerfacecolor=shown if best else "white",
            markersize=6 if best else 5,
            capsize=2.5,
            linewidth=1.4,
            zorder=3 if best else 2,
        )


def _draw_mean(axes: Any, mean: Mapping[str, float] | None) -> None:
    if mean is None:
        return
    text = f"geometric mean over the best peer: {mean['median']:.3f}"
    axes.axvline(mean["median"], color="#009e73", linestyle="--", linewidth=1.4, label=text)


def _best_speed_up(row: Mapping[str, Any]) -> float:
    ratios: Mapping[str, Any] = row["speed_up"]
    return float(ratios[row["best_peer"]]["median"]) if ratios else 0.0


def _peers(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    found = {name: None for row in rows for name in row["speed_up"]}
    return sorted(found, key=lambda name: (name not in STYLES, name))


def _label(row: Mapping[str, Any]) -> str:
    marks = (" (void)" if row["void"] else "") + (
        "" if row["accuracy"]["agrees"] else " (wrong output)"
    )
    return str(row["name"]) + marks


def _limits(rows: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """A range that shows every interval and the 1."""
    ratios = [ratio for row in rows for ratio in row["speed_up"].values()]
    low = min([1.0, *(ratio["low"] for ratio in ratios)])
    high = max([1.0, *(ratio["high"] for ratio in ratios)])
    return low / math.sqrt(1.1), high * math.sqrt(1.1)


def _title(document: Mapping[str, Any]) -> str:
    machine, threads = document["machine"], document["settings"]["threads"]
    versions = document["versions"]
    peers = ", ".join(f"{name} {versions[name]}" for name in STYLES if name in versions)
    lines = [
        f"Speed-up, fp32, {threads} thread(s) of {machine['cpu']}, {document['date'][:10]}",
        f"{peers}; medians of paired rounds, 95 % intervals",
        "filled: the best peer of a network",
    ]
    failed = document["result"]["failed"]
    return "\n".join([*lines, *([f"failed: {', '.join(failed)}"] if failed else [])])


if __name__ == "__main__":
    sys.exit(main())
