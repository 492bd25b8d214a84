"""The benchmarks work on a tiny network; what they measure is nobody's business here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from small_models import small_cnn

from ansor_lite.errors import InputError
from ansor_lite.events import TaskStarted, TrialMeasured, TuningFinished
from ansor_lite.frontend.network import TensorInfo
from benchmarks import candidates, networks, programs, replay, trials, unlisted_programs
from benchmarks.common import resolve_model, write_result
from benchmarks.paired import Ratio, geometric_mean_ratio, is_void, paired_ratio
from benchmarks.runtimes import Runtime, RuntimeFailure, read_arrays, write_arrays


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "small.onnx"
    onnx.save(small_cnn(), path)
    return path


def result_of(path: Path) -> dict[str, Any]:
    document = json.loads(path.read_text())
    assert {"benchmark", "date", "commit", "machine", "versions", "settings"} <= set(document)
    assert str(path.parent) not in path.read_text()
    found: dict[str, Any] = document["result"]
    return found


# ------------------------------------------------------------------ statistics


def test_paired_ratios_do_not_see_a_drift_that_hits_both_sides() -> None:
    drift = np.linspace(1.0, 5.0, 31)
    noise = np.random.default_rng(0).normal(1.0, 0.01, 31)
    ratio = paired_ratio(list(0.8 * drift * noise), list(drift))
    assert ratio.median == pytest.approx(0.8, rel=0.01)
    assert ratio.minimum <= ratio.low <= ratio.median <= ratio.high <= ratio.maximum
    assert ratio.high - ratio.low < 0.02


def test_the_interval_widens_with_the_spread() -> None:
    rng = np.random.default_rng(0)
    quiet, loud = (list(rng.lognormal(0, s, 50)) for s in (0.01, 0.3))
    widths = [r.high - r.low for r in (paired_ratio(x, [1.0] * 50) for x in (quiet, loud))]
    assert widths[1] > 5 * widths[0]


def test_geometric_mean_of_opposite_ratios_is_one() -> None:
    total = geometric_mean_ratio([([0.5] * 5, [1.0] * 5), ([2.0] * 5, [1.0] * 5)])
    assert total.median == pytest.approx(1.0)
    assert (total.minimum, total.maximum) == pytest.approx((0.5, 2.0))


def test_rounds_must_pair() -> None:
    with pytest.raises(ValueError, match="2 and 1 rounds do not pair"):
        paired_ratio([1.0, 2.0], [1.0])


@pytest.mark.parametrize(("median", "void"), [(0.96, True), (0.98, False), (1.04, True)])
def test_a_control_out_of_range_voids_the_run(median: float, void: bool) -> None:
    assert is_void(Ratio(median, median, median, median, median)) is void


# ------------------------------------------------------------------ shared parts


def test_arrays_survive_a_file_whatever_their_names(tmp_path: Path) -> None:
    arrays: dict[str, NDArray[Any]] = {
        "file": np.arange(3),
        "a/b.c": np.ones((2, 2), np.float32),
        "names": np.zeros(0),
    }
    write_arrays(tmp_path / "a.npz", arrays)
    found = read_arrays(tmp_path / "a.npz")
    assert list(found) == list(arrays)
    assert all(np.array_equal(found[k], v) and found[k].dtype == v.dtype for k, v in arrays.items())


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


def test_results_refuse_what_json_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_result("x", {}, {"seconds": float("nan")}, tmp_path / "x.json")


# ------------------------------------------------------------------ runtimes in children


def test_a_runtime_computes_and_counts_its_runs(model: Path, tmp_path: Path) -> None:
    info = onnx.load(model).graph.input[0]
    shape = tuple(d.dim_value for d in info.type.tensor_type.shape.dim)
    inputs = tmp_path / "inputs.npz"
    write_arrays(inputs, networks.random_inputs([TensorInfo(info.name, shape, "float32")], 0))
    with (
        Runtime("onnxruntime", model, inputs, 1) as one,
        Runtime("onnxruntime", model, inputs, 1) as two,
    ):
        assert len(one.seconds(5)) == 5
        found = networks.compare(one, two, tmp_path)
        timing = networks.measure({"ansor-lite": one, "peer": two, "control": two}, 3, 0.0, 1)[0]
    assert found["agrees"] and found["relative_deviation"] == 0.0
    assert {len(medians) for medians in timing.rounds.values()} == {3}


def test_a_runtime_that_fails_to_start_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "no.onnx").touch()
    write_arrays(tmp_path / "inputs.npz", {})
    with pytest.raises(RuntimeFailure, match="onnxruntime ended unexpectedly"):
        Runtime("onnxruntime", tmp_path / "no.onnx", tmp_path / "inputs.npz", 1)


# ------------------------------------------------------------------ whole commands, tiny


def test_counting_keeps_trials_slow_ones_and_failures_apart() -> None:
    counting = trials.Counting()
    counting(TaskStarted("task", 0))
    for seconds, status in ((2.0, "ok"), (1.0, "ok"), (9.0, "slow"), (None, "crash")):
        counting(TrialMeasured("task", 0, seconds, status, ""))
    counting(TuningFinished("trials", 2, 1, 10.0, 0.125, None, None))
    assert (counting.trials, counting.slow, counting.failures) == (2, 1, 1)
    assert (counting.best, counting.search_share) == (1.0, 0.125)
    assert counting.seconds > 0


def test_candidates_command(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out" / "candidates.json"
    options = ["--tasks", "1", "--observed", "4", "--rounds", "1", "--trees", "3", "--profile"]
    assert candidates.main(["--model", str(model), "--output", str(output), *options]) == 0
    found = result_of(output)
    assert found["candidates"] > 0 and found["candidates_per_second"] > 0
    assert all(0.0 <= each["own_share"] <= 1.0 for each in found["profile"])


@pytest.mark.parametrize("name", list(programs.DENSE))
def test_unlisted_programs_become_tasks_with_tiled_parallel_vector_sketches(name: str) -> None:
    from ansor_lite.target import native

    task = programs.DENSE[name]()
    shape = unlisted_programs.structure(task, native(2).hardware())
    assert task.flop > 1e7
    assert 0 < shape.sketches == shape.tiled == shape.vectorised == shape.parallel


@pytest.mark.slow
def test_networks_command_tunes_checks_and_times(model: Path, tmp_path: Path) -> None:
    output, log = tmp_path / "out" / "networks.json", tmp_path / "logs"
    options = ["--models", str(model), "--log", str(log), "--output", str(output)]
    timing = ["--threads", "1", "--rounds", "2", "--turn", "0.01"]
    assert networks.main([*options, *timing, "--seconds", "15"]) == 0
    [found] = result_of(output)["networks"]
    assert found["accuracy"]["agrees"] and found["tuning"]["records"] > 0
    assert set(found["runs"]) == {"ansor-lite", "onnxruntime", "control"}
    assert networks.main([*options, *timing, "--no-tune"]) == 0


@pytest.mark.slow
def test_trials_command(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out" / "trials.json"
    options = ["--tasks", "1", "--trials", "3", "--threads", "1"]
    assert trials.main(["--model", str(model), "--output", str(output), *options]) == 0
    [task] = result_of(output)["tasks"]
    assert task["trials"] + task["slow"] == 3


@pytest.mark.slow
def test_unlisted_programs_command(tmp_path: Path) -> None:
    output = tmp_path / "out" / "unlisted.json"
    options = ["--programs", "einsum", "--trials", "2", "--threads", "1"]
    assert unlisted_programs.main(["--output", str(output), *options]) == 0
    found = result_of(output)
    assert found["all_right"]


@pytest.mark.slow
def test_replay_command(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out" / "replay.json"
    options = ["--seconds", "15", "--threads", "1"]
    assert replay.main(["--model", str(model), "--output", str(output), *options]) == 0
    assert all(result_of(output)["checks"].values())
