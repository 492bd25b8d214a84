"""DAGs and closed steps as plain JSON values and back. A log is data: nothing here evaluates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from schedules.dag import ComputeDAG, IterAxis, Stage, Tensor
from schedules.errors import ScheduleError
from schedules.expr import Axis, Call, Const, Expr, Read
from schedules.steps import STEP_TYPES, Step

Json = Any

_TAG_OF = {cls: tag for tag, cls in STEP_TYPES.items()}


def steps_to_json(steps: tuple[Step, ...]) -> Json:
    """``[[tag, field, ...], ...]``; raises :class:`ScheduleError` for an open step."""
    return [[_TAG_OF[type(s)], *(_plain(getattr(s, f.name)) for f in fields(s))] for s in steps]


def steps_from_json(value: Json) -> tuple[Step, ...]:
    """Inverse of :func:`steps_to_json`; raises :class:`ScheduleError` on anything else."""
    try:
        return tuple(_step(entry) for entry in value)
    except (TypeError, KeyError, IndexError, ValueError) as error:
        raise ScheduleError(f"not a list of steps: {error}") from error


def _step(entry: Json) -> Step:
    cls = STEP_TYPES[entry[0]]
    if len(entry) != len(fields(cls)) + 1:
        raise ScheduleError(
            f"step {entry[0]!r} takes {len(fields(cls))} fields, not {len(entry) - 1}"
        )
    values = [_frozen(v) for v in entry[1:]]
    for field, value in zip(fields(cls), values, strict=True):
        if not _FIELD_CHECKS[str(field.type)](value):
            raise ScheduleError(f"{field.name} of step {entry[0]!r} cannot be {value!r}")
    return cls(*values)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _all(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, tuple) and all(map(check, value))


# Type of a field of a step -> what a closed step may hold there.
_FIELD_CHECKS: dict[str, Callable[[Any], bool]] = {
    "str": _is_text,
    "int": _is_count,
    "bool": lambda value: isinstance(value, bool),
    "tuple[str, ...]": _all(_is_text),
    "tuple[Number, ...]": _all(_is_count),
    "tuple[str, str] | None": lambda v: v is None or (_all(_is_text)(v) and len(v) == 2),
}


def _plain(value: Any) -> Json:
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, (str, int, bool)):
        return value
    raise ScheduleError(f"{value!r} is an open number; close the sketch first")


def _frozen(value: Json) -> Any:
    if isinstance(value, list):
        return tuple(_frozen(v) for v in value)
    if value is None or isinstance(value, (str, int, bool)):
        return value
    raise ScheduleError(f"{value!r} cannot be part of a step")


def dag_to_json(dag: ComputeDAG) -> Json:
    """The DAG as nested lists and dicts of plain values."""
    return {
        "inputs": [[t.name, list(t.shape), t.dtype, t.constant] for t in dag.inputs],
        "stages": [
            {
                "name": s.name,
                "axes": [[a.name, a.extent, a.kind] for a in s.axes],
                "body": expr_to_json(s.body),
                "dtype": s.dtype,
                "combiner": s.combiner,
            }
            for s in dag.stages
        ],
        "outputs": list(dag.outputs),
    }


def dag_from_json(value: Json) -> ComputeDAG:
    """Inverse of :func:`dag_to_json`."""
    return ComputeDAG(
        tuple(
            Tensor(n, tuple(shape), dtype, constant)
            for n, shape, dtype, constant in value["inputs"]
        ),
        tuple(
            Stage(
                s["name"],
                tuple(IterAxis(*a) for a in s["axes"]),
                expr_from_json(s["body"]),
                s["dtype"],
                s["combiner"],
            )
            for s in value["stages"]
        ),
        tuple(value["outputs"]),
    )


def expr_to_json(expr: Expr) -> Json:
    match expr:
        case Const(value, dtype):
            # JSON has no infinities: they travel as text.
            finite = not isinstance(value, float) or abs(value) < float("inf")
            return ["c", value if finite else str(value), dtype]
        case Axis(name):
            return name
        case Read(tensor, indices, dtype):
            return ["r", tensor, [expr_to_json(i) for i in indices], dtype]
        case Call(op, args, dtype):
            return [op, [expr_to_json(a) for a in args], dtype]


def expr_from_json(value: Json) -> Expr:
    if isinstance(value, str):
        return Axis(value)
    tag = value[0]
    if tag == "c":
        return Const(float(value[1]) if isinstance(value[1], str) else value[1], value[2])
    if tag == "r":
        return Read(value[1], tuple(expr_from_json(i) for i in value[2]), value[3])
    return Call(tag, tuple(expr_from_json(a) for a in value[1]), value[2])
