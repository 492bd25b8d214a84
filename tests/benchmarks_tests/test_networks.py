"""Whole networks on a tiny one; what they measure is nobody's business here."""

from __future__ import annotations

from pathlib import Path

import pytest
from rounds_and_results import result_of

from ansor_lite.errors import InputError
from ansor_lite.frontend.network import TensorInfo
from benchmarks import (
    building,
    networks,
    replay,
    scaling,
)
from benchmarks.common import resolve_model
from benchmarks.turns import Series


def test_random_inputs_suit_their_names_and_types() -> None:
    shape = (4, 64)
    tensors = [
        TensorInfo("image", shape, "float32"),
        TensorInfo("input_ids", shape, "int64"),
        TensorInfo("attention_mask", shape, "int64"),
        TensorInfo("token_type_ids", shape, "int64"),
    ]
    found = networks.random_inputs(tensors, seed=0)
    assert found["image"].std() == pytest.approx(1.0, abs=0.2)
    assert found["input_ids"].max() > 1
    assert set(found["token_type_ids"].flat) == {0, 1}
    assert (found["attention_mask"] == 1).all()


def test_unknown_models_are_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="no such model: nothing"):
        resolve_model("nothing", tmp_path)
    assert networks.main(["--models", "nothing", "--model-dir", str(tmp_path)]) == 2
    assert "no such model" in capsys.readouterr().err


def test_a_log_is_not_tuned_over_by_accident(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "small.tune.jsonl").touch()
    assert networks.main(["--models", str(model), "--log", str(tmp_path)]) == 2
    assert "exists already" in capsys.readouterr().err


def test_a_command_that_fails_says_why() -> None:
    with pytest.raises(building.CommandFailure, match=r"no such file: nothing.* \(exit code 2\)"):
        building.run_measured("ansor-lite", "compile", "nothing")


def test_runs_without_rounding_algorithms_have_a_file_of_their_own() -> None:
    names = {networks.default_output(f, e) for f in networks.FAMILIES for e in (True, False)}
    assert len(names) == 4


def test_a_thread_count_is_compared_with_the_first() -> None:
    rounds = {"ansor-lite x1": [4.0, 6.0], "ansor-lite x2": [2.0, 3.0]}
    found = scaling.speed_ups(Series(rounds, rounds), ["ansor-lite"], [1, 2])
    assert found["ansor-lite"]["2"]["median"] == pytest.approx(2.0)


@pytest.mark.slow
def test_networks_command_tunes_checks_and_times(model: Path, tmp_path: Path) -> None:
    output, log = tmp_path / "out" / "networks.json", tmp_path / "logs"
    options = ["--log", str(log), "--output", str(output), "--peers", "onnxruntime", "torch"]
    timing = ["--threads", "1", "--rounds", "2", "--turn", "0.01"]
    assert networks.main(["--models", str(model), *options, *timing, "--seconds", "30"]) == 0
    [found] = result_of(output)["networks"]
    assert found["accuracy"]["agrees"] and found["building"]["records"] > 0
    assert set(found["runs"]) == {"ansor-lite", "onnxruntime", "onnxruntime control", "fma-peak"}
    assert list(found["no_peer"]) == ["torch"] and found["run_peak_bytes"]["ansor-lite"] > 0
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"this is no model")
    again = ["--models", str(broken), "--append", "--seconds", "5"]
    assert networks.main([*again, *options, *timing]) == 0
    kept, failed = result_of(output)["networks"]
    assert (kept["name"], failed["name"]) == ("small", "broken")
    assert "exit code 2" in failed["failure"]


@pytest.mark.slow
def test_scaling_command(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out" / "scaling.json"
    options = ["--model", str(model), "--log", str(tmp_path / "logs"), "--output", str(output)]
    timing = ["--rounds", "2", "--turn", "0.01", "--seconds", "8", "--peers", "onnxruntime"]
    assert scaling.main([*options, *timing]) == 0
    assert set(result_of(output)["speed_up"]) == {"ansor-lite", "onnxruntime"}


@pytest.mark.slow
def test_replay_command(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out" / "replay.json"
    options = ["--seconds", "30", "--threads", "1"]
    assert replay.main(["--model", str(model), "--output", str(output), *options]) == 0
    assert all(result_of(output)["checks"].values())
