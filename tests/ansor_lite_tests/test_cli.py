"""The command line: what it refuses and how, and one network from model to module and back."""

from __future__ import annotations

import json
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
import small_models
import typer
from onnx import TensorProto, helper

from ansor_lite.cli import BAD_INPUT, FAILED, INTERRUPTED, app, run, tuner
from ansor_lite.target import TARGETS, available_threads, cpu_features, native

ROOT = Path(__file__).parents[2]
TUNE = (
    f"import sys; sys.path[0] = {str(ROOT)!r}; "
    "from ansor_lite.cli import tune_model_main; tune_model_main()"
)
NEWER = b'{"v": 99, "task": "x"}\n'


def one_node(operator: str, shape: tuple[int | str, ...], domain: str = "") -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node(operator, ["x"], ["y"], name="the_node", domain=domain)],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    opsets = [helper.make_opsetid("", 17), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def record_for_another_machine() -> bytes:
    target = native().to_json() | {"mcpu": "elsewhere", "features": ["unheard_of"]}
    value = {
        "v": 1, "task": "k", "name": "n", "target": target, "threads": 2, "host": "h",
        "sketch": "s", "steps": [], "status": "ok", "seconds": [0.1], "message": "", "round": 0,
        "elapsed": 0.0, "versions": {},
    }  # fmt: skip
    return json.dumps(value).encode() + b"\n"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that can be wrong, and a good ``net.onnx``."""
    folder = tmp_path_factory.mktemp("cli")
    onnx.save(small_models.small_cnn(), folder / "net.onnx")
    onnx.save(one_node("Relu", ("batch", 8)), folder / "symbolic.onnx")
    onnx.save(one_node("Frobnicate", (1, 8), "example.org"), folder / "unknown.onnx")
    (folder / "text.onnx").write_text("not a model\n")
    (folder / "text.jsonl").write_text("not a log\n")
    (folder / "newer.jsonl").write_bytes(NEWER)
    (folder / "other.jsonl").write_bytes(record_for_another_machine())
    (folder / "empty.jsonl").touch()
    (folder / "text.npy").write_text("not an array\n")
    (folder / "folder").mkdir()
    return folder


def absent_target() -> str:
    """A target that this machine cannot run: there are rows of two architectures."""
    return next(name for name, sets in TARGETS.items() if not cpu_features().issuperset(sets))


TUNER_REFUSES = {
    "no such file": ("nothing.onnx", "no such file: nothing.onnx"),
    "not onnx": ("text.onnx", "text.onnx is not an ONNX model"),
    "a folder": ("folder", "cannot read folder"),
    "unknown operator": ("unknown.onnx", "example.org.Frobnicate' of node 'the_node'"),
    "symbolic shape": ("symbolic.onnx", "--shape x="),
    "malformed shape": ("net.onnx --shape x=1,a", "write it like name=1,3,224,224"),
    "zero extent": ("net.onnx --shape x=1,0", "write it like"),
    "shape twice": ("net.onnx --shape x=1 --shape x=2", "names 'x' twice"),
    "shape of nothing": ("net.onnx --shape z=1,2", "'z'"),
    "not a log": ("net.onnx --log text.jsonl", "text.jsonl, line 1: not JSON"),
    "newer log": ("net.onnx --log newer.jsonl", "newer version"),
    "log in no folder": ("net.onnx --log none/x.jsonl", "cannot write none/x.jsonl"),
    "log is a folder": ("net.onnx --log folder", "not a regular file"),
    "log is a device": ("net.onnx --log /dev/full", "not a regular file"),
    "output in no folder": ("net.onnx -o none/x.so", "there is no folder none"),
    "output is a folder": ("net.onnx -o folder", "not a regular file"),
    "output is a device": ("net.onnx -o /dev/null", "not a regular file"),
    "unknown target": ("net.onnx --target z80", "unknown target 'z80'"),
    "target elsewhere": ("net.onnx --target ABSENT", "it lacks "),
    "zero trials": ("net.onnx --trials 0", "trials must be a whole number of at least 1, not 0"),
    "zero time": ("net.onnx --time 0", "seconds must be a positive number, not 0"),
    "no threads": ("net.onnx --threads 0", "threads must be"),
    "more threads than CPUs": ("net.onnx --threads 9999", "9999 threads need as many CPUs"),
    "negative seed": ("net.onnx --seed -1", "seed must be"),
    "trials in words": ("net.onnx --trials many", "--trials"),
    "no model": ("", "see tune-model --help"),
    "unknown option": ("net.onnx --frobnicate", "see tune-model --help"),
}
APP_REFUSES = {
    "no command": ("", "see ansor-lite --help"),
    "unknown command": ("frobnicate", "see ansor-lite --help"),
    "tasks of nothing": ("tasks nothing.onnx", "no such file: nothing.onnx"),
    "tasks of text": ("tasks text.onnx", "is not an ONNX model"),
    "compile without log": ("compile net.onnx --log none.jsonl", "no such file: none.jsonl"),
    "compile with text": ("compile net.onnx --log text.jsonl", "text.jsonl, line 1: not JSON"),
    "compile newer": ("compile net.onnx --log newer.jsonl", "newer version"),
    "compile other": ("compile net.onnx --log other.jsonl", "it is for elsewhere"),
    "compile strict": ("compile net.onnx --log empty.jsonl --strict", "has no record for"),
    "compile nowhere": ("compile net.onnx --log empty.jsonl -o no/x.so", "there is no folder no"),
    "bench of nothing": ("bench nothing.so", "no such file: nothing.so"),
    "bench of text": ("bench text.onnx", "text.onnx"),
    "bench never": ("bench net.onnx --repeats 0", "--repeats must be at least 1"),
    "run of text": ("run text.onnx", "text.onnx"),
    "input without name": ("run net.onnx --input x.npy", "write it like name=file.npy"),
    "input of nothing": ("run net.onnx --input x=none.npy", "no such file: none.npy"),
    "input of text": ("run net.onnx --input x=text.npy", "text.npy is not a .npy file"),
    "best of text": ("log best text.jsonl", "text.jsonl, line 1: not JSON"),
    "best of nothing": ("log best none.jsonl", "none.jsonl"),
    "merge of nothing": ("log merge", "see ansor-lite log merge --help"),
    "merge without output": ("log merge empty.jsonl", "name the log to write: -o OUT"),
    "merge nowhere": ("log merge empty.jsonl -o no/x", "there is no folder no"),
    "distill newer": ("log distill newer.jsonl -o x.jsonl", "newer version"),
}


def listing(folder: Path) -> dict[str, bytes]:
    """Every file with its content; lock files carry nothing."""
    found = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.suffix != ".lock")
    return {str(p.relative_to(folder)): p.read_bytes() for p in found}


def refuse(
    command: typer.Typer,
    arguments: str,
    message: str,
    files: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = listing(files)
    words = [absent_target() if a == "ABSENT" else a for a in arguments.split()]
    name = "tune-model" if command is tuner else "ansor-lite"
    assert run(command, name, words) == BAD_INPUT
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert message in error
    assert listing(files) == before


@pytest.mark.parametrize("case", TUNER_REFUSES)
def test_tune_model_refuses_in_one_line(
    case: str, files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(files)
    refuse(tuner, *TUNER_REFUSES[case], files, capsys)


@pytest.mark.parametrize("case", APP_REFUSES)
def test_ansor_lite_refuses_in_one_line(
    case: str, files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(files)
    refuse(app, *APP_REFUSES[case], files, capsys)


def test_without_a_linker_tuning_does_not_begin(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(files)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("ansor_lite.linker.importlib.util.find_spec", lambda name: None)
    refuse(tuner, "net.onnx", "the Python package ziglang", files, capsys)


# ------------------------------------------------------------------ the whole path


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which ``tune-model net.onnx`` has run for a few trials."""
    folder = tmp_path_factory.mktemp("tuned")
    onnx.save(small_models.small_cnn(), folder / "net.onnx")
    done = tune(folder, "net.onnx", "--trials", "6")
    assert (done.returncode, done.stderr) == (0, "")
    assert "wrote net.so and net.tune.jsonl" in done.stdout
    return folder


def tune(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", TUNE, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def call(*arguments: str) -> None:
    assert run(app, "ansor-lite", list(arguments)) == 0


def test_tuning_again_measures_nothing_twice(tuned: Path) -> None:
    before = (tuned / "net.tune.jsonl").read_bytes()
    done = tune(tuned, "net.onnx", "--trials", "6", "-o", "again.so")
    assert done.returncode == 0
    assert "the log has" in done.stdout
    steps = [json.dumps(json.loads(line)["steps"]) for line in before.splitlines()]
    after = (tuned / "net.tune.jsonl").read_bytes()
    assert after.startswith(before)
    again = [json.dumps(json.loads(line)["steps"]) for line in after.splitlines()]
    assert set(again) == set(steps)


def test_run_computes_what_onnxruntime_computes(
    tuned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tuned)
    x = np.random.default_rng(0).standard_normal((1, 3, 16, 16), dtype=np.float32)
    np.save("x.npy", x)
    call("run", "net.so", "--input", "x=x.npy", "--output-dir", "out")
    expected = small_models.reference(small_models.small_cnn(), {"x": x})["y"]
    assert small_models.relative_error(np.load("out/y.npy"), expected) < 1e-4


def test_compile_replays_the_log(
    tuned: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tuned)
    call("compile", "net.onnx", "-o", "replayed.so")
    assert capsys.readouterr().out.endswith("wrote replayed.so\n")


def test_compile_says_what_a_log_leaves_untuned(
    tuned: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tuned)
    (tuned / "empty.jsonl").touch()
    call("compile", "net.onnx", "--log", "empty.jsonl", "-o", "untuned.so")
    assert re.match("warning: empty.jsonl has no record for 4 of 4 tasks", capsys.readouterr().out)
    call("log", "best", "empty.jsonl")
    assert capsys.readouterr().out == "no records\n"


def test_bench_and_profile_show_every_kernel(
    tuned: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tuned)
    call("bench", "net.so", "--repeats", "3", "--profile")
    out = capsys.readouterr().out
    assert "p50" in out and "of peak" in out and "conv2d" in out
    assert re.search(r"outside kernels: -?[\d.]+% of a run", out)


def test_bench_refuses_more_threads_than_cpus(
    tuned: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tuned)
    for command in ("bench", "run"):
        refuse(app, f"{command} net.so --threads 9999", "this process may use", tuned, capsys)


def test_a_module_for_more_threads_runs_with_all_cpus(
    tuned: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tuned)
    call("compile", "net.onnx", "--threads", "9999", "-o", "many.so")
    assert "for 9999 threads; this process may use" in capsys.readouterr().out
    call("bench", "many.so", "--repeats", "3")
    out = capsys.readouterr().out
    assert f"it runs with {available_threads()}, the CPUs" in out and "p50" in out


def test_tasks_lists_uses_and_work(
    tuned: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tuned)
    call("tasks", "net.onnx")
    out = capsys.readouterr().out
    assert "FLOP/byte" in out and "conv2d_add_relu" in out


def test_log_commands(
    tuned: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tuned)
    call("log", "best", "net.tune.jsonl")
    assert "conv2d_add" in capsys.readouterr().out
    call("log", "distill", "net.tune.jsonl", "-o", "best.jsonl")
    call("log", "merge", "net.tune.jsonl", "best.jsonl", "-o", "all.jsonl")
    call("log", "best", "all.jsonl", "-o", "best.json")
    assert (tuned / "all.jsonl").read_bytes() == (tuned / "net.tune.jsonl").read_bytes()
    best = (tuned / "best.jsonl").read_text().splitlines()
    assert len(best) == len(json.loads((tuned / "best.json").read_text()))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_writes_the_module_of_the_best_so_far(tmp_path: Path, number: int) -> None:
    onnx.save(small_models.small_cnn(), tmp_path / "net.onnx")
    log = tmp_path / "net.tune.jsonl"
    command = [sys.executable, "-c", TUNE, "net.onnx", "--trials", "100000"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not (log.exists() and log.stat().st_size):
            time.sleep(0.05)
        process.send_signal(number)
        out, _ = process.communicate(timeout=120)
    assert process.returncode == INTERRUPTED, out
    assert (tmp_path / "net.so").exists()
    call("bench", str(tmp_path / "net.so"), "--repeats", "1")


def test_version_and_help_end_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tuner, "tune-model", ["--version"]) == 0
    assert run(app, "ansor-lite", ["--version"]) == 0
    assert run(app, "ansor-lite", ["log", "--help"]) == 0
    assert "distill" in capsys.readouterr().out


def test_a_full_disk_ends_tuning_with_the_trials_so_far(tmp_path: Path) -> None:
    onnx.save(small_models.small_cnn(), tmp_path / "net.onnx")

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))

    command = [sys.executable, "-c", TUNE, "net.onnx", "--trials", "50"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, preexec_fn=small_files
    )
    assert done.returncode == FAILED
    assert done.stderr.startswith("error: cannot append to the log net.tune.jsonl")
    lines = (tmp_path / "net.tune.jsonl").read_bytes()
    assert lines.endswith(b"\n") and [json.loads(line)["v"] for line in lines.splitlines()]
    assert not (tmp_path / "net.so").exists()
