"""Child processes of one comparison: ours, what limits it, and its peers with their controls.

Read ``start_peers``. Separate from ``runtimes.py``, which knows a single child, and from the
commands that compare.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from numpy.typing import NDArray

from ansor_lite.errors import AnsorLiteError
from benchmarks.comparing import compare, control_of
from benchmarks.runtimes import FMA_PEAK, Runtime, RuntimeFailure

Values: TypeAlias = Mapping[str, NDArray[Any]]

NOTHING = "none.npz"
OUTPUTS = "outputs.npz"


@dataclass(frozen=True, slots=True)
class Peer:
    """How a peer is started; ``python``: its interpreter."""

    kind: str
    path: Path
    inputs: str
    python: str


@dataclass(frozen=True, slots=True)
class Children:
    """Child processes that read their files in ``folder``; ``stack`` ends them."""

    folder: Path
    threads: int
    stack: ExitStack

    def start(
        self, kind: str, path: Path, inputs: str = NOTHING, python: str = sys.executable
    ) -> Runtime:
        """Raises :class:`RuntimeFailure` when the child does not come to be ready."""
        runtime = Runtime(kind, path, self.folder / inputs, self.threads, python)
        return self.stack.enter_context(runtime)

    def start_peer(self, peer: Peer) -> Runtime:
        return self.start(peer.kind, peer.path, peer.inputs, peer.python)

    def outputs(self, runtime: Runtime) -> Values:
        return runtime.outputs(self.folder / OUTPUTS)

    def limits(self, moving: Sequence[str], size: int) -> dict[str, Runtime]:
        """The multiply-add peak, and runtimes that move ``size`` bytes."""
        kinds = {FMA_PEAK: Path("-")} | {kind: Path(str(size)) for kind in moving}
        return {kind: self.start(kind, path) for kind, path in kinds.items()}


def start_peers(
    group: Children,
    peers: Mapping[str, Peer],
    runtimes: dict[str, Runtime],
    expected: Values | None = None,
    tolerance: float | None = None,
) -> tuple[dict[str, Values], dict[str, str]]:
    """Add the peers and a control of each to ``runtimes``; their outputs, and who failed and why.

    With a ``tolerance``, one that is further off from what is ``expected`` fails; without that,
    from the first peer.
    """
    found: dict[str, Values] = {}
    refused: dict[str, str] = {}
    for name, peer in peers.items():
        try:
            runtimes[name] = group.start_peer(peer)
            values = group.outputs(runtimes[name])
            if tolerance is not None:
                right = next(iter(found.values()), values) if expected is None else expected
                _require_agreement(values, right, tolerance)
            runtimes[control_of(name)] = group.start_peer(peer)
            found[name] = values
        except AnsorLiteError as error:
            runtimes.pop(name, None)
            refused[name] = str(error)
    return found, refused


def _require_agreement(values: Values, expected: Values, tolerance: float) -> None:
    accuracy = compare(values, expected, tolerance)
    if not accuracy["agrees"]:
        raise RuntimeFailure(f"wrong output: off by {accuracy['relative_deviation']}")
