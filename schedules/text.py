"""A sketch or a candidate as readable nested loops, for people: logs, tables, golden tests.

``loop_nest_text`` is the only door. It prints what ``plan.py`` says of the structure and, for a
candidate, the extents that ``nest.py`` follows; it decides nothing. Reading it back is not a goal:
a log stores the steps themselves (``codec.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from schedules.expr import Axis, Call, Const, Expr, Read, walk
from schedules.nest import Follower
from schedules.plan import Loop, Plan, StagePlan
from schedules.sketch import Sketch
from schedules.steps import Number, Pack, Ref

ExtentText: TypeAlias = Callable[[StagePlan, Loop], str]

INDENT = "  "
UNIT = "1"

_INFIX = {
    "add": "+",
    "sub": "-",
    "mul": "*",
    "div": "/",
    "floordiv": "//",
    "floormod": "%",
    "lt": "<",
    "le": "<=",
    "gt": ">",
    "ge": ">=",
    "eq": "==",
    "ne": "!=",
    "and": "and",
    "or": "or",
}
_UPDATE = {None: "=", "sum": "+=", "prod": "*=", "max": "max=", "min": "min="}


def loop_nest_text(sketch: Sketch, row: NDArray[np.int32] | None = None) -> str:
    """The loops of ``sketch``, one line each; ``row`` (``[K]``) closes its knobs.

    Open extents are products of knob names. Closed loops of one iteration are left out; ``~``
    marks a loop whose last tile is shifted back over the one before. Raises
    :class:`schedules.errors.ScheduleError` when a step is illegal.
    """
    if row is None and sketch.knobs:
        return _Writer(sketch.plan, _open_extent).text()
    closed = np.zeros(0, dtype=np.int32) if row is None else row
    follower = Follower(sketch, closed[None, :])
    return _Writer(sketch.plan, lambda plan, loop: _closed_extent(follower, plan, loop)).text()


def _closed_extent(follower: Follower, plan: StagePlan, loop: Loop) -> str:
    sizes = [int(s[0]) for s in follower.sizes[loop.stage][loop.axis]] + [1]
    extent = int(follower.extents[loop.stage][plan.loops.index(loop)][0])
    return f"{extent}~" if sizes[loop.level] % sizes[loop.level + 1] else str(extent)


def _open_extent(plan: StagePlan, loop: Loop) -> str:
    factors = plan.factors.get(loop.axis, ())
    if loop.level:
        return _number(factors[loop.level - 1])
    whole = str(plan.stage.axis(loop.axis).extent)
    if plan.attached is not None and loop.kind == "spatial":
        whole = "region"
    inner = " * ".join(_number(f) for f in factors)
    if not factors:
        return whole
    return f"{whole} / ({inner})" if len(factors) > 1 else f"{whole} / {inner}"


def _number(number: Number) -> str:
    if isinstance(number, Ref):
        return f"{number.knob}[{number.column}]" if number.column else number.knob
    return str(number)


class _Writer:
    """Collects lines; ``extent`` says how many iterations a loop is shown with."""

    def __init__(self, plan: Plan, extent: ExtentText) -> None:
        self.plan = plan
        self.extent = extent
        self.lines: list[str] = []

    def text(self) -> str:
        for stage in self.plan.stages:
            for pack in stage.packs:
                if pack.at is None:
                    self.line(0, _pack_text(pack, "before all loops"))
        for stage in self.plan.stages:
            if stage.attached is None:
                self.stage(stage, 0)
        return "\n".join(self.lines) + "\n"

    def line(self, depth: int, text: str) -> None:
        self.lines.append(INDENT * depth + text)

    def stage(self, plan: StagePlan, depth: int) -> None:
        scope = "" if plan.scope == "global" else f" in {plan.scope}"
        kept = ""
        if plan.stored < plan.depth:
            loop = plan.chain[plan.stored - 1] if plan.stored else None
            place = "outside of all loops" if loop is None else f"in {loop.name} of {loop.stage}"
            kept = f", kept {place}"
        self.line(depth, f"# {plan.name}{scope}{kept}")
        for position, loop in enumerate(plan.loops):
            depth = self.loop(plan, loop, depth)
            self.computed_here(plan, position + 1, depth)
        self.line(depth, _statement(plan))

    def loop(self, plan: StagePlan, loop: Loop, depth: int) -> int:
        extent = self.extent(plan, loop)
        if extent == UNIT:
            return depth
        kind = plan.annotations.get(loop.name, "for" if loop.kind == "spatial" else "reduce")
        ends = [
            f" while {x.axis} < {x.row} + {x.beyond}"
            for x in plan.limits
            if (x.axis, 0) == (loop.axis, loop.level)
        ]
        self.line(depth, f"{kind} {loop.name} in {extent}{''.join(ends)}:")
        return depth + 1

    def computed_here(self, plan: StagePlan, position: int, depth: int) -> None:
        point = (plan.name, plan.loops[position - 1].name)
        for user in self.plan.stages:
            for pack in user.packs:
                if pack.at == point:
                    self.line(depth, _pack_text(pack, "here"))
        for name in self.plan.inside.get((plan.name, position), ()):
            self.stage(self.plan.by_name[name], depth)


def _pack_text(pack: Pack, where: str) -> str:
    return f"pack {pack.tensor} for {pack.stage} {where}"


def _statement(plan: StagePlan) -> str:
    stage = plan.stage
    target = ", ".join(a.name for a in stage.spatial)
    return f"{stage.name}[{target}] {_UPDATE[stage.combiner]} {_body_text(stage.body)}"


def _body_text(body: Expr) -> str:
    """The expression; of one with a piece for every value of an axis, only what it is made of."""
    axis, count = _pieces(body)
    if count < 3:
        return expression_text(body)
    reads = dict.fromkeys(node.tensor for node in walk(body) if isinstance(node, Read))
    return f"one of {count} expressions of {', '.join(reads)}, by {axis}"


def _pieces(expr: Expr) -> tuple[str, int]:
    """The axis that picks a piece, and how many there are."""
    match expr:
        case Call("select", (Call("eq", (Axis(name), Const()), _), _, rest), _):
            axis, count = _pieces(rest)
            return name, 1 + (count if axis in ("", name) else 1)
    return "", 1


def expression_text(expr: Expr, nested: bool = False) -> str:
    """An expression in infix form, without dtypes."""
    match expr:
        case Const(value, _):
            return str(value)
        case Axis(name):
            return name
        case Read(tensor, indices, _):
            return f"{tensor}[{', '.join(expression_text(i) for i in indices)}]"
        case Call("select", (condition, yes, no), _):
            parts = (expression_text(e, True) for e in (yes, condition, no))
            text = "{} if {} else {}".format(*parts)
            return f"({text})" if nested else text
        case Call("cast", (value,), dtype):
            return f"{dtype}({expression_text(value)})"
        case Call(op, args, _) if op in _INFIX:
            text = f" {_INFIX[op]} ".join(expression_text(a, True) for a in args)
            return f"({text})" if nested else text
        case Call(op, args, _):
            return f"{op}({', '.join(expression_text(a) for a in args)})"
