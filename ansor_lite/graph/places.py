"""Places of ``main`` where one call may stand for several, and putting it there.

A place is what rules find: ``chains.py``, ``gates.py`` and ``regions.py`` say where one pays.
Separate, because all of them compose the programs of the calls in the same way.
"""

# imports TVM
from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import tvm
from tvm import relax

from ansor_lite.graph.calls import (
    NewCall,
    Signature,
    is_kernel_call,
    replace_calls,
    signature,
)
from schedules.compose import Part, compose
from schedules.dag import ComputeDAG
from schedules.errors import UnsupportedProgram
from schedules.to_tir import to_tir

Dags: TypeAlias = Mapping[Signature, ComputeDAG]


@dataclass(frozen=True, slots=True)
class Link:
    """A binding of ``main`` that has a DAG: a call, one of a call's results, or a view.

    ``result``: the variable bound; ``name``: of the function called, nothing for a view.
    """

    result: Any
    arguments: tuple[Any, ...]
    dag: ComputeDAG
    name: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """Bindings that one call of ``dag`` may stand for, with these arguments; the last of them has
    its result. ``name``: of its function."""

    links: tuple[Link, ...]
    dag: ComputeDAG
    arguments: tuple[Any, ...]
    name: str


def merge_calls(module: tvm.IRModule, places: Iterable[Place]) -> tvm.IRModule:
    """The module with one call at each place."""
    places = tuple(places)
    changed = {p.links[-1].result: NewCall(p.name, to_tir(p.dag), p.arguments) for p in places}
    gone = {link.result for place in places for link in place.links[:-1]}
    return replace_calls(module, changed, gone) if places else module


def main_blocks(module: tvm.IRModule) -> list[relax.DataflowBlock]:
    return [b for b in module["main"].body.blocks if isinstance(b, relax.DataflowBlock)]


def link_of(result: Any, call: Any, dag: ComputeDAG) -> Link:
    """``result`` bound to a kernel call, of which ``dag`` says what it computes."""
    return Link(result, tuple(call.args[1].fields), dag, call.args[0].name_hint)


def pairs(block: relax.DataflowBlock, dags: Dags) -> Iterator[tuple[Link, Link]]:
    """Calls whose only result is read by another call of a kernel, and by nothing else."""
    links = {
        b.var: link_of(b.var, b.value, dags[signature(b.value)])
        for b in block.bindings
        if is_kernel_call(b.value) and signature(b.value) in dags
    }
    readers: dict[Any, list[Any]] = {}
    for binding in block.bindings:
        for variable in set(relax.analysis.free_vars(binding.value)):
            readers.setdefault(variable, []).append(binding.var)
    for variable, link in links.items():
        inside = isinstance(variable, relax.DataflowVar)
        reading = readers.get(variable, [])
        single = len(link.dag.outputs) == 1
        if inside and single and len(reading) == 1 and reading[0] in links:
            yield link, links[reading[0]]


def function_name(links: Iterable[Link]) -> str:
    """Of one function that does what all of these do."""
    return "_".join(link.name.removeprefix("fused_") for link in links)


def parts_of(links: Sequence[Link]) -> tuple[list[Part], dict[str, Any]]:
    """The links as parts of one program, and what the names of their arguments stand for."""
    values: dict[str, Any] = {}
    names: dict[Any, str] = {}
    parts = []
    for number, link in enumerate(links):
        arguments = []
        for position, argument in enumerate(link.arguments):
            # Constants have no name of their own, variables one for all who read them.
            name = f"constant {number} {position}"
            if isinstance(argument, relax.Var):
                name = names.setdefault(argument, f"variable {len(names)}")
            values[name] = argument
            arguments.append(name)
        result = names.setdefault(link.result, f"variable {len(names)}")
        parts.append(Part(link.dag, tuple(arguments), result))
    return parts, values


def composed(links: tuple[Link, ...]) -> Place | None:
    """The links as one program, or ``None`` where there is none."""
    parts, values = parts_of(links)
    try:
        whole = compose(parts)
    except UnsupportedProgram:
        return None
    arguments = tuple(values[name] for name in whole.arguments)
    return Place(links, whole.dag, arguments, function_name(links))
