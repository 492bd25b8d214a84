"""The public face: pinned, complete, and light to import."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import ansor_lite

PUBLIC = [
    "AnsorLiteError",
    "CompiledModule",
    "InputError",
    "Target",
    "Task",
    "TuningOptions",
    "compile",
    "load",
    "tune_model",
    "tune_task",
    "workloads",
]
HEAVY = ("tvm", "tvm_ffi", "xgboost", "scipy", "onnx", "onnxruntime")


def loaded_by(code: str) -> set[str]:
    """The heavy packages that a fresh interpreter has loaded after ``code``."""
    report = f"import sys, json; print(json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_public_names_are_pinned() -> None:
    assert ansor_lite.__all__ == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_exists_and_is_documented(name: str) -> None:
    assert getattr(ansor_lite, name).__doc__


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'tune_everything'"):
        _ = ansor_lite.tune_everything


@pytest.mark.parametrize(
    "code",
    [
        "import ansor_lite; ansor_lite.TuningOptions(trials=1)",
        "from ansor_lite.cli import run, tuner; run(tuner, 'tune-model', ['--help'])",
        "from ansor_lite.cli import run, app; run(app, 'ansor-lite', ['--help'])",
        "from ansor_lite.cli import run, app; run(app, 'ansor-lite', ['bench', '--help'])",
    ],
)
def test_importing_and_help_load_nothing_heavy(code: str) -> None:
    assert loaded_by(code) == set()


def test_the_probe_for_heavy_packages_sees_them() -> None:
    assert "tvm" in loaded_by("import tvm")
