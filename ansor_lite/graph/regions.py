"""Kernels that are one task: two accumulations and the normalisation of rows between them.

Read ``places.py`` and ``schedules/merge_copies.py`` first. What the first accumulation leaves
would go to memory and back several times, so one kernel always replaces the parts: everything
between the two, and the copies and views around them. No operator is named: a region is found on
what its calls compute.
"""

# imports TVM
from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

import tvm
from tvm import relax

from ansor_lite.graph.calls import is_kernel_call, signature
from ansor_lite.graph.expressions import RESHAPE, constant, operator, shape_of
from ansor_lite.graph.places import (
    Dags,
    Link,
    Place,
    function_name,
    link_of,
    main_blocks,
    parts_of,
)
from schedules.compose import compose
from schedules.dag import ComputeDAG, Stage, canonical, without_unread
from schedules.errors import UnsupportedProgram
from schedules.expr import Axis, Call, Const, Read, walk
from schedules.known_values import with_values
from schedules.merge_copies import own_operands, without_copies
from schedules.plain_scalars import with_plain_scalars
from schedules.split_axes import reshape_dag
from search_space.analysis import all_affine, axes_of, has_anchor, has_data_reuse


def find_regions(module: tvm.IRModule, dags: Dags) -> tuple[Place, ...]:
    """Regions in program order; none overlap."""
    return tuple(region for block in main_blocks(module) for region in _Flow(block, dags).regions())


class _Flow:
    """A block of ``main`` as a graph of nodes; ``readers``: variable -> variables bound to what
    reads it."""

    def __init__(self, block: relax.DataflowBlock, dags: Dags) -> None:
        self.nodes = {node.result: node for node in _nodes(block, dags)}
        self.position = {variable: i for i, variable in enumerate(self.nodes)}
        self.readers: dict[Any, set[Any]] = {}
        for binding in block.bindings:
            node = self.nodes.get(binding.var)
            read = node.arguments if node else relax.analysis.free_vars(binding.value)
            for variable in read:
                self.readers.setdefault(variable, set()).add(binding.var)
        items = {b.value.tuple_value for b in block.bindings if _is_item(b.value)}
        for binding in block.bindings:
            # Who reads one result of a call reads what the call does; nobody else reads its tuple.
            if binding.var in items and not self.readers.get(binding.var):
                for variable in relax.analysis.free_vars(binding.value):
                    self.readers[variable].discard(binding.var)

    def regions(self) -> Iterator[Place]:
        taken: set[Any] = set()
        for last in self.nodes.values():
            if not has_anchor(last.dag):
                continue
            for first in self._before(last):
                found = self._region(first, last)
                if found is not None and not taken & {n.result for n in found.links}:
                    taken |= {n.result for n in found.links}
                    yield found
                    break

    def _before(self, last: Link) -> list[Link]:
        """Accumulations whose results reach ``last`` through none other."""
        return [n for n in self._ancestors(last) if has_anchor(n.dag)]

    def _ancestors(self, last: Link) -> list[Link]:
        found: dict[Any, Link] = {}
        left = [last]
        while left:
            for argument in left.pop().arguments:
                node = self.nodes.get(argument) if isinstance(argument, relax.Var) else None
                if node is not None and argument not in found:
                    found[argument] = node
                    if not has_anchor(node.dag):
                        left.append(node)
        return list(found.values())

    def _region(self, first: Link, last: Link) -> Place | None:
        reached = {first.result}
        for node in sorted(self._ancestors(last), key=self._order):
            if not has_anchor(node.dag) and reached & set(_variables(node)):
                reached.add(node.result)
        between = [self.nodes[variable] for variable in reached]
        inside = {*reached, last.result}
        reduces = any(_is_row_reduction(s) for n in (*between, last) for s in n.dag.stages)
        if not reduces or not all(self._is_read_only_in(n, inside) for n in between):
            return None
        behind = inside | {node.result for node in self._behind(last)}
        ways = (self._with_copies(behind), self._with_copies(inside), inside)
        found = [_composed(sorted((self.nodes[v] for v in way), key=self._order)) for way in ways]
        return _least_moved(found)

    def _order(self, node: Link) -> int:
        return self.position[node.result]

    def _is_read_only_in(self, node: Link, inside: Collection[Any]) -> bool:
        read = self.readers.get(node.result, set())
        return isinstance(node.result, relax.DataflowVar) and read <= set(inside)

    def _behind(self, last: Link) -> list[Link]:
        """Copies of the result, and the views before them, up to where something else reads it."""
        found: list[Link] = []
        views: list[Link] = []
        node = last
        while (reader := self._only_reader(node)) is not None and _is_moving(reader):
            node = reader
            views.append(node)
            if node.name:
                found, views = found + views, []
        return found

    def _only_reader(self, node: Link) -> Link | None:
        readers = self.readers.get(node.result, set())
        inside = isinstance(node.result, relax.DataflowVar) and len(readers) == 1
        return self.nodes.get(next(iter(readers))) if inside else None

    def _with_copies(self, inside: Collection[Any]) -> set[Any]:
        """``inside``, and the copies, views and scalings that only it reads."""
        found = set(inside)
        for node in reversed(self.nodes.values()):
            read = self.readers.get(node.result)
            if read and _is_moving(node) and self._is_read_only_in(node, found):
                found.add(node.result)
        for node in self.nodes.values():
            # A view of what stays outside may stay there, too.
            outer = not node.name and node.result in found and node.arguments[0] not in found
            if outer and node.result not in inside:
                found.discard(node.result)
        return found


def _nodes(block: relax.DataflowBlock, dags: Dags) -> Iterator[Link]:
    calls: dict[Any, Any] = {}
    for binding in block.bindings:
        value = binding.value
        if operator(value) == RESHAPE and isinstance(value.args[0], relax.Var):
            source = value.args[0]
            view = reshape_dag(shape_of(source), shape_of(binding.var), str(source.ty.dtype))
            yield Link(binding.var, (source,), view)
        elif is_kernel_call(value) and signature(value) in dags:
            calls[binding.var] = value
            dag = dags[signature(value)]
            if len(dag.outputs) == 1:
                yield _with_numbers(link_of(binding.var, value, dag))
        elif _is_item(value) and value.tuple_value in calls:
            call = calls[value.tuple_value]
            dag = dags[signature(call)]
            dag = without_unread(replace(dag, outputs=(dag.outputs[value.index],)))
            yield _with_numbers(link_of(binding.var, call, dag))


def _with_numbers(link: Link) -> Link:
    """The link with operands of one constant element as parts of its program."""
    arrays = {t.name: constant(a) for t, a in zip(link.dag.inputs, link.arguments, strict=True)}
    numbers = {name: a for name, a in arrays.items() if a is not None and a.size == 1}
    return replace(link, dag=with_values(link.dag, numbers))


def _is_item(value: Any) -> bool:
    return isinstance(value, relax.TupleGetItem)


def _variables(node: Link) -> list[Any]:
    return [a for a in node.arguments if isinstance(a, relax.Var)]


def _is_moving(node: Link) -> bool:
    """It is a view, or one tensor copied or scaled, read where only axes say."""
    if not node.name:
        return True
    stages = node.dag.stages
    moves = all((_is_copy(s) or _is_scaling(s)) and not _depends_on_data(s) for s in stages)
    return moves and len(set(_variables(node))) == 1


def _depends_on_data(stage: Stage) -> bool:
    """Something is read where something else says."""
    return any(isinstance(e, Read) for r in stage.reads() for i in r.indices for e in walk(i))


def _is_copy(stage: Stage) -> bool:
    return stage.combiner is None and isinstance(stage.body, Read)


def _is_scaling(stage: Stage) -> bool:
    match stage.body:
        case Call("mul", (Read(), Const()), _) | Call("mul", (Const(), Read()), _):
            return stage.combiner is None
        case _:
            return False


def _is_row_reduction(stage: Stage) -> bool:
    return stage.combiner is not None and not has_data_reuse(stage)


# ------------------------------------------------------------------ nodes -> one program


def _least_moved(regions: Sequence[Place | None]) -> Place | None:
    """The first that cuts no rows, columns or summands which the last one, without copies, has."""
    core = regions[-1]
    wanted = Counter[int]() if core is None else _inner_extents(core.dag)
    found = (r for r in regions if r is not None and wanted <= _inner_extents(r.dag))
    return next(found, None)


def _inner_extents(dag: ComputeDAG) -> Counter[int]:
    """Extents of accumulations along which not all operands move, or that are summed over."""
    found: Counter[int] = Counter()
    for stage in dag.stages:
        if has_data_reuse(stage):
            moving = [axes_of(read) for read in stage.reads()]
            found.update(
                axis.extent
                for axis in stage.axes
                if axis in stage.reduce or any(axis.name not in axes for axes in moving)
            )
    return found


def _composed(nodes: Sequence[Link]) -> Place | None:
    """The nodes as one program, or ``None`` where they are no region or cannot be one."""
    parts, values = parts_of(nodes)
    try:
        whole = compose(parts)
        dag = without_copies(whole.dag)
    except UnsupportedProgram:
        return None
    named = dict(zip((t.name for t in whole.dag.inputs), whole.arguments, strict=True))
    arrays = {t.name: constant(values[named[t.name]]) for t in dag.inputs}
    known = {t.name: arrays[t.name].reshape(t.shape) for t in dag.inputs if t.constant}
    dag = without_unread(with_values(with_plain_scalars(dag), known))
    if not is_normalised_product(dag):
        return None
    dag, tensors = own_operands(dag)
    before = dict(zip((t.name for t in dag.inputs), tensors, strict=True))
    # In the order in which they are read: equal programs are equal tasks.
    read = dict.fromkeys(read.tensor for stage in dag.stages for read in stage.reads())
    used = [name for name in read if name in before]
    dag = replace(dag, inputs=tuple(dag.input_by_name[name] for name in used))
    arguments = tuple(values[named[before[name]]] for name in used)
    name = function_name(node for node in nodes if not _is_moving(node))
    return Place(tuple(nodes), canonical(dag), arguments, name)


def is_normalised_product(dag: ComputeDAG) -> bool:
    """An accumulation sums over an axis of what another one left, rows normalised in between.

    Rows are normalised where a reduction without data reuse runs over the same axis. Products with
    constants are none of this: what is between them is narrow, and their constants stored packed.
    """
    if not all(map(all_affine, dag.stages)):
        return False
    anchors = [stage for stage in dag.stages if has_data_reuse(stage)]
    constants = {tensor.name for tensor in dag.inputs if tensor.constant}
    if len(anchors) != 2 or any(r.tensor in constants for s in anchors for r in s.reads()):
        return False
    return any(_normalises(dag, anchors[0], n) for n in range(len(anchors[0].shape)))


def _normalises(dag: ComputeDAG, first: Stage, dimension: int) -> bool:
    """Whether rows are reduced, and then an accumulation sums, over a dimension of ``first``."""
    followed = {first.name: dimension}
    reduced = False
    for stage in dag.stages:
        spatial = [axis.name for axis in stage.spatial]
        for read in stage.reads():
            index = read.indices[followed[read.tensor]] if read.tensor in followed else None
            if not isinstance(index, Axis):
                continue
            if index.name in spatial:
                followed[stage.name] = spatial.index(index.name)
            elif has_data_reuse(stage):
                return reduced
            else:
                reduced = True
    return False
