"""Factors that normalising removes: where ``exp(x - m)`` may be off by one factor for all of ``x``.

``exp(x - m) / sum exp(x - m)`` does not change when every exponential beside one element of ``m``
is multiplied by the same number; ``exp(x - m)`` alone, or the logarithm of the sum, does. Read
``lower/exponentials.py`` for what that freedom is worth. Separate because it is algebra over a
whole program, and knows nothing of vectors.
"""

from __future__ import annotations

from dataclasses import dataclass

from schedules.dag import ComputeDAG, Stage
from schedules.expr import Call, Const, Expr, Read, axes_in, substitute_axes


@dataclass(frozen=True, slots=True)
class _Factor:
    """What a value is multiplied by: ``f(m[at]) ** power`` for the unknown ``f``."""

    power: int = 0
    at: tuple[Expr, ...] = ()


_ONE = _Factor()


def cancelling_maxima(dag: ComputeDAG) -> frozenset[str]:
    """Maxima ``m`` for which any factor ``f(m)`` of all ``exp(x - m)`` leaves the outputs alone.

    What cannot be followed counts as changed.
    """
    maxima = (s.name for s in dag.stages if s.combiner == "max")
    return frozenset(name for name in maxima if _cancels(dag, name))


def _cancels(dag: ComputeDAG, most: str) -> bool:
    factors: dict[str, _Factor] = {}
    for stage in dag.stages:
        found = _Followed(dag, most, factors).factor(stage.body)
        if found is None or not _is_shared(stage, found):
            return False
        factors[stage.name] = found
    return all(factors[name] == _ONE for name in dag.outputs)


def _is_shared(stage: Stage, factor: _Factor) -> bool:
    """All that ``stage`` combines to one element has one factor, which the result keeps."""
    combined = {a.name for a in stage.reduce}
    used = {name for place in factor.at for name in axes_in(place)}
    return factor == _ONE or (combined.isdisjoint(used) and stage.combiner != "prod")


@dataclass(frozen=True, slots=True)
class _Followed:
    """The factors of the stages so far, and of expressions over them; ``None``: not known."""

    dag: ComputeDAG
    most: str
    factors: dict[str, _Factor]

    def factor(self, expr: Expr) -> _Factor | None:
        match expr:
            case Call("exp", (Call("sub", (x, Read(tensor, at))),)) if tensor == self.most:
                return _Factor(1, at) if self.factor(x) == _ONE else None
            case Read():
                return self.of_element(expr)
            case Call("mul", (left, right)):
                return _product(self.factor(left), self.factor(right), 1)
            case Call("div", (left, right)):
                return _product(self.factor(left), self.factor(right), -1)
            case Call("add" | "sub" | "min" | "max", args):
                return self.same(args)
            case Call("select", (condition, *sides)):
                return self.same(sides) if self.factor(condition) == _ONE else None
            case Call(_, args):
                return _ONE if all(self.factor(a) == _ONE for a in args) else None
            case _:
                return _ONE

    def of_element(self, read: Read) -> _Factor:
        known = self.factors.get(read.tensor, _ONE)
        if known == _ONE:
            return _ONE
        axes = (a.name for a in self.dag.stage(read.tensor).spatial)
        places = dict(zip(axes, read.indices, strict=True))
        at = (substitute_axes(place, places) for place in known.at)
        return _Factor(known.power, tuple(at))

    def same(self, args: tuple[Expr, ...] | list[Expr]) -> _Factor | None:
        """The factor of all ``args``; nought has every factor."""
        found = {self.factor(a) for a in args if not (isinstance(a, Const) and a.value == 0)}
        return _ONE if not found else found.pop() if len(found) == 1 else None


def _product(left: _Factor | None, right: _Factor | None, sign: int) -> _Factor | None:
    if left is None or right is None or (left.power and right.power and left.at != right.at):
        return None
    power = left.power + sign * right.power
    return _Factor(power, left.at if left.power else right.at) if power else _ONE
