"""Chains of reshapes and transpositions as one: reshape, transpose, reshape at most.

A movement follows the pieces of the source's dimensions ("atoms") into the result. Chains that undo
each other leave nothing, or a view. Plain numbers; ``simplify.py`` applies it to Relax expressions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd, prod

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Movement:
    """``atoms``: extents that the source splits into, in order; ``order``: theirs in the result.

    ``shape`` is that of the result, whose dimensions are runs of atoms. Units are no atoms.
    """

    atoms: Shape
    order: Shape
    shape: Shape

    @property
    def is_view(self) -> bool:
        return self.order == tuple(range(len(self.order)))

    def reshaped(self, shape: Shape) -> Movement | None:
        """Followed by a reshape; ``None`` where it cuts across the order of elements."""
        pieces = _common([self.atoms[a] for a in self.order], [e for e in shape if e != 1])
        if pieces is None:
            return None
        split = dict(zip(self.order, pieces, strict=True))
        atoms = tuple(e for a in range(len(self.atoms)) for e in split[a])
        starts = [sum(len(split[b]) for b in range(a)) for a in range(len(self.atoms))]
        order = tuple(starts[a] + i for a in self.order for i in range(len(split[a])))
        return Movement(atoms, order, shape)

    def transposed(self, axes: Sequence[int]) -> Movement:
        """Followed by a transposition."""
        runs = self._runs()
        order = tuple(a for axis in axes for a in runs[axis])
        return Movement(self.atoms, order, tuple(self.shape[a] for a in axes))

    def joined(self) -> Movement:
        """With as few atoms as there can be: neighbours that stay neighbours are one.

        An atom may then reach over several dimensions of ``shape``.
        """
        runs: list[list[int]] = []
        for atom in self.order:
            if runs and runs[-1][-1] + 1 == atom:
                runs[-1].append(atom)
            else:
                runs.append([atom])
        by_source = sorted(runs)
        atoms = tuple(prod(self.atoms[a] for a in run) for run in by_source)
        return Movement(atoms, tuple(by_source.index(run) for run in runs), self.shape)

    def axes(self, source: Shape) -> Shape | None:
        """The transposition of ``source``'s own dimensions that it is, if it is one."""
        before, after = stay(source).reshaped_like(self)._runs(), self._runs()
        if sorted(before) != sorted(after):
            return None
        units = iter([a for a, run in enumerate(before) if not run])
        return tuple(before.index(run) if run else next(units) for run in after)

    def reshaped_like(self, other: Movement) -> Movement:
        """The same with the atoms of ``other``, of whose atoms these are products."""
        return Movement(other.atoms, tuple(range(len(other.atoms))), self.shape)

    def _runs(self) -> list[Shape]:
        left = list(self.order)
        runs: list[Shape] = []
        for extent in self.shape:
            run: Shape = ()
            while prod(self.atoms[a] for a in run) < extent:
                run += (left.pop(0),)
            runs.append(run)
        return runs


def stay(shape: Shape) -> Movement:
    """The movement that does nothing."""
    atoms = tuple(e for e in shape if e != 1)
    return Movement(atoms, tuple(range(len(atoms))), shape)


def _common(before: Sequence[int], after: Sequence[int]) -> list[Shape] | None:
    """How each extent of ``before`` splits so that runs of the pieces make up ``after``."""
    wanted = list(after)
    pieces = []
    for extent in before:
        split: Shape = ()
        while extent > 1:
            if not wanted:
                return None
            piece = gcd(extent, wanted[0])
            if piece not in (extent, wanted[0]):
                return None
            # Inner pieces vary fastest: what is left of either side continues with the next piece.
            split += (piece,)
            extent, wanted[0] = extent // piece, wanted[0] // piece
            if wanted[0] == 1:
                wanted.pop(0)
        pieces.append(split)
    return pieces
