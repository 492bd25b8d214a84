"""Single operators: their shares, and that peers compute what our side does."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import operator_peers, operator_table, operators
from benchmarks.operator_table import OPERATORS
from benchmarks.runtimes import FMA_PEAK
from benchmarks.turns import Series
from schedules.dag import ComputeDAG
from schedules.evaluate import evaluate


def test_a_share_of_the_roofline_is_of_the_lower_limit() -> None:
    rounds = {"operator": [1.0] * 3, "cold-operator": [2.0] * 3, "copy": [0.8] * 3}
    series = Series(rounds | {FMA_PEAK: [1.0] * 3}, rounds | {FMA_PEAK: [1.0]})
    found = operators.Shares(series, flop=1e9, footprint=1e6, peak_flop=4e9, copied_bytes=1e6)
    result = found.to_json()
    assert result["bound"] == "memory"
    assert result["share_of_roofline_hot"] == pytest.approx(0.8)
    assert result["share_of_peak_hot"] == pytest.approx(0.25)
    assert result["share_of_peak_cold"] == pytest.approx(0.125)
    dense = dataclasses.replace(found, footprint=1e3).to_json()
    assert (dense["bound"], dense["share_of_roofline_hot"]) == ("compute", pytest.approx(0.25))


def test_odd_shapes_are_compared_with_their_round_ones() -> None:
    rows = [
        {"name": "odd", "round_shape": "round", "share_of_peak_hot": 0.6},
        {"name": "round", "round_shape": "", "share_of_peak_hot": 0.8},
        {"name": "alone", "round_shape": "failed", "share_of_peak_hot": 0.8},
        {"name": "failed", "round_shape": "", "failure": "no program ran"},
    ]
    assert operators.beside_round_shapes(rows) == {"odd": pytest.approx(0.75)}


def test_every_row_of_the_table_is_a_task_and_its_round_shape_exists() -> None:
    names = [operator.name for operator in OPERATORS]
    assert len(set(names)) == len(names)
    assert {operator.round_shape for operator in OPERATORS} <= {"", *names}
    assert all(operator.task().flop > 0 for operator in OPERATORS)


SMALL_OPERATORS = (
    ("conv1d", {"n": 1, "w": 9, "ci": 4, "co": 6, "kernel": 3, "padding": 1}),
    ("conv2d", {"n": 1, "h": 9, "w": 9, "ci": 4, "co": 6, "kernel": 3, "dilation": 2, "groups": 2}),
    ("conv3d", {"n": 1, "d": 4, "h": 5, "w": 5, "ci": 4, "co": 6, "kernel": 3, "stride": 2}),
    ("depthwise_conv2d", {"n": 1, "h": 9, "w": 9, "c": 6, "kernel": 3, "padding": 1}),
    ("conv2d_transpose", {"n": 1, "h": 5, "w": 5, "ci": 4, "co": 6, "kernel": 4, "stride": 2}),
    ("pool2d", {"n": 1, "h": 9, "w": 9, "c": 6, "kernel": 3, "padding": 1, "kind": "avg"}),
    ("matmul", {"m": 3, "n": 6, "k": 4, "activation": "gelu", "residual": True}),
    ("matmul", {"m": 3, "n": 6, "k": 4, "activation": "gelu_tanh"}),
    ("matmul", {"m": 3, "n": 6, "k": 4, "activation": "silu"}),
    ("gated_matmul", {"m": 3, "n": 6, "k": 4}),
    ("batch_matmul", {"b": 2, "m": 3, "n": 6, "k": 4, "transpose_b": True}),
    ("batch_matmul", {"b": 2, "m": 3, "n": 6, "k": 4}),
    *((kind, {"rows": 3, "columns": 6}) for kind in ("softmax", "layer_norm", "rms_norm")),
    ("group_norm", {"n": 1, "h": 5, "w": 5, "c": 6, "groups": 2}),
)


def _computed_by_a_peer(
    workload: str, arguments: dict[str, int], folder: Path
) -> tuple[ComputeDAG, dict[str, Any], Any]:
    """Our program, the arrays of the peer's, and its output."""
    onnxruntime = pytest.importorskip("onnxruntime")
    shape = operator_peers.geometry(workload, arguments)
    values = operator_peers.arrays(shape, seed=0)
    path = folder / "operator.onnx"
    operator_peers.save_onnx(shape, values, path)
    fed = {name: values[name] for name in operator_peers.FED if name in values}
    [output] = onnxruntime.InferenceSession(path).run(None, fed)
    return operator_table.Operator("", workload, arguments).task().dag, values, output


@pytest.mark.parametrize(("workload", "arguments"), SMALL_OPERATORS)
def test_peers_compute_outputs_of_the_size_of_ours(
    workload: str, arguments: dict[str, int], tmp_path: Path
) -> None:
    dag, values, found = _computed_by_a_peer(workload, arguments, tmp_path)
    assert found.size == np.prod(dag.shape_of(dag.outputs[0]))
    constant = sum(np.prod(t.shape) for t in dag.inputs if t.constant)
    assert constant == sum(v.size for name, v in values.items() if name not in operator_peers.FED)


PRODUCTS = [row for row in SMALL_OPERATORS if row[0] in operator_peers.PRODUCTS]


@pytest.mark.parametrize(("workload", "arguments"), PRODUCTS)
def test_peers_compute_the_products_and_epilogues_that_we_do(
    workload: str, arguments: dict[str, int], tmp_path: Path
) -> None:
    dag, values, expected = _computed_by_a_peer(workload, arguments, tmp_path)
    ordered = zip(dag.inputs, values.values(), strict=True)
    [found] = evaluate(dag, {t.name: value for t, value in ordered}).values()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_operators_command(tmp_path: Path) -> None:
    output = tmp_path / "out" / "operators.json"
    options = ["--operators", "7x7 stride 7", "--rounds", "2", "--log", str(tmp_path / "logs")]
    command = [*options, "--output", str(output), "--peers", "onnxruntime"]
    assert operators.main([*command, "--seconds", "8"]) == 0
    [found] = _rows(output)
    assert found["share_of_roofline_hot"] > 0 and set(found["speed_up"]) == {"onnxruntime"}
    assert operators.main([*command, "--no-tune", "--append"]) == 0
    assert len(_rows(output)) == 1


def _rows(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text())["result"]["operators"]
    return found
