"""Sums over chunks: the parts that they add, and what a chunk keeps for them.

Where ``schedules/chunks.py`` has cut a sum, ``streams.py`` and ``chunked_rows.py`` find it here.
Read ``along.py`` first; separate because the two share nothing else.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from schedules.dag import Stage
from schedules.expr import Axis
from schedules.hardware import Hardware
from schedules.steps import CacheWrite, ComputeAt, StoreAt
from search_space.along import Along, inside_chunks
from search_space.analysis import elementwise_map, single_consumer
from search_space.draft import Draft
from search_space.tiling import TilePair, tile_pair


@dataclass(frozen=True, slots=True)
class Parts:
    """``total`` adds the parts that ``pair`` accumulates, and one stage takes it in place.

    ``taken``: axes of ``total`` -> those of the stage that takes it. ``places``: axes of the parts
    -> those of ``total``; ``chunk`` is the one that it sums over.
    """

    total: Stage
    taken: dict[str, str]
    pair: TilePair
    places: dict[str, str]
    chunk: str

    def inside(self, draft: Draft, among: Collection[str]) -> Along:
        """The stages computed chunk by chunk: the axes that go along with axes of the parts."""
        same = {axis.name: axis.name for axis in self.pair.consume.spatial}
        start = {self.pair.consume.name: same, self.pair.accumulate.name: self.pair.axes}
        return inside_chunks(draft, start, self.chunk, among)


def summed_parts(draft: Draft, stage: Stage, hardware: Hardware) -> Iterator[Parts]:
    """The sums of parts that ``stage`` takes."""
    for name in dict.fromkeys(read.tensor for read in stage.reads()):
        total = draft.current.by_name.get(name)
        if total is None or total.combiner != "sum" or len(total.reduce) != 1:
            continue
        taken = elementwise_map(total, stage)
        if taken is not None and single_consumer(draft.current, total) is stage:
            yield from _parts_of(draft, total, taken, hardware)


def _parts_of(
    draft: Draft, total: Stage, taken: dict[str, str], hardware: Hardware
) -> Iterator[Parts]:
    for read in total.reads():
        consume = draft.current.by_name.get(read.tensor)
        pair = None if consume is None else tile_pair(draft, consume, hardware)
        if pair is None:
            continue
        axes = zip(pair.consume.spatial, read.indices, strict=True)
        places = {axis.name: index.name for axis, index in axes if isinstance(index, Axis)}
        counted = [axis for axis, name in places.items() if name == total.reduce[0].name]
        if len(counted) == 1:
            yield Parts(total, taken, pair, places, counted[0])


def kept(
    draft: Draft, stage: Stage, place: tuple[str, str], storage: tuple[str, str], inside: Along
) -> Draft:
    """``stage`` computed chunk by chunk at ``place`` and copied, all of it, for the sums.

    The loops of what is copied, ``stage.acc``, are left to decide.
    """
    draft = draft.rewrite(CacheWrite(stage.name))
    if inside.keys().isdisjoint(draft.current.consumers[stage.name]):
        axes = tuple(inside[stage.name].get(a.name, "") for a in stage.spatial)
    else:
        axes = ()  # where a reader inside asks for it
    store = StoreAt(stage.name, *storage, axes if all(axes) else ())
    return draft.loop(ComputeAt(stage.name, *place), store).place(stage.name)
