"""Compiled modules: right results, one file, clear refusals, several threads."""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import small_models
from onnx import TensorProto, helper

from ansor_lite import linker
from ansor_lite.compiler import compile_graph
from ansor_lite.errors import InputError
from ansor_lite.frontend.importer import import_network
from ansor_lite.graph.plan import plan_network
from ansor_lite.runtime import CompiledModule, load
from ansor_lite.target import native
from schedules.errors import ScheduleError

TOLERANCE = 1e-4
TARGET = native(2)


def compiled(model, steps_for=lambda task: None, target=TARGET) -> CompiledModule:
    return compile_graph(plan_network(import_network(model)), steps_for, target, "digest")


@pytest.fixture(scope="module")
def cnn() -> CompiledModule:
    return compiled(small_models.small_cnn())


@pytest.fixture(scope="module")
def transformer() -> CompiledModule:
    return compiled(small_models.small_transformer())


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(3).standard_normal((1, 3, 16, 16)).astype(np.float32)


def test_a_convolutional_network_computes_what_onnxruntime_computes(cnn, image):
    expected = small_models.reference(small_models.small_cnn(), {"x": image})
    found = cnn.run({"x": image})
    assert found.keys() == {"y"}
    assert small_models.relative_error(found["y"], expected["y"]) < TOLERANCE


def test_kernels_are_told_that_their_arguments_do_not_overlap(cnn):
    """One function without that attribute takes it from every other: accumulators would spill."""
    code = cnn._source.executable.mod.inspect_source("ll")
    kernels = [line for line in code.splitlines() if line.startswith("define dllexport")]
    assert kernels and all("noalias" in line for line in kernels if "__tvm_ffi_k" in line)


def test_several_outputs_come_back_by_name(transformer):
    ids = np.array([[1, 49, 0, 7, 7, 3]])
    expected = small_models.reference(small_models.small_transformer(), {"ids": ids})
    found = transformer.run({"ids": ids})
    assert found.keys() == {"y", "p"}
    for name, value in expected.items():
        assert small_models.relative_error(found[name], value) < TOLERANCE


@pytest.mark.parametrize("token", [50, 10**9, 2**62])
def test_a_token_beyond_the_vocabulary_is_clamped(transformer, token):
    last = transformer.run({"ids": np.full((1, 6), 49)})
    beyond = transformer.run({"ids": np.full((1, 6), token)})
    np.testing.assert_array_equal(beyond["y"], last["y"])


@pytest.mark.parametrize("operator", ["GatherElements", "GatherND"])
@pytest.mark.parametrize("index", [-(10**9), 10**9])
def test_gather_indices_are_clamped(operator, index):
    model = small_models.build(
        [helper.make_node(operator, ["data", "i"], ["y"])],
        {"data": (TensorProto.FLOAT, (4, 3)), "i": (TensorProto.INT64, (2, 2))},
        ["y"],
        {},
    )
    data = np.arange(12, dtype=np.float32).reshape(4, 3)
    found = compiled(model).run({"data": data, "i": np.full((2, 2), index)})["y"]
    assert np.isin(found, data).all()


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, r"missing input 'x' \(float32\[1, 3, 16, 16\]\)"),
        ({"x": np.zeros((1, 3, 16, 15), np.float32)}, r"'x' has shape .*15\], expected"),
        ({"x": np.zeros((1, 3, 16, 16))}, "'x' has dtype float64, expected float32"),
        ({"x": np.zeros((1, 3, 16, 16), np.float32), "z": 1}, "unknown input 'z'; inputs: x"),
    ],
)
def test_refuses_wrong_inputs_by_name(cnn, feeds, message):
    with pytest.raises(InputError, match=message):
        cnn.run(feeds)


def test_inputs_need_no_alignment_and_no_order(cnn, image):
    expected = cnn.run({"x": image})["y"]
    shifted = np.frombuffer(b"\0" + image.tobytes(), np.uint8)[1:].view(np.float32)
    fortran = np.asfortranarray(image)
    for same in (shifted.reshape(image.shape), fortran):
        np.testing.assert_array_equal(cnn.run({"x": same})["y"], expected)


def test_runs_from_several_threads_at_once(cnn, image):
    images = [image * scale for scale in range(1, 9)]
    expected = [cnn.run({"x": x})["y"] for x in images]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda x: cnn.run({"x": x})["y"], images))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_one_file_holds_code_weights_and_manifest(cnn, image, tmp_path):
    loaded = load(cnn.save(tmp_path / "net.so"))
    assert loaded.manifest == cnn.manifest
    np.testing.assert_array_equal(loaded.run({"x": image})["y"], cnn.run({"x": image})["y"])
    assert [p.name for p in tmp_path.iterdir()] == ["net.so"]
    ctypes.CDLL(str(tmp_path / "net.so"))  # still an ordinary shared library


def test_a_loaded_module_can_be_saved_again(cnn, image, tmp_path):
    first = load(cnn.save(tmp_path / "a.so"))
    second = load(first.save(tmp_path / "b.so"), threads=1)
    np.testing.assert_allclose(second.run({"x": image})["y"], cnn.run({"x": image})["y"], 1e-5)


def test_the_manifest_says_what_the_module_is(cnn):
    manifest = cnn.manifest
    assert [(i.name, i.shape, i.dtype) for i in manifest.inputs] == [
        ("x", (1, 3, 16, 16), "float32")
    ]
    assert [(o.name, o.shape) for o in manifest.outputs] == [("y", (1, 10))]
    assert (manifest.threads, manifest.log_digest) == (2, "digest")
    assert len({k.symbol for k in manifest.kernels}) == len(manifest.kernels)
    assert manifest.gflop == pytest.approx(sum(k.gflop * k.uses for k in manifest.kernels))


def test_kernel_digests_depend_on_the_schedule_alone(cnn):
    again = compiled(small_models.small_cnn())
    assert again.manifest.kernels == cnn.manifest.kernels
    other = compiled(small_models.small_cnn(), target=replace(TARGET, vector_bytes=16))
    assert {k.source for k in other.manifest.kernels} != {k.source for k in cnn.manifest.kernels}


def test_given_steps_count_as_tuned():
    asked = []

    def steps_for(task):
        asked.append(task.key)
        return () if task.name.startswith("mean") else None

    manifest = compiled(small_models.small_cnn(), steps_for).manifest
    assert asked == [k.key for k in manifest.kernels]
    assert {k.name.split(" ")[0] for k in manifest.kernels if k.tuned} == {"mean"}


def test_what_no_rule_can_schedule_runs_unscheduled_and_says_why(image, monkeypatch):
    def refuse(dag, hardware):
        raise ScheduleError("no rule fits")

    monkeypatch.setattr("ansor_lite.compiler.good_steps", refuse)
    module = compiled(small_models.small_cnn())
    assert {k.reason for k in module.manifest.kernels} == {"no rule fits"}
    expected = small_models.reference(small_models.small_cnn(), {"x": image})
    assert small_models.relative_error(module.run({"x": image})["y"], expected["y"]) < TOLERANCE


def test_every_kernel_of_ordinary_networks_is_scheduled(cnn, transformer):
    kernels = cnn.manifest.kernels + transformer.manifest.kernels
    assert {k.reason for k in kernels} == {""}


def test_profile_attributes_time_to_kernels(cnn):
    times = cnn.profile(repeats=2)
    assert {t.kernel.symbol: t.calls for t in times} == {
        k.symbol: k.uses for k in cnn.manifest.kernels
    }
    assert all(t.seconds > 0 for t in times)


def test_bench_counts_every_repeat(cnn):
    latency = cnn.bench(repeats=7, warmup=1)
    assert len(latency.seconds) == 7
    assert latency.minimum <= latency.percentile(50) <= latency.percentile(99)


def test_load_refuses_other_files(tmp_path):
    path = tmp_path / "x.so"
    path.write_bytes(b"\x7fELF" + b"\0" * 100)
    with pytest.raises(InputError, match="not a compiled module"):
        load(path)
    with pytest.raises(InputError, match="no such file"):
        load(tmp_path / "none.so")


def test_load_refuses_a_processor_without_the_instructions(cnn, tmp_path, monkeypatch):
    path = cnn.save(tmp_path / "net.so")
    monkeypatch.setattr("ansor_lite.target.cpu_features", lambda *_: frozenset({"sse2"}))
    with pytest.raises(InputError, match="cannot run"):
        load(path)


def test_save_refuses_a_folder_that_does_not_exist(cnn, tmp_path):
    with pytest.raises(InputError, match="cannot write"):
        cnn.save(tmp_path / "none" / "net.so")


def test_without_any_linker_the_error_names_both_cures(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(linker.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"C compiler .* or the Python package ziglang"):
        linker.linker_command()


def test_without_a_compiler_zig_links(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(linker.importlib.util, "find_spec", lambda name: object())
    assert linker.linker_command() == [sys.executable, "-m", "ziglang", "cc"]


def test_saves_with_no_compiler_on_the_path_if_zig_is_there(cnn, image, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    if importlib.util.find_spec("ziglang") is None:
        with pytest.raises(InputError, match="ziglang"):
            cnn.save(tmp_path / "net.so")
        assert not list(tmp_path.iterdir())
    else:
        found = load(cnn.save(tmp_path / "net.so")).run({"x": image})["y"]
        np.testing.assert_array_equal(found, cnn.run({"x": image})["y"])
