"""CPU annotations as TensorIR loop kinds; a target adds its own table beside this file."""

from __future__ import annotations

from tvm.tirx import ForKind

LOOP_KINDS: dict[str, ForKind] = {
    "serial": ForKind.SERIAL,
    "parallel": ForKind.PARALLEL,
    "vectorize": ForKind.VECTORIZED,
    "unroll": ForKind.UNROLLED,
    "prefetch": ForKind.SERIAL,
    "skew": ForKind.SERIAL,
}
