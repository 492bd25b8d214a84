"""The benchmarks work on a tiny network; what they measure is nobody's business here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from small_models import small_cnn

from ansor_lite.errors import AnsorLiteError, InputError
from ansor_lite.events import TaskStarted, TrialMeasured, TuningFinished
from ansor_lite.frontend.network import TensorInfo
from benchmarks import (
    building,
    candidates,
    comparing,
    markdown,
    networks,
    plot,
    programs,
    replay,
    scaling,
    trials,
    unlisted_programs,
)
from benchmarks.common import resolve_model, write_result
from benchmarks.comparing import Comparison
from benchmarks.paired import Ratio, geometric_mean_ratio, is_void, paired_ratio
from benchmarks.runtimes import FMA_PEAK, Runtime, RuntimeFailure, read_arrays, write_arrays
from benchmarks.turns import Series, take_turns


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
    ratio = paired_ratio(list(1.25 * drift * noise), list(drift))
    assert ratio.median == pytest.approx(1.25, rel=0.01)
    assert ratio.minimum <= ratio.low <= ratio.median <= ratio.high <= ratio.maximum
    assert ratio.high - ratio.low < 0.03


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


# ------------------------------------------------------------------ comparisons, made up


class Fake:
    """Takes ``latency`` seconds a run, and fails in turn number ``fails``."""

    def __init__(self, latency: float, fails: int | None = None) -> None:
        self.latency, self.fails, self.turns = latency, fails, 0
        self.runs = 0

    def seconds(self, runs: int, warmups: int) -> list[float]:
        self.turns += 1
        self.runs += runs + warmups
        if self.turns == self.fails:
            raise RuntimeFailure("it fell over")
        return [self.latency] * runs


def field(**latencies: float) -> dict[str, Fake]:
    """Ours, the peers with a control of each, and a peak of one GFLOP in a millisecond."""
    fakes = {comparing.OURS: Fake(latencies.pop("ours"))}
    for peer, latency in latencies.items():
        fakes[peer], fakes[comparing.control_of(peer)] = Fake(latency), Fake(latency)
    return fakes | {FMA_PEAK: Fake(0.001)}


def comparison(fakes: dict[str, Fake], refused: dict[str, str] | None = None) -> Comparison:
    peers = {comparing.peer_of(name) for name in fakes} - {comparing.OURS, FMA_PEAK}
    refused = {} if refused is None else refused
    series = comparing.time_in_turns(fakes, refused, 4, 0.2, peers)
    return Comparison(series, gflop=8.0, peak_gflop=1.0)


def test_the_faster_peer_is_the_one_that_counts() -> None:
    found = comparison(field(ours=0.010, slow=0.030, fast=0.012))
    assert (found.best_peer, found.void) == ("fast", False)
    assert found.speed_up("fast").median == pytest.approx(1.2)
    assert found.share_of_peak("ansor-lite") == pytest.approx(0.8)
    assert set(found.to_json()["share_of_peak"]) == {"ansor-lite", "slow", "fast"}


def test_only_the_control_of_the_best_peer_voids_a_run() -> None:
    fakes = field(ours=0.010, slow=0.030, fast=0.012)
    fakes[comparing.control_of("slow")] = Fake(0.033)
    assert not comparison(fakes).void
    fakes[comparing.control_of("fast")] = Fake(0.013)
    assert comparison(fakes).void


def test_a_peer_that_fails_in_its_turn_is_no_peer_and_the_others_go_on() -> None:
    fakes, refused = field(ours=0.010, good=0.030, bad=0.001), dict[str, str]()
    fakes["bad"] = Fake(0.001, fails=4)
    found = comparison(fakes, refused)
    assert refused == {"bad": "it fell over"}
    assert found.peers == ["good"] and len(found.series.rounds["good"]) == 4


def test_without_a_peer_nothing_is_claimed() -> None:
    found = comparison(field(ours=0.010))
    assert found.best_peer is None and found.void and not found.to_json()["speed_up"]


def test_a_failure_of_ours_is_not_the_peers_fault() -> None:
    fakes = field(ours=0.010, peer=0.030)
    fakes[comparing.OURS] = Fake(0.010, fails=2)
    with pytest.raises(RuntimeFailure, match="it fell over"):
        comparison(fakes)


@pytest.mark.parametrize(("latency", "runs"), [(0.05, 4 + 2), (0.3, 1)])
def test_turns_adapt_to_the_length_of_a_run(latency: float, runs: int) -> None:
    fake = Fake(latency)
    take_turns({"one": fake}, 0, {"one": 0.2})
    before = fake.runs
    take_turns({"one": fake}, 10, {"one": 0.2})
    assert fake.runs - before == before + 10 * runs


def test_outputs_must_agree_with_something_that_tells() -> None:
    x = np.linspace(-1.0, 1.0, 5, dtype=np.float32)
    assert comparing.compare({"y": x * 1.0005}, {"y": x}, comparing.tolerance(False))["agrees"]
    assert not comparing.compare({"y": x * 1.0005}, {"y": x}, comparing.tolerance(True))["agrees"]
    constant = np.full(5, 3.0)
    assert not comparing.compare({"y": constant}, {"y": constant}, 1e-3)["agrees"]
    missing = comparing.compare({"y": x * np.nan}, {"y": x}, 1e-3)
    assert not missing["agrees"] and missing["relative_deviation"] is None
    with pytest.raises(AnsorLiteError, match="no output 'y'"):
        comparing.compare({"z": x}, {"y": x}, 1e-3)


def entry(name: str, **latencies: float) -> dict[str, Any]:
    """A row of the result file."""
    accuracy = {"agrees": True, "relative_deviation": 1e-6}
    return {"name": name, "accuracy": accuracy} | comparison(field(**latencies)).to_json()


def test_the_summary_counts_neither_failures_nor_void_nor_wrong_networks() -> None:
    void = entry("void", ours=1.0, peer=1.0) | {"void": True}
    wrong = entry("wrong", ours=1.0, peer=9.0)
    wrong["accuracy"] = {"agrees": False, "relative_deviation": 0.5}
    failed = {"name": "failed", "failure": "operator Foo is unknown"}
    good = [entry("fast", ours=1.0, peer=2.0), entry("slow", ours=2.0, peer=1.0)]
    found = comparing.summary([*good, void, wrong, failed])
    assert found["counted"] == 2
    assert found["geometric_mean"]["median"] == pytest.approx(1.0)
    assert found["surely_slower"] == ["slow"]
    assert (found["void"], found["wrong"]) == (["void"], ["wrong"])
    assert found["failed"] == {"failed": "operator Foo is unknown"}


# ------------------------------------------------------------------ runtimes in children


@pytest.fixture
def inputs(model: Path, tmp_path: Path) -> Path:
    info = onnx.load(model).graph.input[0]
    shape = tuple(d.dim_value for d in info.type.tensor_type.shape.dim)
    path = tmp_path / "inputs.npz"
    write_arrays(path, networks.random_inputs([TensorInfo(info.name, shape, "float32")], 0))
    return path


def test_a_runtime_computes_counts_its_runs_and_says_what_it_is(
    model: Path, inputs: Path, tmp_path: Path
) -> None:
    with Runtime("onnxruntime", model, inputs, 1) as one:
        assert len(one.seconds(5, 1)) == 5
        assert one.facts["version"] and one.peak_bytes()
        expected = one.outputs(tmp_path / "out.npz")
    assert comparing.compare(expected, expected, 0.0)["agrees"]


def test_openvino_agrees_with_onnxruntime(model: Path, inputs: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    outputs = []
    for kind in ("onnxruntime", "openvino"):
        with Runtime(kind, model, inputs, 1) as runtime:
            outputs.append(runtime.outputs(tmp_path / "out.npz"))
    assert comparing.compare(outputs[1], outputs[0], 1e-5)["agrees"]


def test_a_runtime_that_fails_to_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "no.onnx").touch()
    write_arrays(tmp_path / "inputs.npz", {})
    with pytest.raises(RuntimeFailure, match=r"onnxruntime: .*no\.onnx"):
        Runtime("onnxruntime", tmp_path / "no.onnx", tmp_path / "inputs.npz", 1)
    with pytest.raises(RuntimeFailure, match="does not start"):
        Runtime("onnxruntime", tmp_path, tmp_path, 1, python=str(tmp_path / "python"))


def test_a_child_imports_nothing_of_ours_but_the_errors() -> None:
    program = "import sys, benchmarks.runtimes; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    ours = {m for m in done.stdout.split() if m.startswith(("ansor_lite.", "tvm", "onnx"))}
    assert ours == {"ansor_lite.errors"}


def test_a_command_that_fails_says_why() -> None:
    with pytest.raises(building.CommandFailure, match=r"no such file: nothing.* \(exit code 2\)"):
        building.run_measured("ansor-lite", "compile", "nothing")


# ------------------------------------------------------------------ threads, picture


def test_a_thread_count_is_compared_with_the_first() -> None:
    rounds = {"ansor-lite x1": [4.0, 6.0], "ansor-lite x2": [2.0, 3.0]}
    found = scaling.speed_ups(Series(rounds, rounds), ["ansor-lite"], [1, 2])
    assert found["ansor-lite"]["2"]["median"] == pytest.approx(2.0)


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


def test_runs_without_rounding_algorithms_have_a_file_of_their_own() -> None:
    names = {networks.default_output(f, e) for f in networks.FAMILIES for e in (True, False)}
    assert len(names) == 4


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
    options = ["--log", str(log), "--output", str(output), "--peers", "onnxruntime", "torch"]
    timing = ["--threads", "1", "--rounds", "2", "--turn", "0.01"]
    assert networks.main(["--models", str(model), *options, *timing, "--seconds", "15"]) == 0
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
    options = ["--seconds", "30", "--threads", "1"]
    assert replay.main(["--model", str(model), "--output", str(output), *options]) == 0
    assert all(result_of(output)["checks"].values())
