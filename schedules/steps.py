"""The step vocabulary: a schedule is a list of these, and everything else is derived from it.

Read ``nest.py`` next: it follows the steps for a batch of candidates. ``lower`` turns the
followed nest of one candidate into TensorIR.

*Rewrites* take a DAG to a DAG and come first: the classes of :data:`REWRITES`.
*Loop steps* arrange the loops of the stages that are left. Numbers in loop steps may be knobs
(:class:`Ref`); a *closed* step holds plain numbers only.

To add a step: a class here, a row in ``STEP_TYPES``, its reader in ``nest.py`` (loop step) or
``rewrites.py`` (rewrite), and its golden text. ``lower`` changes only for a new annotation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Ref:
    """An open number: column ``column`` of the chosen row of knob ``knob``."""

    knob: str
    column: int = 0


Number: TypeAlias = int | Ref


@dataclass(frozen=True, slots=True)
class Inline:
    """Substitute the body of an elementwise ``stage`` into its consumers.

    ``b[i] = a[i] + 1; c[i] = b[i] * 2``  ->  ``c[i] = (a[i] + 1) * 2``
    """

    stage: str


@dataclass(frozen=True, slots=True)
class CacheWrite:
    """Let ``stage`` accumulate into ``<stage>.acc`` and keep its name for a copy of the result.

    ``c[i] = sum_k ...``  ->  ``c.acc[i] = sum_k ...; c[i] = c.acc[i]``
    """

    stage: str


@dataclass(frozen=True, slots=True)
class SplitReduction:
    """Reduce ``axis`` of ``stage`` in ``lanes`` independent partial results (Ansor's rfactor).

    ``interleaved``: lane ``l`` takes every ``lanes``-th element (vectors); otherwise one block.

    ``s[i] = sum_k a[i, k]``  ->
    ``s.lanes[i, l] = sum_k0 a[i, k0 * lanes + l]; s[i] = sum_l s.lanes[i, l] (+ sum of the rest)``
    """

    stage: str
    axis: str
    lanes: int
    interleaved: bool = True


@dataclass(frozen=True, slots=True)
class MinimalFiltering:
    """Sum the products that slide along ``axes`` of ``stage`` by tiles of ``outputs`` results.

    Fewer multiplications, another rounding. See ``minimal_filtering.py``.

    ``s[i] = sum_k x[i + k] * w[k]``  ->  with ``n = outputs + taps - 1`` points ``p``:
    ``s.spread0[p, t] = B x[t * outputs ...]; s.products[p, t] = s.spread0[p, t] * w'[p];``
    ``s.gather0[t, r] = A s.products; s[i] = s.gather0[i // outputs, i % outputs]``
    """

    stage: str
    axes: tuple[str, ...]
    outputs: int


@dataclass(frozen=True, slots=True)
class QuarterProducts:
    """Multiply the matrices of ``stage`` by quarters: seven products of sums, not eight.

    Fewer multiplications, another rounding. See ``quarters.py``.

    ``s[i, j] = sum_k x[i, k] * w[k, j]``  ->  with ``h`` a half of an axis (halves of an odd number
    share an element, see ``output_tiles.py``):
    ``s.spread0[p, i, k] = sums of x[i + {0, h}, k + {0, h}];``
    ``s.products[p, i, j] = sum_k s.spread0[p, i, k] * w'[p, k, j];``
    ``s.gather0[r, i, c, j] = sums of s.products[p, i, j]; s[i, j] = s.gather0[i // h, i % h, ...]``
    """

    stage: str


@dataclass(frozen=True, slots=True)
class PairProducts:
    """Multiply the matrices of ``stage`` with one product for two of every three summands.

    Additions take the place of multiplications, with another rounding. See ``pairs.py``.

    ``s[i, j] = sum_k x[i, k] * w[k, j]``  ->  with ``a``, ``b`` and ``c`` the parts of a row:
    ``s.size[i] = sum_k |x[i, k]|; s.spread[i] = zeros, x[i] / s.size[i] * K, zeros;``
    ``s.cross[i] = sum_g s.spread[i, b + g] * s.spread[i, c + g];``
    ``s.pairs[i, j] = sum_g s.spread[i, a - g] * w'[g, 0, j] +``
    ``(s.spread[i, b + g] + w'[g, 2, j]) * (s.spread[i, c + g] + w'[g, 1, j]);``
    ``s[i, j] = (s.pairs[i, j] - s.cross[i]) * scale[i]``
    """

    stage: str


@dataclass(frozen=True, slots=True)
class DivideLate:
    """Let the sum ``stage`` of shares add what is undivided. See ``late_division.py``.

    ``s[i, d] = sum_j (a[i, j] / t[i]) * v[j, d]``  ->
    ``s.undivided[i, d] = sum_j a[i, j] * v[j, d]; s[i, d] = s.undivided[i, d] / t[i]``
    """

    stage: str


@dataclass(frozen=True, slots=True)
class Chunk:
    """Let ``stage`` add exponentials along ``axis`` by chunks of ``length``. See ``chunks.py``.

    ``s[d] = sum_j exp(x[j] - max x) * v[j, d]``  ->  with ``j = c * length + l``:
    ``m.part[c] = max_l x[c, l]; s.part[c, d] = sum_l exp(x[c, l] - m.part[c]) * v[j, d];``
    ``m.weight[c] = exp(m.part[c] - max_c m.part); s[d] = sum_c m.weight[c] * s.part[c, d]``
    """

    stage: str
    axis: str
    length: int


@dataclass(frozen=True, slots=True)
class ShiftedMoments:
    """Add up the squares of ``stage`` around a guess, beside the sum that the mean comes from.

    ``t[i] = sum_j x[i, j]; m[i] = f(t[i]); q[i] = sum_j (x[i, j] - m[i])**2``  ->
    ``q.shift[i] = sum_{j < points} x[i, j] / points; d = x[i, j] - q.shift[i];``
    ``q.moments[0, i] = sum_j d; q.moments[1, i] = sum_j d * d; t[i] = q.moments[0, i] + n *``
    ``q.shift[i]; m[i] = f(t[i]); q[i]`` from both sums and ``m[i] - q.shift[i]``

    Another rounding, at most ``1 + n / points`` times that of two passes. See ``moments.py``.
    """

    stage: str
    points: int


@dataclass(frozen=True, slots=True)
class Reciprocal:
    """Let ``stage`` multiply where it divides by what stays the same along ``axis``.

    ``b[i, j] = a[i, j] / s[i]``  ->
    ``b.inverse[i] = 1 / s[i]; b[i, j] = a[i, j] * b.inverse[i]``

    One more rounding, less than what another order of a sum changes. See ``reciprocals.py``.
    """

    stage: str
    axis: str


@dataclass(frozen=True, slots=True)
class CopyRead:
    """Let ``stage`` read a copy, ``<stage>.operand``, whose dimensions are ``axes`` of ``stage``.

    The copy is of its only read that depends on just these axes.

    ``c[i] = sum_k a[2, i, k] * b[k]``, axes ``(k, i)``  ->
    ``c.operand[k, i] = a[2, i, k]; c[i] = sum_k c.operand[k, i] * b[k]``
    """

    stage: str
    axes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Permute:
    """Let the dimensions of the intermediate ``stage`` stand in the order of ``axes``.

    ``b[i, j] = a[i, j] + 1; c[i] = sum_j b[i, j]``  ->
    ``b[j, i] = a[i, j] + 1; c[i] = sum_j b[j, i]``
    """

    stage: str
    axes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SplitAxis:
    """Let the output ``stage`` count ``axis`` by two axes, ``<axis>.tile`` and ``<axis>.rest``.

    The memory is the same, and nothing else reads the stage. ``factor`` divides the axis, or there
    are two tiles that share elements. See ``output_tiles.py``.

    ``s[i] = f(i)``  ->  ``s[t, r] = f(t * factor + r)``
    """

    stage: str
    axis: str
    factor: int


@dataclass(frozen=True, slots=True)
class SplitWindow:
    """Reduce the window of ``stage`` over its other axes first, then along ``axis``.

    Neighbouring windows share columns. See ``windows.py``.

    ``s[i, j] = max_{k, l} x[i + k, j + l]``  ->
    ``s.columns[i, c] = max_k x[i + k, c]; s[i, j] = max_l s.columns[i, j + l]``
    """

    stage: str
    axis: str


@dataclass(frozen=True, slots=True)
class Tile:
    """Cut ``axis`` of ``stage`` into ``len(factors) + 1`` loops ``axis.0 ... axis.n``.

    ``factors`` count from outside in, in units of the next inner tile; the last one is the size of
    the innermost tile. Spatial tiles need not divide: the last tile is *shifted* back so that it
    ends with the region, recomputing a few elements and needing no predicate.

    ``for i in 10`` with factors ``(2, 4)`` -> tile sizes 8 and 4:
    ``for i.0 in 2: for i.1 in 2: for i.2 in 4:`` at ``i = min(i.0 * 8, 2) + i.1 * 4 + i.2``

    Reduce axes admit only factors whose product divides the extent.
    """

    stage: str
    axis: str
    factors: tuple[Number, ...]


@dataclass(frozen=True, slots=True)
class Reorder:
    """The complete order of the own loops of ``stage``, outermost first (``"i.0", "j.0", ...``)."""

    stage: str
    loops: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ComputeAt:
    """Compute ``stage`` inside ``loop`` of ``target``, for the region the rest of it reads."""

    stage: str
    target: str
    loop: str


@dataclass(frozen=True, slots=True)
class StoreAt:
    """Keep what all iterations inside ``loop`` of ``target`` compute of ``stage`` (Halide's
    ``store_at``, PLDI'13).

    ``stage`` is computed further inside; those who run after the loops in between may read it.
    With no ``loop`` (an empty name) it is kept outside of all loops of ``target``, which is inside
    of none. If all readers run afterwards, ``axes`` says what is computed when: for every dimension
    of ``stage`` the axis that it goes along with, of the stage inside which it is computed.
    """

    stage: str
    target: str
    loop: str
    axes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pack:
    """Copy what ``stage`` reads of ``tensor`` into the order its loops read it.

    ``at=None``: once, at compile time (constant tensors) or at the start of the program.
    ``at=(target, loop)``: inside that loop, for the region used there.
    """

    stage: str
    tensor: str
    at: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Annotate:
    """How ``loops`` of ``stage`` run: ``parallel`` (fused into one), ``vectorize``, ``unroll``,
    ``prefetch`` (a reduction that asks ahead for the packed constants that it walks through; other
    loops of a stage inside another for what the next iteration around them reads of inputs),
    ``skew`` (rows whose stages run in one loop, one row apart, see ``skewed_rows.py``).

    GPU kinds (``blockIdx.x``, ``threadIdx.x``, ``vthread``) are rows of the same table.
    """

    stage: str
    loops: tuple[str, ...]
    kind: str


@dataclass(frozen=True, slots=True)
class Scope:
    """Where the tensor of ``stage`` lives: ``global``, ``local`` (registers), ``shared``."""

    stage: str
    scope: str


@dataclass(frozen=True, slots=True)
class Limit:
    """End the outermost loop of ``axis`` where a mask says that nothing more counts.

    ``stage`` is computed inside another one; for the rows that it is computed for there,
    ``axis >= row + beyond`` changes no output (``masks.py``).
    """

    stage: str
    axis: str
    row: str
    beyond: int


Step: TypeAlias = (
    Inline
    | CacheWrite
    | SplitReduction
    | MinimalFiltering
    | QuarterProducts
    | PairProducts
    | DivideLate
    | Chunk
    | ShiftedMoments
    | Reciprocal
    | CopyRead
    | Permute
    | SplitAxis
    | SplitWindow
    | Tile
    | Reorder
    | ComputeAt
    | StoreAt
    | Pack
    | Annotate
    | Scope
    | Limit
)

REWRITES = (
    Inline,
    CacheWrite,
    SplitReduction,
    MinimalFiltering,
    QuarterProducts,
    PairProducts,
    DivideLate,
    Chunk,
    ShiftedMoments,
    Reciprocal,
    CopyRead,
    Permute,
    SplitAxis,
    SplitWindow,
)

# Rewrites that change the rounding of results by more than the order of a sum.
ROUNDING = (MinimalFiltering, QuarterProducts, PairProducts, ShiftedMoments)

# Record tag -> class. Tags are part of the log format and never change.
STEP_TYPES: dict[str, type[Step]] = {
    "inline": Inline,
    "cache_write": CacheWrite,
    "split_reduction": SplitReduction,
    "minimal_filtering": MinimalFiltering,
    "quarter_products": QuarterProducts,
    "pair_products": PairProducts,
    "divide_late": DivideLate,
    "chunk": Chunk,
    "shifted_moments": ShiftedMoments,
    "reciprocal": Reciprocal,
    "copy_read": CopyRead,
    "permute": Permute,
    "split_axis": SplitAxis,
    "split_window": SplitWindow,
    "tile": Tile,
    "reorder": Reorder,
    "compute_at": ComputeAt,
    "store_at": StoreAt,
    "pack": Pack,
    "annotate": Annotate,
    "scope": Scope,
    "limit": Limit,
}

ANNOTATIONS = ("serial", "parallel", "vectorize", "unroll", "prefetch", "skew")

SCOPES = ("global", "local", "shared")
