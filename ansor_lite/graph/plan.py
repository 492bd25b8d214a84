"""The plan of a network: every kernel call, and the task or default lowering behind it.

Read ``passes.py`` for how the calls came about. A function called with a weight in one place and a
computed tensor in another is two tasks: constant operands may be stored packed.
"""

# imports TVM
from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

import tvm

from ansor_lite.frontend.network import Network
from ansor_lite.graph.calls import Signature, kernel_calls, signature
from ansor_lite.graph.chains import find_chains, find_copies
from ansor_lite.graph.gates import find_gates
from ansor_lite.graph.naming import chain_name, task_name, unique
from ansor_lite.graph.passes import fuse_network
from ansor_lite.graph.places import Place, merge_calls
from ansor_lite.graph.regions import find_regions
from ansor_lite.tasks import Task
from schedules.dag import ComputeDAG, canonical
from schedules.errors import UnsupportedProgram
from schedules.from_tir import from_tir
from search_space.analysis import has_anchor


@dataclass(frozen=True, slots=True)
class OpaqueKernel:
    """A function without a ComputeDAG: TVM's default lowering compiles it; ``reason`` says why."""

    name: str
    constants: tuple[int, ...]
    reason: str
    weight: int


@dataclass(frozen=True, slots=True)
class Chain:
    """A task that some tasks in a row may run as, and where."""

    task: Task
    places: tuple[Place, ...]


@dataclass(frozen=True)
class Graph:
    """A fused network. ``tasks`` are distinct, in order of first use; weights count call sites.

    The calls of ``chains`` are counted among those of ``tasks``, too: :func:`use_chains`.
    """

    network: Network
    module: tvm.IRModule
    tasks: tuple[Task, ...]
    opaque: tuple[OpaqueKernel, ...]
    by_signature: dict[Signature, Task]
    chains: tuple[Chain, ...] = ()

    @property
    def tunable(self) -> tuple[Task, ...]:
        """Tasks with an anchor; the others get a schedule by rule and cost no trials."""
        return tuple(t for t in self.tasks if has_anchor(t.dag))

    @property
    def chain_tasks(self) -> tuple[Task, ...]:
        return tuple(chain.task for chain in self.chains)


def plan_network(network: Network) -> Graph:
    """Fuse the network and extract its tasks."""
    module = fuse_network(network.module)
    dags, _ = _dags(module)
    module = merge_calls(module, find_copies(module, dags))
    dags, _ = _dags(module, dags)
    module = merge_calls(module, find_gates(module, dags))
    dags, _ = _dags(module, dags)
    module = merge_calls(module, find_regions(module, dags))
    dags, refused = _dags(module, dags)
    sites = Counter(signature(call) for call in kernel_calls(module))
    names: dict[str, str] = {}
    weights: Counter[str] = Counter()
    for site, dag in dags.items():
        if dag.key not in names:
            names[dag.key] = unique(task_name(site[0], dag), names.values())
        weights[dag.key] += sites[site]
    tasks = {d.key: Task(names[d.key], d, weights[d.key]) for d in reversed(dags.values())}
    tasks = {key: tasks[key] for key in names}
    opaque = (OpaqueKernel(*site, reason, sites[site]) for site, reason in refused.items())
    return Graph(
        # The weights as they were imported are of no more use, and large.
        replace(network, module=module),
        module,
        tuple(tasks.values()),
        tuple(opaque),
        {site: tasks[dag.key] for site, dag in dags.items()},
        _chains(find_chains(module, dags)),
    )


def _dags(
    module: tvm.IRModule, known: Mapping[Signature, ComputeDAG] | None = None
) -> tuple[dict[Signature, ComputeDAG], dict[Signature, str]]:
    """The DAG of every kernel of ``main``, or why it has none."""
    dags: dict[Signature, ComputeDAG] = {}
    refused = {}
    for site in dict.fromkeys(signature(call) for call in kernel_calls(module)):
        try:
            old = (known or {}).get(site)
            dags[site] = old if old is not None else checked_dag(module[site[0]], site[1])
        except UnsupportedProgram as error:
            refused[site] = str(error)
    return dags, refused


def _chains(places: Iterable[Place]) -> tuple[Chain, ...]:
    by_key: dict[str, list[Place]] = {}
    for place in places:
        by_key.setdefault(place.dag.key, []).append(place)
    chains: list[Chain] = []
    for same in by_key.values():
        parts = [link.dag for link in same[0].links]
        name = unique(chain_name(parts), [c.task.name for c in chains])
        task = Task(name, same[0].dag, len(same), tuple(dag.key for dag in parts))
        chains.append(Chain(task, tuple(same)))
    return tuple(chains)


def use_chains(graph: Graph, keys: Collection[str]) -> Graph:
    """``graph`` with one kernel in each place of the chains with these keys."""
    used = {c.task.key: c for c in graph.chains if c.task.key in keys}
    module = merge_calls(graph.module, [p for c in used.values() for p in c.places])
    sites = Counter(signature(call) for call in kernel_calls(module))
    dags, _ = _dags(module, {site: task.dag for site, task in graph.by_signature.items()})
    weights: Counter[str] = Counter()
    for site, dag in dags.items():
        weights[dag.key] += sites[site]
    every = {t.key: t for t in (*graph.tasks, *graph.chain_tasks)}
    tasks = {k: replace(t, weight=weights[k]) for k, t in every.items() if weights[k]}
    return replace(
        graph,
        network=replace(graph.network, module=module),
        module=module,
        tasks=tuple(tasks.values()),
        by_signature={site: tasks[dag.key] for site, dag in dags.items()},
        chains=tuple(c for c in graph.chains if c.task.key not in used),
    )


def checked_dag(function: tvm.tirx.PrimFunc, constants: tuple[int, ...]) -> ComputeDAG:
    """The DAG of a PrimFunc whose parameters are exactly its inputs, then its outputs."""
    dag = from_tir(function, constants)
    if len(dag.inputs) + len(dag.outputs) != len(function.params):
        raise UnsupportedProgram("a parameter is neither read nor written")
    return canonical(dag)
