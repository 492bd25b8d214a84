"""Children that take turns: what they are given, compute and say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from ansor_lite.frontend.network import TensorInfo
from benchmarks import (
    comparing,
    networks,
)
from benchmarks.runtimes import Runtime, RuntimeFailure, read_arrays, write_arrays


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
