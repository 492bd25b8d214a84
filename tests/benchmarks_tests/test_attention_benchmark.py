"""The benchmark of attention: useful operations, peers that compute the same, and the command."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ansor_lite import workloads
from benchmarks import attention
from benchmarks.attention import Measured, workspace_bytes
from benchmarks.attention_table import ATTENTIONS, Attention, save_gathered, window_table
from benchmarks.comparing import OURS, control_of
from benchmarks.runtimes import FMA_PEAK, Runtime, write_arrays
from benchmarks.turns import Series
from schedules.evaluate import evaluate

SMALL = Attention(
    "small", {"heads": 2, "queries": (7, 9), "depth": 4, "window": 3, "dilation": (1, 2)}
)


def test_every_row_is_a_task_and_names_are_distinct() -> None:
    assert len({row.name for row in ATTENTIONS}) == len(ATTENTIONS)
    for row in ATTENTIONS:
        assert 0.5 * row.task().flop / (1 + row.arguments.get("causal", 0)) < row.useful_flop
        assert row.useful_flop <= row.task().flop


def test_causal_counts_what_is_seen() -> None:
    causal = Attention("", {"heads": 1, "queries": 4, "depth": 8, "causal": True})
    assert causal.pairs == 4 + 3 + 2 + 1
    assert dataclasses.replace(causal, arguments={**causal.arguments, "keys": 6}).pairs == 18


def test_windows_of_the_gathered_form_keep_their_size_and_phase() -> None:
    table = window_table(11, 3, 2)
    assert (np.diff(table, axis=1) == 2).all()
    assert (table[:, 0] % 2 == np.arange(11) % 2).all()
    assert table.min() == 0 and table.max() == 10


def test_the_gathered_form_computes_what_we_do(tmp_path: Path) -> None:
    arrays = SMALL.arrays(seed=0)
    save_gathered(SMALL, tmp_path / "gathered.onnx")
    write_arrays(tmp_path / "qkv.npz", arrays)
    with Runtime("onnxruntime", tmp_path / "gathered.onnx", tmp_path / "qkv.npz", 1) as runtime:
        found = runtime.outputs(tmp_path / "out.npz")["y"]
    (expected,) = evaluate(SMALL.task().dag, arrays).values()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_workspaces_of_windows_grow_with_the_tokens() -> None:
    """Without steps every stage has its tensor, but none has all pairs of tokens."""

    def kept(tokens: int, **options: Any) -> int:
        return workspace_bytes(workloads.attention(1, tokens, depth=8, **options), (), 2)

    assert kept(800, window=7) == pytest.approx(2 * kept(400, window=7), rel=0.05)
    assert kept(800) > 3.5 * kept(400)


def test_shares_are_of_limits_of_the_same_round() -> None:
    rounds = {OURS: [1.0, 2.0], FMA_PEAK: [1.0, 2.0], "copy": [0.5, 1.0]}
    rounds |= {"torch": [3.0, 6.0], control_of("torch"): [3.0, 6.0]}
    series = Series(rounds, rounds)
    found = Measured(series, 30.0, 8.0, 60.0, {"copy": 5.0}).to_json()
    assert found["share_of_peak"] == pytest.approx(0.5)
    assert found["share_of_bandwidth"] == pytest.approx(0.8)
    assert found["speed_up"]["torch"]["median"] == pytest.approx(3.0)
    assert found["void_peers"] == []


def test_a_row_that_memory_limits_is_compared_with_a_read_in_the_same_state_of_the_caches() -> None:
    rounds = {OURS: [1.0], "read": [0.5], "operator-from-memory": [4.0], "read-from-memory": [3.0]}
    series = Series(rounds | {FMA_PEAK: [1.0]}, rounds)
    limits = {"read": 5.0, "read-from-memory": 5.0}
    found = Measured(series, 30.0, 8.0, 60.0, limits).to_json()
    assert found["share_of_bandwidth"] == pytest.approx(0.8)
    assert found["share_of_bandwidth_from_memory"] == pytest.approx(1.2)
    assert found["read_gbs"] > found["read-from-memory_gbs"] and "copy_gbs" not in found


@pytest.mark.parametrize("kind", ["read", "read-from-memory"])
def test_a_read_says_how_many_bytes_it_reads(kind: str, tmp_path: Path) -> None:
    write_arrays(tmp_path / "none.npz", {})
    with Runtime(kind, Path("100000"), tmp_path / "none.npz", 1) as runtime:
        assert len(runtime.seconds(2, 1)) == 2
        assert 0.9e5 < runtime.facts["bytes"] <= 1e5


def test_refuses_because_no_row_has_that_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert attention.main(["--rows", "nothing"]) == 2
    assert "no row is called nothing" in capsys.readouterr().err


@pytest.mark.slow
def test_attention_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "ATTENTIONS", (SMALL,))
    output = tmp_path / "out" / "attention.json"
    options = ["--rounds", "2", "--log", str(tmp_path / "logs"), "--output", str(output)]
    nowhere = ["--torch-python", str(tmp_path / "python")]
    assert attention.main([*options, *nowhere, "--seconds", "8"]) == 0
    [row] = json.loads(output.read_text())["result"]["rows"]
    assert row["accuracy"]["beside"] == "onnxruntime" and row["accuracy"]["agrees"]
    assert set(row["speed_up"]) == {"onnxruntime"} and "does not start" in row["no_peer"]["torch"]
    assert attention.main([*options, *nowhere, "--no-tune", "--append"]) == 0
