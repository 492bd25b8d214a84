"""Kernels that one kernel may stand for: chains whose intermediate tensors never leave the cache.

A chain is up to three calls of ``main`` with an accumulation each, every result read by the next
call alone. Its composed program (``schedules/compose.py``) is one more task; it runs where it
measures faster than its parts (``alternatives.py``). Copies in front of a kernel that loses nothing
by reading through them are composed with it always.
"""

# imports TVM
from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import tvm
from tvm import relax

from ansor_lite.graph.places import Dags, Link, Place, composed, main_blocks, pairs
from ansor_lite.tasks import element_bytes, stage_flop
from schedules.dag import ComputeDAG, Stage
from schedules.expr import Affine
from schedules.plan import stage_accesses
from search_space.analysis import all_affine, has_anchor, has_data_reuse, is_plain_copy

MOST_LINKS = 3
# Floating-point operations that a processor at its peak does while a byte passes between the cores'
# caches and the next level.
FLOP_PER_BYTE = 4.0
# Least share of a chain's time at peak that writing and reading what it keeps inside would take
# (at 0.08, two layers of a perceptron, chains gained nothing, and every one costs trials) ...
LEAST_GAIN = 0.25
# ... and least size of it: what is smaller stays in the cache of a core anyway.
LEAST_BYTES = 1024 * 1024
# Rows of a block, about. What is read across the borders of blocks is computed twice.
BLOCK_ROWS = 16
# A copy is read through where a pixel (what lies together) has at most so many elements: vectors
# run along other axes then, and every element is loaded by itself.
FEW_CHANNELS = 4


def find_chains(module: tvm.IRModule, dags: Dags) -> tuple[Place, ...]:
    """Places of chains that can pay, in program order; none overlap."""
    return tuple(
        place for block in main_blocks(module) for run in _runs(block, dags) for place in _best(run)
    )


def find_copies(module: tvm.IRModule, dags: Dags) -> tuple[Place, ...]:
    """Places of a copy and the kernel that alone reads it, and should read through it."""
    found: dict[Any, Place | None] = {}  # one for a reader: places must not overlap
    for block in main_blocks(module):
        for copy, reader in pairs(block, dags):
            if _is_copy_of_few(copy.dag) and has_anchor(reader.dag) and reader.result not in found:
                found[reader.result] = composed((copy, reader))
    return tuple(place for place in found.values() if place is not None)


def _runs(block: relax.DataflowBlock, dags: Dags) -> list[list[Link]]:
    """Longest lists of calls of which each feeds the accumulation of the next."""
    before: dict[Any, Link] = {}
    readers: dict[Any, Link] = {}
    for link, reader in pairs(block, dags):
        if not has_anchor(link.dag) or _overlap(reader, link.result) is None:
            continue
        other = before.get(reader.result)
        if other is None or left_bytes(other.dag) < left_bytes(link.dag):
            before[reader.result], readers[reader.result] = link, reader
    after = {link.result: readers[result] for result, link in before.items()}
    starts = [link for link in before.values() if link.result not in before]
    return [_followed(start, after) for start in starts]


def _followed(link: Link, after: Mapping[Any, Link]) -> list[Link]:
    run = [link]
    while (next_one := after.get(run[-1].result)) is not None:
        run.append(next_one)
    return run


def _best(run: list[Link]) -> list[Place]:
    """The chains, one behind the other, that save most in a run."""
    # By the number of links looked at: what is saved, and the chains that save it.
    best: list[tuple[float, list[tuple[Link, ...]]]] = [(0.0, [])]
    for end in range(1, len(run) + 1):
        ways = [best[end - 1]]
        for start in range(max(0, end - MOST_LINKS), end - 1):
            links = tuple(run[start:end])
            if (gain := _gain(links)) > 0:
                saved, chains = best[start]
                ways.append((saved + gain, [*chains, links]))
        best.append(max(ways, key=lambda way: way[0]))
    return [place for links in best[-1][1] if (place := composed(links)) is not None]


def _gain(links: tuple[Link, ...]) -> float:
    """What a chain may save, in floating-point operations; 0 where it is not worth a try."""
    flops = [sum(stage_flop(stage) for stage in link.dag.stages) for link in links]
    kept = sum(left_bytes(link.dag) for link in links[:-1])
    repeated, factor = 0.0, 1.0
    for link, reader, flop in reversed(list(zip(links, links[1:], flops, strict=False))):
        factor *= 1 + (_overlap(reader, link.result) or 0.0)
        repeated += (factor - 1) * flop
    gain = 2 * FLOP_PER_BYTE * kept - repeated
    return gain if kept >= LEAST_BYTES and gain >= LEAST_GAIN * sum(flops) else 0.0


def left_bytes(dag: ComputeDAG) -> int:
    """Bytes of the first result."""
    name = dag.outputs[0]
    return prod(dag.shape_of(name)) * element_bytes(dag.dtype_of(name))


def _overlap(reader: Link, argument: Any) -> float | None:
    """Share of the argument that several blocks of rows of the reader's accumulation read.

    ``None`` where its blocks need all of it, or something else than the accumulation reads it.
    """
    if reader.arguments.count(argument) != 1:
        return None
    tensor = reader.dag.inputs[reader.arguments.index(argument)].name
    stage = _only_reader(reader.dag, tensor)
    while stage is not None and not has_data_reuse(stage):
        if stage.combiner is not None or stage.name in reader.dag.outputs:
            return None
        tensor, stage = stage.name, _only_reader(reader.dag, stage.name)
    return None if stage is None else _overlap_of_blocks(stage, tensor)


def _only_reader(dag: ComputeDAG, tensor: str) -> Stage | None:
    readers = dag.consumers[tensor]
    return dag.stage(readers[0]) if len(readers) == 1 else None


def _overlap_of_blocks(stage: Stage, tensor: str) -> float | None:
    found = [i for a in stage_accesses(stage) if a.tensor == tensor for i in a.indices]
    indices = [i for i in found if i is not None]
    extents = {axis.name: axis.extent for axis in stage.axes}
    spatial = {axis.name for axis in stage.spatial if axis.extent > 1}
    rows = spatial - {stage.spatial[-1].name}
    if len(indices) < len(found) or not any(_moving(i, rows) for i in indices):
        return None
    first = next(axis.name for axis in stage.spatial if axis.name in spatial)
    share = 0.0
    for index in indices:
        window = 1 + sum(abs(c) * (extents[n] - 1) for n, c in index.terms if n not in spatial)
        for name, stride in _moving(index, spatial):
            if name == first or extents[name] > BLOCK_ROWS:
                block = min(BLOCK_ROWS, extents[name]) * abs(stride)
                share = max(share, (window - abs(stride)) / block)
    return share


def _moving(index: Affine, axes: set[str]) -> list[tuple[str, int]]:
    return [(name, c) for name, c in index.terms if name in axes]


def _is_copy_of_few(dag: ComputeDAG) -> bool:
    """One plain copy that brings together what was apart, a few elements at a time."""
    if len(dag.stages) != 1 or len(dag.inputs) != 1:
        return False
    [stage] = dag.stages
    if not is_plain_copy(stage) or not all_affine(stage) or not stage.shape:
        return False
    return stage.shape[-1] <= FEW_CHANNELS and stage.dtype == dag.inputs[0].dtype
