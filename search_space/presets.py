"""The ordered rule tables of every target. Order carries meaning: the first answer wins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

from schedules.dag import Stage
from schedules.hardware import Hardware
from search_space.chains import rule_chain
from search_space.chunked_rows import rule_chunk, rule_chunked_rows
from search_space.dots import rule_dots, rule_split_dots
from search_space.draft import Draft
from search_space.moments import rule_shifted_moments
from search_space.pairing import rule_pair_products
from search_space.piecewise import rule_minimal_filtering, rule_piecewise
from search_space.quartering import rule_quarter_products
from search_space.rewriting import (
    rule_cache_write,
    rule_inline,
    rule_reciprocal,
    rule_split_blocks,
    rule_split_lanes,
    rule_split_window,
)
from search_space.row_blocks import rule_divide_late, rule_row_blocks
from search_space.rows import rule_fuse_rows
from search_space.streams import rule_stream_chunks, rule_streams
from search_space.tiling import rule_tile_with_consumer

Rule: TypeAlias = Callable[[Draft, Stage, Hardware], tuple[Draft, ...] | None]


@dataclass(frozen=True, slots=True)
class RuleTable:
    """``rewrites`` run to a fixed point, stage by stage from the last; then ``placements``."""

    rewrites: tuple[Rule, ...]
    placements: tuple[Rule, ...]


CPU_RULES = RuleTable(
    rewrites=(
        rule_divide_late,
        rule_stream_chunks,
        rule_chunk,
        rule_minimal_filtering,
        rule_pair_products,
        rule_quarter_products,
        rule_shifted_moments,
        rule_inline,
        rule_split_dots,
        rule_reciprocal,
        rule_split_window,
        rule_cache_write,
        rule_split_blocks,
        rule_split_lanes,
    ),
    placements=(
        rule_piecewise,
        rule_streams,
        rule_chunked_rows,
        rule_row_blocks,
        rule_chain,
        rule_dots,
        rule_tile_with_consumer,
        rule_fuse_rows,
    ),
)

RULES: dict[str, RuleTable] = {"cpu": CPU_RULES}

# Rules that change the rounding of results by more than the order of a sum.
ROUNDING_RULES: tuple[Rule, ...] = (
    rule_minimal_filtering,
    rule_pair_products,
    rule_quarter_products,
    rule_shifted_moments,
)


def rule_table(kind: str, exact: bool = False) -> RuleTable:
    """The rules of a kind of target; ``exact`` leaves out :data:`ROUNDING_RULES`."""
    table = RULES[kind]
    if not exact:
        return table
    return replace(table, rewrites=tuple(r for r in table.rewrites if r not in ROUNDING_RULES))
