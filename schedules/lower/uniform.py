"""Conditions that are the same for a whole vector, freed of the lane.

A condition that mentions the lane turns a vector into scalars. ``256 <= 32 * i + 16 * j + lane``
with 16 lanes does not depend on the lane: everything else moves in steps of 16. Separate because
this is arithmetic on conditions, not code.
"""

from __future__ import annotations

from schedules.expr import Affine, Axis, Call, Const, Expr, affine, rebuild
from schedules.lower.linear import Clamp, Linear, Positions
from schedules.plan import Loop, StagePlan

FIRST_LANE = "~"  # prefix of an axis name: its value in lane 0


def vector_loop(stage: StagePlan, positions: Positions) -> Loop | None:
    """The vectorised loop of a stage, if it has more than one iteration."""
    for loop in stage.loops:
        if stage.annotations.get(loop.name) == "vectorize" and positions.extent(loop) > 1:
            return loop
    return None


def with_uniform_conditions(stage: StagePlan, positions: Positions) -> Expr:
    """The body of ``stage``, with the lane dropped from the comparisons that it cannot change."""
    loop = vector_loop(stage, positions)
    if loop is None:
        return stage.stage.body
    lanes = positions.extent(loop)

    def without_groups(node: Expr) -> Expr | None:
        match node:
            case Call("floormod", (place, Const(int(size)))) if size % lanes == 0:
                index = affine(place)
                if index is not None and _begins_a_vector(
                    _linear(stage, positions, index), loop, lanes, positions
                ):
                    return place
        return None

    def change(node: Expr) -> Expr | None:
        if not isinstance(node, Call) or node.op not in STRICT:
            return None
        left, right = (affine(rebuild(a, without_groups)) for a in node.args)
        if left is None or right is None:
            return None
        difference = _linear(stage, positions, left).plus(_linear(stage, positions, right), -1)
        if not _is_uniform(difference, loop, lanes, STRICT[node.op], positions):
            return None
        return Call(node.op, tuple(_in_first_lane(a, loop.axis) for a in node.args), node.dtype)

    return rebuild(stage.stage.body, change)


# op -> offset that makes it ``difference < 0`` or its negation: ``a <= b`` is ``a - b - 1 < 0``.
STRICT: dict[str, int] = {"lt": 0, "ge": 0, "le": -1, "gt": -1}


def _linear(stage: StagePlan, positions: Positions, index: Affine) -> Linear:
    return positions.index(stage, index)


def _is_uniform(
    difference: Linear, loop: Loop, lanes: int, offset: int, positions: Positions
) -> bool:
    terms = dict(difference.terms)
    direction = terms.pop(loop, 0)
    if direction == 0:
        return False
    constant = difference.constant + offset
    if direction == -1:
        # ``c - lane < 0`` is ``not (lane - c <= 0)``, that is ``not (lane - c - 1 < 0)``.
        constant = -constant - 1
    elif direction != 1:
        return False
    return constant % lanes == 0 and all(
        not isinstance(atom, Clamp) and _moves_in_steps(atom, c, lanes, positions)
        for atom, c in terms.items()
    )


def _begins_a_vector(index: Linear, loop: Loop, lanes: int, positions: Positions) -> bool:
    """Whether ``index`` is a multiple of ``lanes`` in lane 0 and moves with the lane.

    Within groups of so many elements it then differs by a multiple of ``lanes``.
    """
    return dict(index.terms).get(loop) == 1 and _is_uniform(index, loop, lanes, 0, positions)


def _moves_in_steps(loop: Loop, coefficient: int, lanes: int, positions: Positions) -> bool:
    outer, inner = positions.sizes(loop)
    shifted = outer - inner if outer % inner else 0
    return coefficient * inner % lanes == 0 and coefficient * shifted % lanes == 0


def _in_first_lane(expr: Expr, axis: str) -> Expr:
    def change(node: Expr) -> Expr | None:
        return Axis(FIRST_LANE + axis) if node == Axis(axis) else None

    return rebuild(expr, change)
