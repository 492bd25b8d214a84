"""Rows whose stages run in one loop, one row apart: which stage runs how many rows behind.

``m[i] = max_j x[i, j]; e[i, j] = exp(x[i, j] - m[i]); s[i] = sum_j e[i, j]; y[i, j] = e[i, j] /
s[i]`` walks along every row three times, and each walk waits for what the one before has found out.
One walk that divides row ``i - 2``, exponentiates row ``i - 1`` and looks for the maximum of row
``i`` keeps all units of a processor busy; in compilers this is loop skewing and fusion. Read
``nest.py`` first; it counts rows one after the other: as much work, at other times. Separate
because the search asks this too, before there is code.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from schedules.dag import REDUCE
from schedules.errors import ScheduleError
from schedules.expr import Axis, Call, Expr, walk
from schedules.nest import Follower
from schedules.plan import Access, Loop, Plan, StagePlan

SKEW = "skew"


@dataclass(frozen=True, slots=True)
class Member:
    """A stage in the rows; ``walk``: its loop along the row (own position), -1 for what is short.

    What is short is computed when the walks along the row have ended.
    """

    stage: StagePlan
    phase: int
    walk: int


@dataclass(frozen=True, slots=True)
class SkewedRows:
    """Members in the order of one row; ``phase`` counts the rows that they are behind the first."""

    members: tuple[Member, ...]
    steps: int  # iterations of every walk

    @property
    def phases(self) -> int:
        return 1 + max(member.phase for member in self.members)


def skewed_rows(follower: Follower, target: StagePlan, position: int) -> SkewedRows:
    """The stages computed in loop ``position`` of ``target``, and the rest of ``target``.

    Raises :class:`ScheduleError` where they cannot run one row apart.
    """
    rows = _Rows(follower, target, position)
    for name in follower.plan.inside.get((target.name, position + 1), ()):
        rows.add(follower.plan.by_name[name], 0)
    rows.add(target, position + 1)
    found = SkewedRows(tuple(rows.members.values()), rows.steps)
    if found.phases < 2 or rows.members[target.name].walk < 0:
        rows.refuse("there is nothing to run beside")
    if _fewest(follower, target, position) < found.phases:
        rows.refuse("there are fewer rows than stages")
    return found


def rows_once(stage: StagePlan, loop: Loop) -> bool:
    """Whether the blocks of ``loop`` are of skewed rows: they leave out what others compute."""
    inner = (x for x in stage.loops if x.axis == loop.axis and x.level == loop.level + 1)
    return any(stage.annotations.get(x.name) == SKEW for x in inner)


def _fewest(follower: Follower, target: StagePlan, position: int) -> int:
    """Rows of the smallest block."""
    row = target.loops[position]
    sizes = follower.sizes[target.name][row.axis]
    rows = int(sizes[row.level][0])
    rest = int(sizes[row.level - 1][0]) % rows if row.level else 0
    return rest or rows


def _picks_by_place(body: Expr) -> bool:
    """Whether an axis decides what is computed, and not just the value of a tensor."""
    selects = (n for n in walk(body) if isinstance(n, Call) and n.op == "select")
    return any(_tests_place(select.args[0]) for select in selects)


def _tests_place(condition: Expr) -> bool:
    match condition:
        case Call(_, args):
            return any(_tests_place(a) for a in args)
        case _:
            return isinstance(condition, Axis)


class _Rows:
    def __init__(self, follower: Follower, target: StagePlan, position: int) -> None:
        self.follower = follower
        self.plan: Plan = follower.plan
        self.what = f"skew of {target.name!r}"
        self.length = self._length(target, position + 1)
        walk = self._first(target, position + 1)
        self.steps = self.extent(target, walk) if walk >= 0 else 1
        self.members: dict[str, Member] = {}

    def refuse(self, why: str) -> None:
        raise ScheduleError(f"{self.what}: {why}")

    def extent(self, stage: StagePlan, position: int) -> int:
        return int(self.follower.extents[stage.name][position][0])

    def _length(self, stage: StagePlan, first: int) -> int:
        return prod(self.extent(stage, p) for p in range(first, len(stage.loops)))

    def _first(self, stage: StagePlan, first: int) -> int:
        moving = [p for p in range(first, len(stage.loops)) if self.extent(stage, p) > 1]
        return moving[0] if moving else -1

    def add(self, stage: StagePlan, first: int) -> None:
        """``first``: the outermost own loop of ``stage`` that is inside a row."""
        if stage.packs or stage.limits or any(a.guarded for a in stage.accesses):
            self.refuse(f"{stage.name!r} copies, ends early or reads behind a condition")
        if _picks_by_place(stage.stage.body):
            self.refuse(f"{stage.name!r} computes something else at some places")
        inside = range(max(first, 1) + (first > 0), len(stage.loops) + 1)
        if any((stage.name, p) in self.plan.inside for p in inside):
            self.refuse(f"another stage is computed inside {stage.name!r}")
        walk = self._first(stage, first) if self._length(stage, first) >= self.length else -1
        if walk >= 0 and self.extent(stage, walk) != self.steps:
            self.refuse(f"{stage.name!r} takes other steps along the row")
        if self._is_ragged(stage, first):
            self.refuse(f"{stage.name!r} computes the end of a row twice")
        phase = max((self._phase(stage, walk, a) for a in stage.accesses), default=0)
        member = Member(stage, phase, walk)
        for access in stage.accesses:
            self._check_kept(member, access)
        self.members[stage.name] = member

    def _is_ragged(self, stage: StagePlan, first: int) -> bool:
        for loop in stage.loops[first:]:
            sizes = self.follower.sizes[stage.name][loop.axis]
            inner = int(sizes[loop.level + 1][0]) if loop.level + 1 < len(sizes) else 1
            if int(sizes[loop.level][0]) % inner:
                return True
        return False

    def _phase(self, stage: StagePlan, walk: int, access: Access) -> int:
        source = self.members.get(access.tensor)
        if source is None:
            return 0
        if walk < 0:
            return source.phase
        if source.walk < 0:
            return source.phase + 1
        if not self._goes_along(stage, walk, source, access):
            self.refuse(f"{stage.name!r} reads {access.tensor!r} elsewhere in the row")
        return source.phase

    def _check_kept(self, member: Member, access: Access) -> None:
        """Of every tensor there is one row: the next one takes its place."""
        source = self.members.get(access.tensor)
        if source is None:
            return
        behind = member.phase - source.phase
        late = behind > 1 or (behind == 1 and source.walk >= 0 and member.walk < 0)
        if late:
            self.refuse(f"{access.tensor!r} is replaced before {member.stage.name!r} reads it")

    def _goes_along(self, stage: StagePlan, walk: int, source: Member, access: Access) -> bool:
        """Whether each step reads what the same step of ``source`` writes."""
        writer = source.stage
        if writer.loops[source.walk].kind == REDUCE:
            return False
        for axis, index in zip(writer.stage.spatial, access.indices, strict=True):
            if index is None or index.constant or any(c < 0 for _, c in index.terms):
                return False
            written, width = self._step(writer, source.walk, axis.name)
            steps = [(c, self._step(stage, walk, name)) for name, c in index.terms]
            reached = 1 + sum(c * (span - 1) for c, (_, span) in steps)
            if sum(c * moved for c, (moved, _) in steps) != written:
                return False
            if written and reached > width:
                return False
        return True

    def _step(self, stage: StagePlan, position: int, axis: str) -> tuple[int, int]:
        """By how much a step of a loop moves an axis, and how much of it is inside a step."""
        d = stage.depth + position
        moved = int(self.follower.influence[stage.name][axis][0, d])
        return moved, int(self.follower.spans[stage.name][axis][0, d + 1])
