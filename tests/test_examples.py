"""Every example runs, as its first lines say, with a budget of a few trials."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# example -> arguments that keep it short, a text it must print
EXAMPLES = {
    "squeezenet.py": (["{folder}/squeezenet.onnx"], ""),
    "tune_layer.py": (["--trials", "4"], "GFLOP/s"),
    "tune_network.py": (["--trials", "4"], "median latency"),
    "demo.py": (["--time", "20", "--folder", "{folder}"], "SqueezeNet"),
}


def test_every_example_is_listed() -> None:
    assert {p.name for p in (ROOT / "examples").glob("*.py")} == EXAMPLES.keys()


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_runs(name: str, tmp_path: Path) -> None:
    arguments, expected = EXAMPLES[name]
    words = [a.format(folder=tmp_path) for a in arguments]
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / name), *words],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout
