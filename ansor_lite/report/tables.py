"""Tables of results: the tasks of a network, a profile, the best of a log."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from ansor_lite.report.text import bytes_text, peak_text, rate_text, seconds_text, share_text

if TYPE_CHECKING:
    from ansor_lite.graph.plan import Graph
    from ansor_lite.measure.peak import Peak
    from ansor_lite.records import BestRow
    from ansor_lite.runtime import KernelTime, Latency, Overhead

# Without a terminal nothing is shortened or wrapped.
UNLIMITED_WIDTH = 10_000


def stdout_console() -> Console:
    """Standard output as wide as its terminal, or as wide as needed without one."""
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = UNLIMITED_WIDTH
    return console


def show(console: Console, titles: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table; the first column is text, the others align right."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, title in enumerate(titles):
        table.add_column(title, justify="right" if index else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(table)


TASK_TITLES = ("task", "uses", "GFLOP", "bytes", "FLOP/byte", "schedule")


def task_rows(graph: Graph) -> list[tuple[str, ...]]:
    """Every subgraph of a network: searched, scheduled by rule, or left to TVM with the reason.

    Chains come last: they run instead of the subgraphs that they are made of where they are faster.
    """
    schedules = {t.key: "search" for t in graph.tunable} | {
        t.key: f"search, against {len(t.parts)} of the above" for t in graph.chain_tasks
    }
    rows: list[tuple[str, ...]] = [
        (
            task.name,
            str(task.weight),
            f"{task.flop / 1e9:.4f}",
            bytes_text(task.bytes),
            f"{task.flop / task.bytes:.1f}",
            schedules.get(task.key, "by rule"),
        )
        for task in (*graph.tasks, *graph.chain_tasks)
    ]
    for opaque in graph.opaque:
        rows.append((opaque.name, str(opaque.weight), "-", "-", "-", f"default: {opaque.reason}"))
    return rows


LATENCY_PERCENTILES = (10, 50, 90, 99)


def latency_text(latency: Latency) -> str:
    """One line: the least, percentiles and mean of repeated runs."""
    parts = [f"min {seconds_text(latency.minimum)}"]
    parts += [f"p{q} {seconds_text(latency.percentile(q))}" for q in LATENCY_PERCENTILES]
    parts.append(f"mean {seconds_text(latency.mean)}")
    return f"{', '.join(parts)} ({len(latency.seconds)} runs)"


PROFILE_TITLES = ("kernel", "calls", "time", "share", "GFLOP/s", "of peak", "GB/s", "schedule")


def profile_rows(times: Sequence[KernelTime], peak: Peak | None) -> list[tuple[str, ...]]:
    """Every kernel with the time of all its calls, slowest first. ``GB/s``: least bytes moved.

    ``*`` marks more than the peak: operations are counted as those of the direct algorithm.
    """
    total = sum(t.seconds for t in times)
    gflops_peak = peak.gflops if peak else None
    return [
        (
            t.kernel.name,
            str(t.calls),
            seconds_text(t.seconds),
            share_text(t.seconds, total),
            rate_text(t.gflops),
            peak_text(t.gflops, gflops_peak),
            rate_text(t.kernel.bytes * t.calls / t.seconds / 1e9 if t.seconds else 0.0),
            _origin(t),
        )
        for t in times
    ]


def overhead_text(found: Overhead) -> str:
    """One line below the profile; a negative share is noise around nothing."""
    return f"outside kernels: {found.share:.1%} of a run of {seconds_text(found.run)}"


def _origin(time: KernelTime) -> str:
    if time.kernel.reason:
        return f"default: {time.kernel.reason}"
    return "tuned" if time.kernel.tuned else "by rule"


BEST_TITLES = ("task", "target", "threads", "best", "trials", "failed")


def best_cells(row: BestRow) -> tuple[str, ...]:
    """A row of the bests of a log."""
    counts = (str(row.trials), str(row.failures))
    return (row.name, row.target, str(row.threads), seconds_text(row.seconds), *counts)
