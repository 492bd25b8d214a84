"""Conditions on loops decided before the loops run: which versions of a nest there are, and when.

A *test* is ``value >= 0`` for a sum of loop offsets. Loops outside some position give the *start*
of the sum, known there; the loops inside (all unrolled) give the rest. Starts at which all tests
of a group have the same answers share a version of the code: inside a padded tensor one without any
condition, at its border one whose conditions are constants after unrolling. Read ``guards.py``
first. No TVM here: this is arithmetic on numbers.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from typing import Any

from schedules.dag import REDUCE
from schedules.expr import Axis, Call, Expr, affine, rebuild
from schedules.guards import guarded_term, restored
from schedules.lower.linear import Clamp, Linear, Positions
from schedules.lower.output_places import owned
from schedules.lower.uniform import FIRST_LANE, STRICT, vector_loop, with_uniform_conditions
from schedules.plan import Loop, StagePlan

# A start may depend on many loops; what has more values than this is tested where it stands.
MOST_STARTS = 4096
# Unrolled statements of all versions together: beyond, the border has one version, with tests.
MOST_STATEMENTS = 2048


@dataclass(frozen=True, slots=True)
class Test:
    """``sign * start + inner >= 0``; ``inner`` has the constant."""

    sign: int
    inner: Linear


@dataclass(frozen=True, slots=True)
class Version:
    """Code for starts in ``low .. high``, with the ``tests`` that not all statements pass.

    They are decided for the constant ``start``, or for the running one if that is ``None``.
    """

    low: int
    high: int
    tests: tuple[Test, ...]
    start: int | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """Tests with one ``start``, decided right outside own loop ``position`` of the stage.

    The first version that has a start applies, and none needs no code. ``lowest`` and ``highest``
    bound the possible starts; ``covered``: every possible start has a version.
    """

    position: int
    start: Linear
    tests: tuple[Test, ...]
    versions: tuple[Version, ...]
    lowest: int
    highest: int
    covered: bool


@dataclass(frozen=True, slots=True)
class VersionedBody:
    """The body of a stage without the conditions that ``groups`` decide."""

    body: Expr
    groups: tuple[Group, ...]


def versioned_body(
    stage: StagePlan, positions: Positions, output: tuple[int, ...] | None = None
) -> VersionedBody:
    """The body of ``stage`` and the versions of it; what is no test stays a condition.

    ``output``: the shape of the tensor that it writes, if that is an output.
    """
    body = with_uniform_conditions(stage, positions)
    combiner = stage.stage.combiner
    if combiner is None:
        tests = owned(stage, positions, output) if output is not None else []
        return VersionedBody(body, tuple(groups(stage, positions, tests)))
    term = guarded_term(combiner, body)
    found = [(c, as_test(stage, positions, c)) for c in term.conditions]
    others = tuple(c for c, test in found if test is None)
    values = [test for _, test in found if test is not None]
    left = restored(combiner, others, term.body)
    return VersionedBody(left, tuple(groups(stage, positions, values)))


def within(group: Group, version: Version, start: Any) -> list[Any]:
    """The conditions that pick ``version``, for a running ``start``."""
    bounds = []
    if version.low > group.lowest:
        bounds.append(start >= version.low)
    if version.high < group.highest:
        bounds.append(start <= version.high)
    return bounds


def as_test(stage: StagePlan, positions: Positions, condition: Expr) -> Linear | None:
    """``value`` of the test ``value >= 0`` that is ``condition``, or ``None`` if it is no test."""
    if not isinstance(condition, Call) or condition.op not in STRICT:
        return None
    sides = [_linear(stage, positions, side) for side in condition.args]
    left, right = sides
    if left is None or right is None:
        return None
    difference = left.plus(right, -1)
    if condition.op in ("lt", "le"):
        difference = Linear((), 0).plus(difference, -1)
    strict = condition.op in ("lt", "gt")
    result = difference.plus(Linear((), -1)) if strict else difference
    if any(isinstance(atom, Clamp) for atom, _ in result.terms):
        return None
    return None if vector_loop(stage, positions) in dict(result.terms) else result


def _linear(stage: StagePlan, positions: Positions, side: Expr) -> Linear | None:
    first_lane: set[str] = set()

    def plain(node: Expr) -> Expr | None:
        if isinstance(node, Axis) and node.name.startswith(FIRST_LANE):
            first_lane.add(node.name.removeprefix(FIRST_LANE))
            return Axis(node.name.removeprefix(FIRST_LANE))
        return None

    index = affine(rebuild(side, plain))
    if index is None:
        return None
    linear = positions.index(stage, index)
    lane = vector_loop(stage, positions) if first_lane else None
    return Linear(tuple(t for t in linear.terms if t[0] != lane), linear.constant)


def groups(stage: StagePlan, positions: Positions, values: list[Linear]) -> list[Group]:
    """The tests ``value >= 0`` of a stage by what they start from, in order of position."""
    found: dict[tuple[int, Linear], list[Test]] = {}
    for value in values:
        position = _position(stage, value)
        inside = set(stage.loops[position:])
        outer = tuple(sorted((t for t in value.terms if t[0] not in inside), key=str))
        sign = -1 if outer and outer[0][1] < 0 else 1
        start = Linear(tuple((atom, sign * c) for atom, c in outer), 0)
        tests = found.setdefault((position, start), [])
        tests.append(Test(sign, value.plus(start, -sign)))
    made = [_group(positions, p, start, tests) for (p, start), tests in found.items()]
    return sorted(_limited(stage, positions, made), key=lambda group: group.position)


def _position(stage: StagePlan, value: Linear) -> int:
    """The outermost place inside every loop of the value that is not unrolled, nor a vector.

    Outside a reduction; else right outside the statements, as other stages may be computed before.
    """
    kinds = [loop.kind for loop in stage.loops]
    atoms = dict(value.terms)
    written_out = [stage.annotations.get(x.name) in ("unroll", "vectorize") for x in stage.loops]
    inside = next((n for n, flat in enumerate(reversed(written_out)) if not flat), len(kinds))
    position = kinds.index(REDUCE) if REDUCE in kinds else len(kinds) - inside
    for p, loop in enumerate(stage.loops):
        if loop in atoms and not written_out[p]:
            position = max(position, p + 1)
    return position


def _group(positions: Positions, position: int, start: Linear, tests: list[Test]) -> Group:
    starts = sorted(_values(positions, start))
    inner = [sorted(_values(positions, t.inner)) for t in tests]
    if not starts or not all(inner):
        return Group(position, start, tuple(tests), (Version(0, 0, tuple(tests)),), 0, 0, True)
    versions: dict[tuple[int, ...], Version] = {}
    covered = True
    for s in starts:
        # How many of the inner values fail each test: equal numbers are equal answers.
        failing = tuple(
            bisect_left(each, -t.sign * s) for t, each in zip(tests, inner, strict=True)
        )
        if any(count == len(each) for count, each in zip(failing, inner, strict=True)):
            covered = False
        elif failing in versions:
            versions[failing] = replace(versions[failing], high=s)
        else:
            open_tests = tuple(t for t, count in zip(tests, failing, strict=True) if count)
            versions[failing] = Version(s, s, open_tests, s)
    ordered = tuple(sorted(versions.values(), key=lambda v: (bool(v.tests), v.low)))
    return Group(position, start, tuple(tests), ordered, starts[0], starts[-1], covered)


def _values(positions: Positions, linear: Linear) -> set[int]:
    """Every value of a sum of loop offsets; empty when there are too many to look at."""
    found = {linear.constant}
    for atom, coefficient in linear.terms:
        assert isinstance(atom, Loop)
        offsets = {coefficient * positions.offset(atom, v) for v in range(positions.extent(atom))}
        if len(found) * len(offsets) > MOST_STARTS:
            return set()
        found = {a + b for a, b in product(found, offsets)}
    return found


def _limited(stage: StagePlan, positions: Positions, made: list[Group]) -> list[Group]:
    """One tested version instead of several in the groups that would repeat too much code."""
    unrolled = prod(
        positions.extent(x) for x in stage.loops if stage.annotations.get(x.name) == "unroll"
    )
    while made and unrolled * prod(len(g.versions) for g in made) > MOST_STATEMENTS:
        largest = max(made, key=lambda group: len(group.versions))
        merged = _merged(largest)
        if len(merged.versions) == len(largest.versions):
            break
        made = [merged if group is largest else group for group in made]
    return made


def _merged(group: Group) -> Group:
    kept = tuple(v for v in group.versions if not v.tests)
    tested = Version(group.lowest, group.highest, group.tests)
    return replace(group, versions=(*kept, tested), covered=True)
