"""What the rules and the cost model know of a machine: numbers, never names of products."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Hardware:
    """A target machine. Sizes in bytes; ``threads`` is what tuning and running will use.

    ``kind`` selects the rule table (``"cpu"`` or ``"gpu"``). The last four fields describe GPUs
    and are zero elsewhere.
    """

    kind: str = "cpu"
    threads: int = 1
    vector_bytes: int = 64
    vector_registers: int = 32
    cache_line_bytes: int = 64
    l1_bytes: int = 32 * 1024
    l2_bytes: int = 1024 * 1024
    l3_bytes: int = 32 * 1024 * 1024
    fma_latency: int = 4
    warp_size: int = 0
    max_threads_per_block: int = 0
    shared_bytes_per_block: int = 0
    registers_per_block: int = 0

    def lanes(self, element_bytes: int) -> int:
        """Elements of a vector register."""
        return max(1, self.vector_bytes // element_bytes)
