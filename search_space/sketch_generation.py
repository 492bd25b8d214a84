"""Sketch generation: apply the rule table of the target until every stage has its loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from schedules.dag import ComputeDAG, Stage
from schedules.hardware import Hardware
from schedules.nest import effective_steps
from schedules.sketch import Sketch
from schedules.steps import Step
from search_space.draft import Draft
from search_space.presets import Rule, RuleTable, rule_table

MOST_SKETCHES = 32

Stages: TypeAlias = Callable[[Draft], tuple[Stage, ...]]


def generate_sketches(
    dag: ComputeDAG, hardware: Hardware, rules: RuleTable | None = None, exact: bool = False
) -> tuple[Sketch, ...]:
    """All sketches of a task, at most 32, the plainest structure first.

    ``exact``: only those that round like the plain sums, up to their order.
    """
    table = rules if rules is not None else rule_table(hardware.kind, exact)
    return tuple(draft.sketch() for draft in _drafts(dag, hardware, table))


def default_steps(
    dag: ComputeDAG, hardware: Hardware, rules: RuleTable | None = None
) -> tuple[Step, ...]:
    """Closed steps of a good schedule by rule alone: the first sketch with its default choices.

    It rounds like the plain sums, up to their order.
    """
    table = rules if rules is not None else rule_table(hardware.kind, exact=True)
    draft = _drafts(dag, hardware, table)[0]
    return effective_steps(draft.sketch(), draft.default_row())


def _drafts(dag: ComputeDAG, hardware: Hardware, table: RuleTable) -> list[Draft]:
    rewritten = _exhaust([Draft(dag, dag)], table.rewrites, hardware, _rewritable)
    return _exhaust(rewritten, table.placements, hardware, lambda d: d.pending[:1])


def _rewritable(draft: Draft) -> tuple[Stage, ...]:
    return tuple(reversed(draft.current.stages))


def _exhaust(
    drafts: list[Draft], rules: tuple[Rule, ...], hardware: Hardware, stages: Stages
) -> list[Draft]:
    """Every way to apply ``rules`` until none has an answer, depth first, capped."""
    done: list[Draft] = []
    stack = list(reversed(drafts))
    while stack and len(done) < MOST_SKETCHES:
        draft = stack.pop()
        branches = _step(draft, rules, hardware, stages)
        if branches is None:
            done.append(draft)
        else:
            stack.extend(reversed(branches))
    return done


def _step(
    draft: Draft, rules: tuple[Rule, ...], hardware: Hardware, stages: Stages
) -> tuple[Draft, ...] | None:
    for stage in stages(draft):
        for rule in rules:
            branches = rule(draft, stage, hardware)
            if branches is not None:
                return branches
    return None
