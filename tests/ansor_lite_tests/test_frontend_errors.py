"""What the frontend refuses, and in which words."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ansor_lite.errors import InputError
from ansor_lite.frontend.importer import import_network
from ansor_lite.frontend.onnx_file import read_model
from ansor_lite.quiet import native_stderr_hidden


def relu(shape, node="Relu", name="first", domain=""):
    graph = helper.make_graph(
        [helper.make_node(node, ["x"], ["y"], name=name, domain=domain)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_refuses_a_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"no such file: .*none\.onnx"):
        read_model(tmp_path / "none.onnx")


@pytest.mark.parametrize("content", [b"", b"hello, this is no model\n", b"\x7fELF" + b"\0" * 64])
def test_refuses_what_is_no_model(tmp_path, content):
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match="is not an ONNX model"):
        read_model(path)


def test_refuses_missing_external_data(tmp_path):
    model = relu((2,))
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(4096, np.float32), "w"))
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin")
    (tmp_path / "w.bin").unlink()
    with pytest.raises(InputError, match="weights cannot be read"):
        read_model(tmp_path / "m.onnx")


def test_refuses_open_shapes_and_says_how_to_close_them():
    with pytest.raises(InputError, match=r"'x': dimension 0 \(batch\).*--shape x=batch,8"):
        read_model(relu(("batch", 8)))


def test_shapes_close_symbolic_dimensions():
    model = read_model(relu(("batch", 8)), {"x": (4, 8)})
    assert [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == [4, 8]


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"z": (1, 8)}, "names input 'z', but the model has: x"),
        ({"x": (1, 8, 1)}, "2 dimensions, --shape gives 3"),
        ({"x": (1, 9)}, "dimension 1 is 8, not 9"),
        ({"x": (0, 8)}, "dimension 0 cannot be 0"),
    ],
)
def test_refuses_shapes_that_contradict_the_model(shapes, message):
    with pytest.raises(InputError, match=message):
        read_model(relu(("batch", 8)), shapes)


@pytest.mark.parametrize(
    ("operator", "domain"), [("LSTM", ""), ("Attention", ""), ("Relu", "my.domain")]
)
def test_names_the_operator_and_node_that_cannot_be_imported(operator, domain):
    with pytest.raises(InputError, match=f"{operator}' of node 'first' is not supported"):
        import_network(relu((2, 3), operator, domain=domain))


def test_names_the_node_that_the_importer_chokes_on(capfd):
    model = relu((2, 3), "Reshape")
    model.graph.node[0].input.append("shape")
    model.graph.input.append(helper.make_tensor_value_info("shape", TensorProto.FLOAT, (2,)))
    with pytest.raises(InputError, match="operator 'Reshape' of node 'first' cannot be imported"):
        import_network(model)
    assert capfd.readouterr().out == ""


def test_names_what_nothing_computes():
    model = relu((2, 3))
    model.graph.node[0].input[0] = "nowhere"
    with pytest.raises(InputError, match="'Relu' of node 'first' reads 'nowhere'"):
        import_network(model)
    model = relu((2, 3))
    model.graph.output[0].name = "nowhere"
    with pytest.raises(InputError, match="nothing computes the output 'nowhere'"):
        import_network(model)


def test_an_error_is_one_line_and_names_a_node_without_a_name(capfd):
    model = relu((1, 8), "MatMul", name="")
    model.graph.node[0].input.append("w")
    model.graph.initializer.append(numpy_helper.from_array(np.ones((7, 4), np.float32), "w"))
    with native_stderr_hidden(), pytest.raises(InputError, match="'MatMul' of node 'y'") as caught:
        import_network(model)
    assert "Metadata" not in str(caught.value) and "not equal" in str(caught.value)
    del caught
    assert capfd.readouterr().err == ""


def test_refuses_a_graph_without_nodes(tmp_path):
    model = relu((2, 3))
    del model.graph.node[:]
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(InputError, match="has no nodes"):
        read_model(tmp_path / "m.onnx")


def test_refuses_what_is_no_model_at_all():
    with pytest.raises(InputError, match="not <class 'int'>"):
        import_network(3)
