"""The plan of a network: every kernel call, and the task or default lowering behind it.

Read ``passes.py`` for how the calls came about. A function called with a weight in one place and a
computed tensor in another is two tasks: constant operands may be stored packed.
"""

# imports TVM
from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import tvm
from tvm import relax

from ansor_lite.frontend.network import Network
from ansor_lite.graph.passes import fuse_network
from ansor_lite.tasks import Task
from schedules.dag import ComputeDAG, canonical
from schedules.errors import UnsupportedProgram
from schedules.from_tir import from_tir
from search_space.analysis import has_anchor

# A call site's kernel: name of the function, positions of its constant arguments.
Signature = tuple[str, tuple[int, ...]]

CALL_TIR = "relax.call_tir"


@dataclass(frozen=True, slots=True)
class OpaqueKernel:
    """A function without a ComputeDAG: TVM's default lowering compiles it; ``reason`` says why."""

    name: str
    constants: tuple[int, ...]
    reason: str
    weight: int


@dataclass(frozen=True)
class Graph:
    """A fused network. ``tasks`` are distinct, in order of first use; weights count call sites."""

    network: Network
    module: tvm.IRModule
    tasks: tuple[Task, ...]
    opaque: tuple[OpaqueKernel, ...]
    by_signature: dict[Signature, Task]

    @property
    def tunable(self) -> tuple[Task, ...]:
        """Tasks with an anchor; the others get a schedule by rule and cost no trials."""
        return tuple(t for t in self.tasks if has_anchor(t.dag))


def plan_network(network: Network) -> Graph:
    """Fuse the network and extract its tasks."""
    module = fuse_network(network.module)
    uses = Counter(signature(call) for call in kernel_calls(module))
    first: dict[str, str] = {}
    weights: Counter[str] = Counter()
    dags: dict[Signature, ComputeDAG] = {}
    opaque = []
    for kernel, count in uses.items():
        function = module[kernel[0]]
        try:
            dag = checked_dag(function, kernel[1])
        except UnsupportedProgram as error:
            opaque.append(OpaqueKernel(*kernel, str(error), count))
            continue
        dags[kernel] = dag
        if dag.key not in first:
            first[dag.key] = _unique(task_name(kernel[0], dag), first.values())
        weights[dag.key] += count
    tasks: dict[str, Task] = {}
    for dag in dags.values():
        tasks.setdefault(dag.key, Task(first[dag.key], dag, weights[dag.key]))
    by_signature = {kernel: tasks[dag.key] for kernel, dag in dags.items()}
    # The weights as they were imported are of no more use, and large.
    fused = replace(network, module=module)
    return Graph(fused, module, tuple(tasks.values()), tuple(opaque), by_signature)


def checked_dag(function: tvm.tirx.PrimFunc, constants: tuple[int, ...]) -> ComputeDAG:
    """The DAG of a PrimFunc whose parameters are exactly its inputs, then its outputs."""
    dag = from_tir(function, constants)
    if len(dag.inputs) + len(dag.outputs) != len(function.params):
        raise UnsupportedProgram("a parameter is neither read nor written")
    return canonical(dag)


def kernel_calls(module: tvm.IRModule) -> list[Any]:
    """Every ``call_tir`` of ``main``, in program order."""
    found: list[Any] = []

    def visit(expr: Any) -> None:
        if is_kernel_call(expr):
            found.append(expr)

    relax.analysis.post_order_visit(module["main"], visit)
    return found


def is_kernel_call(expr: Any) -> bool:
    if not isinstance(expr, relax.Call) or not isinstance(expr.op, tvm.ir.Op):
        return False
    return bool(expr.op.name == CALL_TIR) and len(expr.args) == 2


def signature(call: Any) -> Signature:
    constants = [i for i, a in enumerate(call.args[1].fields) if isinstance(a, tvm.ir.GenericConst)]
    return call.args[0].name_hint, tuple(constants)


def task_name(function: str, dag: ComputeDAG) -> str:
    """``conv2d_add_relu 56x56x64 * 3x3x64x64 -> 56x56x64``: operators, large operands, result."""
    words = [re.sub(r"\d+$", "", w) for w in function.removeprefix("fused_").split("_")]
    operators = "_".join(w for w in words if w not in ("", "tir"))
    operands = " * ".join(_shape_text(dag, name) for name in _anchor_operands(dag))
    return f"{operators} {operands} -> {_shape_text(dag, dag.outputs[0])}"


def _unique(name: str, taken: Collection[str]) -> str:
    same = sum(other == name or other.startswith(f"{name} #") for other in taken)
    return f"{name} #{same + 1}" if same else name


def _anchor_operands(dag: ComputeDAG) -> list[str]:
    """The inputs that the first stage with a combiner reads, through elementwise stages."""
    reducing = [s for s in dag.stages if s.combiner is not None]
    stages = [(reducing or list(dag.stages))[0].name]
    found: dict[str, None] = {}
    while stages:
        for read in dag.stage(stages.pop(0)).reads():
            if read.tensor in dag.input_by_name:
                found[read.tensor] = None
            else:
                stages.append(read.tensor)
    used = [t.name for t in dag.inputs if t.name in found]
    return used[:2] or [t.name for t in dag.inputs[:1]]


def _shape_text(dag: ComputeDAG, name: str) -> str:
    """Extents joined by ``x``; leading ones are left out, except of constants."""
    extents = list(dag.shape_of(name))
    source = dag.input_by_name.get(name)
    while len(extents) > 1 and extents[0] == 1 and not (source and source.constant):
        extents = extents[1:]
    return "x".join(str(e) for e in extents) or "scalar"
