"""The rule for products of matrices by pairs of summands: additions for multiplications.

Read ``schedules/pairs.py`` for the algebra. Separate from ``quartering.py``, which cuts matrices.
"""

from __future__ import annotations

from math import prod

from schedules.dag import Stage
from schedules.hardware import Hardware
from schedules.pairs import Paired, paired
from schedules.steps import Inline, PairProducts, SplitReduction, Step
from search_space.analysis import dtype_bytes_of, is_elementwise, is_guarded
from search_space.draft import Draft

# Summands that pay for the group that is one too many.
LEAST_SUM = 48
# Rows that use a constant often enough for its time from memory not to be what matters.
LEAST_ROWS = 32
# Columns that use a row often enough to pay for what is done to it before.
LEAST_COLUMNS = 64
# Vectors of partial results that the sums over a row keep: one choice, as they are a small part.
LANE_VECTORS = (4, 2, 1)


def rule_pair_products(draft: Draft, stage: Stage, hardware: Hardware) -> tuple[Draft, ...] | None:
    """Multiply as it stands, or by pairs where rows and columns pay for what they add.

    All products of a task alike: one branch more, not one for every subset of them.
    """
    name = stage.name.removesuffix(".acc")
    settled = f"{name}.pairs"
    if name in draft.settled or settled in draft.settled:
        return None
    found = paired(draft.current, stage)
    if found is None or not _pays(found):
        return None
    sums = {s.name.removesuffix(".acc") for s in draft.current.stages if s.combiner is not None}
    others = any(f"{name}.pairs" in draft.settled for name in sums)
    like_others = any(isinstance(step, PairProducts) for step in draft.rewrites)
    if others and not like_others:
        return None
    plain = draft.settle(settled)
    by_pairs = plain.settle(stage.name).rewrite(PairProducts(stage.name), label="pairs")
    by_pairs = by_pairs.rewrite(*_padding(by_pairs, found))
    by_pairs = by_pairs.rewrite(*_lanes(by_pairs, stage, hardware))
    return (by_pairs,) if like_others else (plain, by_pairs)


def _pays(found: Paired) -> bool:
    rows = prod(a.extent for a in found.rows if a not in found.held)
    long_enough = found.sum.extent >= LEAST_SUM
    return long_enough and rows >= LEAST_ROWS and found.column.extent >= LEAST_COLUMNS


def _padding(draft: Draft, found: Paired) -> list[Step]:
    """The rows are copied anyway, so that no padded copy is needed before."""
    source = draft.current.by_name.get(found.data.tensor)
    if source is None or source.name in draft.current.outputs or not is_guarded(source):
        return []
    readers = draft.current.consumers[source.name]
    own = all(name.startswith(f"{found.stage.name}.") for name in readers)
    return [Inline(source.name)] if own and is_elementwise(source) else []


def _lanes(draft: Draft, stage: Stage, hardware: Hardware) -> list[Step]:
    """The reductions over a row keep vectors of partial results."""
    steps: list[Step] = []
    lanes = hardware.lanes(dtype_bytes_of(stage))
    for name in (f"{stage.name}.size", f"{stage.name}.cross"):
        axis = draft.current.stage(name).reduce[-1]
        counts = [n * lanes for n in LANE_VECTORS if axis.extent % (n * lanes) == 0]
        if counts:
            steps.append(SplitReduction(name, axis.name, counts[0]))
    return steps
