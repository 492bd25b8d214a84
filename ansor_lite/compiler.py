"""A planned network and a schedule per task to a compiled module.

Read ``graph/plan.py`` first. Every call site gets the kernel of its task: scheduled TensorIR under
a name of its own, constant operands stored the way the schedule reads them. ``runtime.py`` runs it.
"""

# imports TVM
from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax
from tvm.ir import GlobalVar
from tvm.relax import transform

from ansor_lite import target as targets
from ansor_lite.alternatives import faster_chains
from ansor_lite.events import OnEvent, TuningWarning, ignore
from ansor_lite.first_guess import good_steps
from ansor_lite.flatten import driver, flatten
from ansor_lite.frontend.importer import Model, import_network
from ansor_lite.graph.calls import Signature, is_kernel_call, signature
from ansor_lite.graph.concat import as_join, elide_joins
from ansor_lite.graph.plan import Graph, plan_network, use_chains
from ansor_lite.linker import shared_library_linker
from ansor_lite.manifest import SLICE_MARK, KernelInfo, Manifest, append
from ansor_lite.program import DRIVER, Program
from ansor_lite.records import Records, read
from ansor_lite.replay import Replay, replay
from ansor_lite.report.text import count_text
from ansor_lite.runtime import CompiledModule
from ansor_lite.runtime_library import Handle
from ansor_lite.target import Target
from ansor_lite.tasks import Task
from ansor_lite.workspaces import Exposed, exposed
from schedules.errors import ScheduleError
from schedules.lower import PIPELINE, lower
from schedules.lower.packing import Packing
from schedules.steps import Step

StepsFor = Callable[[Task], tuple[Step, ...] | None]


@dataclass(frozen=True)
class Kernel:
    """``packs``: argument position -> how that constant is stored."""

    function: tvm.tirx.PrimFunc
    info: KernelInfo
    packs: Mapping[int, Packing] = field(default_factory=dict)


def compile(
    model: Model,
    log: str | Path | None = None,
    target: str | Mapping[str, Any] | Target = "native",
    threads: int | None = None,
    strict: bool = False,
    exact: bool = False,
    shapes: Mapping[str, Sequence[int]] | None = None,
    on_event: OnEvent = ignore,
) -> CompiledModule:
    """Compile a network with the best programs of a log: no search, no trial.

    Tasks without a record, and all without a log, get the schedule by rule; ``strict`` raises
    :class:`MissingRecords` instead. ``exact`` ignores records of programs that change rounding.
    ``on_event`` hears warnings. Raises :class:`InputError` for a
    model, log or target that cannot be used.
    """
    chosen = targets.parse(target, threads)
    records = read(log) if log is not None else Records()
    records = records.exact() if exact else records
    graph = plan_network(import_network(model, shapes))
    if strict:
        replay(records, graph.tunable, chosen, strict)
    # Tasks that need no search may have been tuned on request, and then have records too.
    found = replay(records, (*graph.tasks, *graph.chain_tasks), chosen)
    for warning in (*found.warnings, *_without_records(graph, found, log)):
        on_event(TuningWarning(warning))
    if (cpus := targets.available_threads()) < chosen.threads:
        on_event(TuningWarning(f"for {chosen.threads} threads; this process may use {cpus} CPUs"))
    return compile_replayed(graph, found, chosen)


def _without_records(graph: Graph, found: Replay, log: str | Path | None) -> list[str]:
    """What a log of another network, or of one that has changed, leaves untuned."""
    keys = {task.key for task in found.missing}
    untuned = sum(task.key in keys for task in graph.tunable)
    if log is None or not untuned:
        return []
    of = count_text(len(graph.tunable), "task")
    return [f"{log} has no record for {untuned} of {of}: scheduled by rule, not tuned"]


def compile_replayed(graph: Graph, found: Replay, target: Target) -> CompiledModule:
    """Build the network by its records; chains run where theirs are faster."""
    chains = faster_chains(graph.chain_tasks, found.seconds)
    return compile_graph(use_chains(graph, chains), found.steps_for, target, found.digest)


def compile_graph(
    graph: Graph, steps_for: StepsFor, target: Target, log_digest: str = ""
) -> CompiledModule:
    """Build the network; ``steps_for`` gives the closed steps of a task, ``None`` the rule's.

    Raises ``ScheduleError`` when steps do not fit their task.
    """
    kernels = build_kernels(graph, steps_for, target)
    module = _with_kernels(graph, kernels)
    called = _functions(module)
    program, weights = flatten(module["main"], {v.name_hint: k for v, k in called.items()})
    built = _build({v: k.function for v, k in called.items()}, program, target)
    calls = Counter(call.symbol.split(SLICE_MARK)[0] for call in program.calls)
    infos = {
        k.info.symbol: replace(k.info, uses=calls[k.info.symbol])
        for k in kernels.values()
        if calls[k.info.symbol]
    }
    manifest = Manifest(
        network=graph.network.name,
        inputs=graph.network.inputs,
        outputs=graph.network.outputs,
        target=target.to_json(),
        threads=target.threads,
        log_digest=log_digest,
        kernels=tuple(infos.values()),
        program=program,
        versions={"tvm": tvm.__version__},
    )
    return CompiledModule(_Built(built, weights), manifest)


def _functions(module: tvm.IRModule) -> dict[GlobalVar, Exposed]:
    """The kernels of ``module`` under their names, as their caller sees them."""
    kernels = {v: f for v, f in module.functions.items() if isinstance(f, tvm.tirx.PrimFunc)}
    return {v: exposed(f.with_attr("global_symbol", v.name_hint)) for v, f in kernels.items()}


def _build(functions: dict[GlobalVar, tvm.tirx.PrimFunc], program: Program, target: Target) -> Any:
    """The kernels and the driver that calls them, as one TVM executable."""
    calling = driver(program).with_attr({"global_symbol": DRIVER, "tirx.is_scheduled": True})
    whole = tvm.IRModule({**functions, GlobalVar(DRIVER): calling})
    return tvm.runtime.Executable(tvm.tirx.build(whole, target=target.tvm(), pipeline=PIPELINE))


@dataclass(frozen=True, slots=True)
class _Built:
    """A module in memory: an executable that can be run here or written, and its weights."""

    executable: Any
    arrays: list[NDArray[Any]]

    def code(self) -> _BuiltCode:
        return _BuiltCode(self.executable.jit())

    def weights(self) -> list[NDArray[Any]]:
        return self.arrays

    def write(self, path: Path, manifest: Manifest) -> None:
        self.executable.export_library(str(path), fcompile=shared_library_linker())
        append(path, manifest, self.arrays)


@dataclass(frozen=True, slots=True)
class _BuiltCode:
    """The functions of a module that TVM compiled into memory."""

    module: Any

    def function(self, name: str) -> Handle:
        function = self.module.get_function(name)  # stays alive until the handle shares it
        return Handle.shared(function.__chandle__())


def build_kernels(graph: Graph, steps_for: StepsFor, target: Target) -> dict[Signature, Kernel]:
    """One kernel per task, shared by every call of it, and one per opaque function."""
    functions = {task.key: graph.module[site[0]] for site, task in graph.by_signature.items()}
    by_key = {
        task.key: _task_kernel(task, f"k{index}", functions[task.key], steps_for(task), target)
        for index, task in enumerate(graph.tasks)
    }
    kernels = {site: by_key[task.key] for site, task in graph.by_signature.items()}
    for opaque in graph.opaque:
        function = graph.module[opaque.name]
        info = KernelInfo(opaque.name, opaque.name, "", source_digest(function), opaque.weight)
        kernels[(opaque.name, opaque.constants)] = Kernel(
            function, replace(info, reason=opaque.reason)
        )
    return kernels


def _task_kernel(
    task: Task,
    prefix: str,
    unscheduled: tvm.tirx.PrimFunc,
    steps: tuple[Step, ...] | None,
    target: Target,
) -> Kernel:
    """The task by the given steps, by rule, or, where no rule fits, unscheduled with the reason."""
    symbol = f"{prefix}_{re.sub(r'[^0-9a-zA-Z_]', '_', task.name.split(' ')[0])}"
    info = KernelInfo(
        symbol, task.name, task.key, "", task.weight, task.flop / 1e9, task.bytes, steps is not None
    )
    hardware = target.hardware()
    try:
        closed = steps if steps is not None else good_steps(task.dag, hardware)
        lowered = lower(task.dag, closed, hardware)
    except ScheduleError as error:
        if steps is not None:
            raise
        digest = source_digest(unscheduled)
        return Kernel(unscheduled, replace(info, source=digest, reason=str(error)))
    position = {t.name: i for i, t in enumerate(task.dag.inputs)}
    packs = {position[name]: pack for name, pack in lowered.packs.items()}
    info = replace(info, source=source_digest(lowered.func))
    return Kernel(_private(lowered.func), info, packs)


def source_digest(function: tvm.tirx.PrimFunc) -> str:
    """Digest of the TensorIR text without its name: equal kernels on every machine are equal."""
    text = _private(function).script(show_meta=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _private(function: tvm.tirx.PrimFunc) -> tvm.tirx.PrimFunc:
    if function.attrs and "global_symbol" in function.attrs:
        return function.without_attr("global_symbol")
    return function


@relax.expr_functor.mutator
class _UseKernels(relax.PyExprMutator):  # type: ignore[misc]
    """Replaces the function and the constants of every kernel call."""

    def __init__(self, module: tvm.IRModule, kernels: dict[Signature, Kernel]) -> None:
        super().__init__(module)
        self.kernels = kernels
        self.variables: dict[str, Any] = {}

    def visit_call_(self, call: Any) -> Any:
        call = self.visit_expr_post_order(call)
        if not is_kernel_call(call):
            return call
        kernel = self.kernels[signature(call)]
        args = list(call.args[1].fields)
        for position, pack in kernel.packs.items():
            args[position] = _packed(pack, args[position])
        result = call.ty_args[0]
        types = list(result.fields) if isinstance(result, relax.TupleType) else result
        return relax.call_tir(self._variable(kernel), relax.Tuple(args), types)

    def _variable(self, kernel: Kernel) -> Any:
        symbol = kernel.info.symbol
        if symbol not in self.variables:
            scheduled = kernel.function.with_attr("tirx.is_scheduled", True)
            self.variables[symbol] = self.builder_.add_func(scheduled, symbol)
        return self.variables[symbol]


def _packed(pack: Packing, constant: Any) -> Any:
    """The constant as its kernel reads it, copied once."""
    tensor = tvm.runtime.empty(pack.shape, str(constant.ty.dtype))
    pack.apply(np.from_dlpack(constant.value), np.from_dlpack(tensor))
    return relax.const(tensor)


def _with_kernels(graph: Graph, kernels: dict[Signature, Kernel]) -> tvm.IRModule:
    mutator = _UseKernels(graph.module, kernels)
    main = graph.module.get_global_var("main")
    mutator.builder_.update_func(main, mutator.visit_expr(graph.module["main"]))
    module = transform.DeadCodeElimination()(mutator.builder_.get())
    dags = {kernels[site].info.symbol: task.dag for site, task in graph.by_signature.items()}
    joins = {symbol: as_join(dag) for symbol, dag in dags.items()}
    return elide_joins(module, {s: j for s, j in joins.items() if j is not None})
