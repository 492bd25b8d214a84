"""A finished module runs with little: no compiler, no second copy of its weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import small_models
from onnx import TensorProto, helper

from ansor_lite.compiler import compile as compile_model
from ansor_lite.errors import InputError
from ansor_lite.manifest import MAGIC
from ansor_lite.program import ALIGNMENT
from ansor_lite.runtime import load
from ansor_lite.runtime_library import Handle, call_global, global_function
from ansor_lite.target import available_threads

ROOT = Path(__file__).parents[2]

RUN = """
import sys
import ansor_lite
module = ansor_lite.load(sys.argv[1])
module.run(module.random_inputs())
unwanted = {"tvm", "tvm_ffi", "onnx", "xgboost", "schedules.nest", "search_space"}
libraries = open("/proc/self/maps").read()
print(sorted(unwanted & sys.modules.keys()), "libtvm_compiler" in libraries)
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    model = small_models.small_cnn()
    return compile_model(model, threads=2).save(tmp_path_factory.mktemp("m") / "net.so")


def test_loading_and_running_imports_neither_tvm_nor_the_search(saved):
    call = [sys.executable, "-c", RUN, str(saved)]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] False"


def test_loaded_weights_lie_where_kernels_may_read_them(saved):
    module = load(saved)
    weights = module._source.weights()
    assert len(weights) == len(module.manifest.program.weights) > 0
    for array in weights:
        assert not array.flags.owndata  # a view of one region, read once
        assert array.__array_interface__["data"][0] % ALIGNMENT == 0


def test_a_network_without_weights_loads(tmp_path):
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    model = small_models.build(nodes, {"x": (TensorProto.FLOAT, (2, 3))}, ["y"], {})
    module = load(compile_model(model, threads=1).save(tmp_path / "relu.so"))
    x = np.array([[-1, 2, -3], [4, -5, 6]], np.float32)
    np.testing.assert_array_equal(module.run({"x": x})["y"], np.maximum(x, 0))


def test_a_loaded_module_works_after_its_file_is_replaced(saved, tmp_path):
    path = tmp_path / "net.so"
    path.write_bytes(saved.read_bytes())
    module = load(path)
    x = module.random_inputs()
    before = module.run(x)["y"]
    compile_model(small_models.small_cnn(), threads=1).save(path)
    np.testing.assert_array_equal(module.run(x)["y"], before)


def test_a_file_cut_short_is_refused(saved, tmp_path):
    path = tmp_path / "cut.so"
    path.write_bytes(saved.read_bytes()[: -len(MAGIC)])
    with pytest.raises(InputError, match="not a compiled module"):
        load(path)


@pytest.mark.parametrize(
    ("threads", "because"), [(0, "at least 1, not 0"), (1.5, "not 1.5"), (9999, "as many CPUs")]
)
def test_refuses_threads_because(saved, threads, because):
    with pytest.raises(InputError, match=because):
        load(saved, threads=threads)


def test_without_a_number_no_more_threads_run_than_there_are_cpus(tmp_path):
    path = compile_model(small_models.small_cnn(), threads=9999).save(tmp_path / "many.so")
    heard = []
    module = load(path, on_event=heard.append)
    assert module.manifest.threads == available_threads()
    assert [event.message.count("9999 threads") for event in heard] == [1]


def test_inputs_have_names(saved):
    module = load(saved)
    (x,) = module.random_inputs().values()
    with pytest.raises(InputError, match="a dict from names to arrays, not ndarray"):
        module.run(x)


def test_errors_of_the_runtime_become_python_errors(tmp_path):
    with pytest.raises(RuntimeError, match=r"none\.so"):
        call_global("ffi.ModuleLoadFromFile", str(tmp_path / "none.so"))
    with pytest.raises(InputError, match="no function 'no such function'"):
        global_function("no such function")


def test_strings_numbers_and_objects_pass_to_the_runtime_and_back():
    array = call_global("ffi.Array", "a", "b", 3)
    assert isinstance(array, Handle)
    assert call_global("ffi.ArraySize", array) == 3
    assert call_global("ffi.ArrayGetItem", array, 2) == 3
