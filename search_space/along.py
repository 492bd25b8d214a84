"""Axes that go along with each other: what one part of a stage needs of others, and leaves them.

Where a block of rows or a chunk of summands is computed at a time, an axis of every stage inside
counts them. ``axes_read`` and ``axes_reading`` follow such axes from readers to what they read,
and back; ``inside_blocks`` and ``inside_chunks`` collect all that is computed together. Read
``analysis.py`` first; separate because several arrangements of loops ask the same.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TypeAlias

from schedules.dag import ComputeDAG, Stage
from schedules.expr import Axis, Read
from search_space.draft import Draft

# Of every stage: its axes, and the axis of one of the stages that each goes along with.
Along: TypeAlias = dict[str, dict[str, str]]


def axes_read(dag: ComputeDAG, stage: Stage, known: Along) -> dict[str, str]:
    """The axes of ``stage`` that go along with those at which all readers in ``known`` read it."""
    found = []
    for reader in dag.consumers[stage.name]:
        for read in dag.stage(reader).reads() if reader in known else ():
            if read.tensor == stage.name:
                axes = known[reader]
                found.append({(own, axes[at]) for own, at in _plain(stage, read) if at in axes})
    return _agreed(found)


def axes_reading(dag: ComputeDAG, stage: Stage, known: Along) -> dict[str, str]:
    """The axes of ``stage`` that go along with those at which it reads stages, all in ``known``."""
    spatial = {a.name for a in stage.spatial}
    found = []
    for read in stage.reads():
        source = dag.by_name.get(read.tensor)
        if source is None:
            continue
        axes = known.get(source.name, {})
        at = [(own, name) for name, own in _plain(source, read) if own in spatial]
        found.append({(own, axes[name]) for own, name in at if name in axes})
    return _agreed(found)


def _plain(source: Stage, read: Read) -> list[tuple[str, str]]:
    """Axes of ``source``, and those of its reader that stand there alone and nowhere else."""
    names = [index.name if isinstance(index, Axis) else "" for index in read.indices]
    places = zip(source.spatial, names, strict=True)
    return [(axis.name, name) for axis, name in places if name and names.count(name) == 1]


def _agreed(found: list[set[tuple[str, str]]]) -> dict[str, str]:
    """What all reads say."""
    return dict(set.intersection(*found)) if found else {}


def inside_blocks(draft: Draft, rows: dict[str, str]) -> dict[str, str]:
    """``rows``, an axis of each stage, with all that only those inside need, row by row."""
    row = "row"
    known = {name: {axis: row} for name, axis in rows.items()}
    for stage in draft.pending:
        readers = draft.current.consumers[stage.name]
        if stage.name in known or stage.name in draft.current.outputs:
            continue
        axes = axes_read(draft.current, stage, known)
        if set(readers) <= known.keys() and axes:
            known[stage.name] = axes
    return {name: axis for name, axes in known.items() for axis in axes}


def inside_chunks(draft: Draft, known: Along, chunk: str, among: Collection[str]) -> Along:
    """``known`` with those of ``among`` of which one ``chunk`` needs or leaves no more than itself.

    A stage that a chunk leaves may be read outside as well, behind all chunks.
    """
    inside, size = dict(known), 0
    while size < len(inside):
        size = len(inside)
        for stage in draft.pending:
            if stage.name not in among or stage.name in inside:
                continue
            for axes in (axes_read, axes_reading):
                found = axes(draft.current, stage, inside)
                if chunk in found.values() and stage.name not in inside:
                    inside[stage.name] = found
    return inside
