"""The live table: one row per task, redrawn in place while tuning works."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ansor_lite.events import Event
from ansor_lite.report.progress import Progress, TaskRow, advance
from ansor_lite.report.text import (
    BEYOND_PEAK,
    count_text,
    duration_text,
    peak_text,
    rate_text,
    seconds_text,
)

# Lines of the screen that are not rows of the table.
FRAME_LINES = 9
REDRAWS_PER_SECOND = 2.0


class LiveReport:
    """Shows events as a table on a terminal; use as a context manager, call with each event.

    ``peak_gflops`` may be set once it is known; without it there are no shares.
    """

    def __init__(self, console: Console, peak_gflops: float | None = None) -> None:
        self.progress = Progress()
        self._console = console
        self.peak_gflops = peak_gflops
        self._heard = time.monotonic()
        self._live = Live(
            console=console,
            get_renderable=self._render,
            refresh_per_second=REDRAWS_PER_SECOND,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __enter__(self) -> LiveReport:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()

    def __call__(self, event: Event) -> None:
        self.progress = advance(self.progress, event)
        self._heard = time.monotonic()

    def _render(self) -> RenderableType:
        rows = max(3, self._console.height - FRAME_LINES)
        since = time.monotonic() - self._heard
        return tuning_table(self.progress, self.peak_gflops, rows, since)


def tuning_table(
    progress: Progress, peak_gflops: float | None, most_rows: int, since: float = 0.0
) -> RenderableType:
    """The table and the lines below it. ``since``: seconds since the last event."""
    if not progress.rows:
        return Text("reading the model ...")
    table = Table(box=None, pad_edge=False, header_style="bold", expand=False)
    table.add_column("task", overflow="ellipsis", no_wrap=True, ratio=1)
    for title in ("uses", "trials", "failed", "best", "GFLOP/s", "of peak"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    shown = sorted(progress.rows, key=_by_importance)[:most_rows]
    for row in shown:
        table.add_row(*_cells(row, peak_gflops))
    hidden = len(progress.rows) - len(shown)
    more = [Text(f"... and {count_text(hidden, 'more task')}", style="dim")] if hidden else []
    if any(peak_gflops and row.gflops > peak_gflops for row in shown):
        more.append(Text(BEYOND_PEAK, style="dim"))
    return Group(table, *more, *map(Text, summary_lines(progress, since)))


def _by_importance(row: TaskRow) -> tuple[float, float]:
    """Slowest in the network first; those not yet measured by their work."""
    return (-row.total_seconds, -row.weight * row.flop)


def _cells(row: TaskRow, peak_gflops: float | None) -> tuple[str, ...]:
    return (
        row.name,
        str(row.weight),
        str(row.trials),
        str(row.failures or ""),
        seconds_text(row.best),
        rate_text(row.gflops),
        peak_text(row.gflops, peak_gflops),
        row.state,
    )


def summary_lines(progress: Progress, since: float = 0.0) -> list[str]:
    """What stands below the table: counts and time, the network, the first failure, warnings."""
    counts = count_text(progress.trials, "trial")
    if progress.resumed:
        counts += f" ({progress.resumed} from the log)"
    counts += f", {count_text(progress.failures, 'failure')}"
    spent = progress.spent if progress.reason else progress.spent + since
    clock = f"{duration_text(spent)} spent"
    if progress.left is not None and not progress.reason:
        clock += f", {duration_text(progress.left - since)} left"
    lines = [f"{counts}; {clock}"]
    if progress.latency is not None:
        lines.append(latency_line(progress))
    if progress.first_failure:
        lines.append(f"first failure: {progress.first_failure}")
    return lines + [f"warning: {text}" for text in progress.warnings]


def latency_line(progress: Progress) -> str:
    """The estimate for the whole network, before and after."""
    before, now = seconds_text(progress.latency_before), seconds_text(progress.latency)
    gain = "" if progress.speedup is None else f" ({progress.speedup:.2f}x)"
    return f"estimated latency: {before} before, {now} now{gain}"
