"""Result files, and the table and the picture made from them."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest
from rounds_and_results import entry

from ansor_lite.errors import InputError
from benchmarks import (
    comparing,
    markdown,
    plot,
)
from benchmarks.common import kept_rows, write_result


def test_results_refuse_what_json_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_result("x", {}, {"seconds": float("nan")}, tmp_path / "x.json")


def test_rows_are_kept_of_the_same_machine_and_threads_and_of_a_result_only(tmp_path: Path) -> None:
    rows = [{"name": "old"}, {"name": "again"}]
    path = write_result("x", {"threads": 2}, {"rows": rows}, tmp_path / "x.json")
    told = Namespace(append=True, output=path, threads=2)
    assert kept_rows(told, "rows", {"again"}) == rows[:1]
    with pytest.raises(InputError, match="number of threads"):
        kept_rows(Namespace(append=True, output=path, threads=1), "rows", ())
    path.write_text("[]")
    with pytest.raises(InputError, match=r"x\.json is no result of rows"):
        kept_rows(told, "rows", ())
    assert kept_rows(Namespace(append=False, output=path, threads=2), "rows", ()) == []


def test_the_picture_is_drawn_from_the_result(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rows = [entry("fast", ours=1.0, onnxruntime=2.0, openvino=3.0), entry("alone", ours=1.0)]
    failed = {"name": "failed", "failure": "operator Foo is unknown"}
    result = comparing.summary([*rows, failed]) | {"networks": [*rows, failed]}
    path = write_result("networks", {"threads": 2}, result, tmp_path / "networks.json")
    picture = tmp_path / "networks.png"
    assert plot.main([str(path), str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size < 200_000


def test_a_picture_needs_a_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plot.main([str(tmp_path / "none.json"), str(tmp_path / "none.png")]) == 2
    assert "no result of networks" in capsys.readouterr().err


def test_the_table_shows_every_network_memory_and_failures_with_their_reasons(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fast = entry("fast", ours=0.010, onnxruntime=0.020, openvino=0.030) | {"batch": 1}
    fast["run_peak_bytes"] = {comparing.OURS: 5e6, "onnxruntime": 9e6, "openvino": 7e6}
    fast["building"] = {"compile_peak_bytes": 44e6, "default_lowered": {"sort": "no rule fits"}}
    batch = entry("batch", ours=1.0, onnxruntime=3.0) | {"batch": 16}
    failed = {"name": "failed", "failure": "operator Foo is unknown"}
    result = {"networks": [failed, batch, fast]}
    path = write_result("networks", {}, result, tmp_path / "networks.json")
    page = tmp_path / "README.md"
    page.write_text(f"before\n{markdown.BEGIN.format('networks')}\nold\n{markdown.END}\nafter\n")
    assert markdown.main([str(path), "--into", str(page)]) == 0
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({row.count("|") for row in rows}) == 1
    assert "| fast | 10 | 20 | 30 | 2.00 [2.00, 2.00] |" in text and "| 5 / 7 | 44 |" in text
    assert "| failed | failed: operator Foo is unknown |" in text
    assert "of 1, batch 1 |  |  |  | 2.00" in text and "of 1, batch 16 |  |  |  | 3.00" in text
    assert "| geometric mean of 2 |  |  |  | 2.45" in text
    assert "- fast: sort is unscheduled, no rule fits" in text
    page.write_text("no marks")
    assert markdown.main([str(path), "--into", str(page)]) == 2
    assert "has no place for the table" in capsys.readouterr().err
