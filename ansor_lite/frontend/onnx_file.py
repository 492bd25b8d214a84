"""Reading ONNX models: from disk or memory, with every input given a static shape.

Everything that can be wrong with a file is an ``ModelError`` here, before any pass runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import checker

from ansor_lite.errors import ModelError

Shapes = Mapping[str, Sequence[int]]


def read_model(
    source: str | Path | onnx.ModelProto, shapes: Shapes | None = None
) -> onnx.ModelProto:
    """A private copy of the model with static input shapes.

    ``shapes`` maps input names to the shape to use, for inputs with symbolic dimensions.
    Raises :class:`ModelError` when the file is missing or no ONNX, when a symbolic dimension is
    left open, and when ``shapes`` contradicts the model.
    """
    if isinstance(source, onnx.ModelProto):
        model = onnx.ModelProto()
        model.CopyFrom(source)
    else:
        model = _read_file(Path(source))
    _fix_input_shapes(model, shapes or {})
    return model


def _read_file(path: Path) -> onnx.ModelProto:
    if not path.is_file():
        raise ModelError(f"no such file: {path}")
    try:
        model = onnx.load(str(path))
    except (DecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} is not an ONNX model") from error
    except (checker.ValidationError, OSError, ValueError) as error:
        raise ModelError(f"{path}: weights cannot be read: {_first_line(error)}") from error
    if not model.graph.output:
        raise ModelError(f"{path} is not an ONNX model")
    if not model.graph.node:
        raise ModelError(f"{path} computes nothing: its graph has no nodes")
    return model


def _fix_input_shapes(model: onnx.ModelProto, shapes: Shapes) -> None:
    weights = {t.name for t in model.graph.initializer}
    inputs = {i.name: i for i in model.graph.input if i.name not in weights}
    for name in shapes:
        if name not in inputs:
            known = ", ".join(inputs)
            raise ModelError(f"--shape names input {name!r}, but the model has: {known}")
    for name, info in inputs.items():
        if name in shapes:
            _set_shape(info, tuple(shapes[name]))
        _check_static(info)


def _set_shape(info: onnx.ValueInfoProto, shape: tuple[int, ...]) -> None:
    dims = info.type.tensor_type.shape.dim
    if info.type.tensor_type.HasField("shape") and len(dims) != len(shape):
        raise ModelError(
            f"input {info.name!r} has {len(dims)} dimensions, --shape gives {len(shape)}"
        )
    for axis, (dim, extent) in enumerate(zip(dims, shape, strict=False)):
        if extent < 1:
            raise ModelError(f"input {info.name!r}: dimension {axis} cannot be {extent}")
        if dim.HasField("dim_value") and dim.dim_value > 0 and dim.dim_value != extent:
            raise ModelError(
                f"input {info.name!r}: dimension {axis} is {dim.dim_value}, not {extent}"
            )
    del dims[:]
    for extent in shape:
        dims.add().dim_value = extent
    if not shape:
        info.type.tensor_type.shape.SetInParent()


def _check_static(info: onnx.ValueInfoProto) -> None:
    if not info.type.HasField("tensor_type"):
        raise ModelError(f"input {info.name!r} is not a tensor")
    if not info.type.tensor_type.HasField("shape"):
        raise ModelError(f"input {info.name!r} has no shape; give it with --shape {info.name}=...")
    dims = info.type.tensor_type.shape.dim
    for axis, dim in enumerate(dims):
        if dim.HasField("dim_value") and dim.dim_value > 0:
            continue
        name = dim.dim_param or "?"
        example = ",".join(
            str(d.dim_value) if d.dim_value > 0 else d.dim_param or "?" for d in dims
        )
        raise ModelError(
            f"input {info.name!r}: dimension {axis} ({name}) is symbolic; "
            f"give all of them with --shape {info.name}={example}"
        )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
