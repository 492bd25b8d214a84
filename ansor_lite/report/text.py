"""Numbers as people read them: seconds, counts, shares. One place, so that all tables agree."""

from __future__ import annotations


def seconds_text(seconds: float | None) -> str:
    """``12.3 ms``; a dash when unknown."""
    if seconds is None:
        return "-"
    for limit, scale, unit in ((1e-3, 1e6, "us"), (1.0, 1e3, "ms"), (float("inf"), 1.0, "s")):
        if seconds < limit:
            return f"{_three_digits(seconds * scale)} {unit}"
    return "-"


def duration_text(seconds: float) -> str:
    """``3:05``: minutes and seconds."""
    whole = max(0, round(seconds))
    return f"{whole // 60}:{whole % 60:02d}"


def bytes_text(count: int) -> str:
    """``1.2 MB``, in powers of ten."""
    for limit, scale, unit in ((1e6, 1e3, "kB"), (1e9, 1e6, "MB"), (float("inf"), 1e9, "GB")):
        if count < limit:
            return f"{_three_digits(count / scale)} {unit}"
    return "-"


def rate_text(gflops: float) -> str:
    """GFLOP/s; a dash when nothing was computed."""
    return f"{gflops:.0f}" if gflops >= 9.95 else f"{gflops:.1f}" if gflops > 0 else "-"


def share_text(value: float, peak: float | None) -> str:
    """``value`` as a share of ``peak``; a dash when either is unknown."""
    return f"{value / peak:.0%}" if peak and value > 0 else "-"


# Where more than the peak is shown: algorithms such as Winograd's multiply less than is counted.
BEYOND_PEAK = (
    "* operations are counted as those of the direct algorithm, and the peak is measured once"
)


def peak_text(gflops: float, peak: float | None) -> str:
    """Share of the peak, with a mark (see :data:`BEYOND_PEAK`) when it is more than all of it."""
    return share_text(gflops, peak) + "*" * (peak is not None and gflops > peak)


def count_text(count: int, noun: str) -> str:
    """``1 task``, ``2 tasks``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _three_digits(value: float) -> str:
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:.0f}"
