"""Tasks small enough to measure in a test, and two that no machine survives."""

from __future__ import annotations

from ansor_lite.measure.protocol import Candidate
from ansor_lite.tasks import Task
from schedules.dag import ComputeDAG, IterAxis, Stage, Tensor
from schedules.expr import Axis, Call, Const, Expr, Read
from schedules.steps import Annotate, Step, Tile

F32 = "float32"
HUGE = 1 << 40


def elementwise(body: Expr, n: int = 64, name: str = "toy") -> Task:
    """``y[i] = body`` with a float input ``x`` and a constant ``w``, both ``[n]``."""
    inputs = (Tensor("x", (n,), F32), Tensor("w", (n,), F32, constant=True))
    stage = Stage("y", (IterAxis("i", n),), body, F32)
    return Task(name, ComputeDAG(inputs, (stage,), ("y",)))


def at(tensor: str, index: Expr | None = None) -> Read:
    return Read(tensor, (index or Axis("i"),), F32)


def scaled(n: int = 64, name: str = "scaled") -> Task:
    """``y[i] = x[i] * w[i]``"""
    return elementwise(Call("mul", (at("x"), at("w")), F32), n, name)


def crashing() -> Task:
    """Reads terabytes behind its input."""
    far = Call("add", (Axis("i"), Const(HUGE, "int64")), "int64")
    return elementwise(Call("add", (at("x", far), at("w")), F32), name="crashing")


def endless() -> Task:
    """A reduction that takes years."""
    term = Call("exp", (Call("cast", (Axis("k0"),), F32),), F32)
    reduced = (IterAxis(f"k{i}", 1 << 20, "reduce") for i in range(2))
    axes = (IterAxis("i", 1), *reduced)
    stage = Stage("y", axes, Call("mul", (at("x"), term), F32), F32, "sum")
    return Task("endless", ComputeDAG((Tensor("x", (1,), F32),), (stage,), ("y",)))


def tiled(task: Task, size: int) -> Candidate:
    """The loop of an elementwise task in vectors of ``size``, the outer loop parallel."""
    steps: tuple[Step, ...] = (
        Tile("y", "i", (size,)),
        Annotate("y", ("i.0",), "parallel"),
        Annotate("y", ("i.1",), "vectorize"),
    )
    return Candidate(task, steps, "tiled")
