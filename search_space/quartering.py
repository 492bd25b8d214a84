"""The rule for products of matrices by quarters: fewer multiplications, more additions.

Read ``schedules/quarters.py`` for the algebra and ``piecewise.py`` for the loops of what it leaves.
Separate from ``piecewise.py``, whose rewrite is of products that slide.
"""

from __future__ import annotations

from math import prod

from schedules.dag import Stage
from schedules.hardware import Hardware
from schedules.quarters import Quarters, half_of, quarters
from schedules.steps import Inline, QuarterProducts, SplitAxis
from search_space.draft import Draft
from search_space.piecewise import axes_of_output, chain_to_output

# Rows of a half that use a weight often enough: there are 7/4 as many bytes of weights.
LEAST_ROWS = 32
# Share of the time saved that the additions may take.
WORTHWHILE = 0.25
# Quarters read and written for the operands of all products, and for the four results.
DATA_MOVES, RESULT_MOVES = 19, 16


def rule_quarter_products(
    draft: Draft, stage: Stage, hardware: Hardware
) -> tuple[Draft, ...] | None:
    """Multiply as it stands, or by quarters where the additions are few beside what is saved."""
    if stage.name.removesuffix(".acc") in draft.settled:
        return None
    found = quarters(draft.current, stage)
    if found is None or not _pays(found):
        return None
    plain = draft.settle(stage.name)
    halved = plain.rewrite(QuarterProducts(stage.name), label="quarters")
    chain = chain_to_output(halved.current, stage.name)
    if chain is None:
        return (plain,)
    inlined = [Inline(f"{stage.name}.gather0"), *(Inline(name) for name in chain[:-1])]
    halves = (found.row, found.column)
    axes = axes_of_output(halved, chain, tuple(axis.name for axis in halves))
    splits = [
        SplitAxis(chain[-1], name, half_of(axis.extent))
        for name, axis in zip(axes, halves, strict=True)
    ]
    return (plain, halved.rewrite(*inlined, *splits))


def _pays(found: Quarters) -> bool:
    rows = prod(a.extent for a in found.stage.spatial if a != found.column)
    # In multiply-adds of one row of the whole.
    saved = found.column.extent * found.sum.extent / 8
    added = (DATA_MOVES * found.sum.extent + RESULT_MOVES * found.column.extent) / 4
    return rows >= 2 * LEAST_ROWS and added <= WORTHWHILE * saved
