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
from search_space.presets import RULES, Rule, RuleTable

MOST_SKETCHES = 32

Stages: TypeAlias = Callable[[Draft], tuple[Stage, ...]]


def generate_sketches(
    dag: ComputeDAG, hardware: Hardware, rules: RuleTable | None = None
) -> tuple[Sketch, ...]:
    """All sketches of a task, at most 32, the most promising structure first."""
    return tuple(draft.sketch() for draft in _drafts(dag, hardware, rules))


def default_steps(
    dag: ComputeDAG, hardware: Hardware, rules: RuleTable | None = None
) -> tuple[Step, ...]:
    """Closed steps of a good schedule by rule alone: the first sketch with its default choices."""
    draft = _drafts(dag, hardware, rules)[0]
    return effective_steps(draft.sketch(), draft.default_row())


def _drafts(dag: ComputeDAG, hardware: Hardware, rules: RuleTable | None) -> list[Draft]:
    table = rules if rules is not None else RULES[hardware.kind]
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
