"""The tuning tasks that benchmarks use: those of a network, by what its graph calls them."""

from __future__ import annotations

from pathlib import Path

from ansor_lite.errors import InputError
from ansor_lite.tasks import Task


def convolutions(model: Path) -> list[Task]:
    """The tunable tasks of an ONNX file that are convolutions, in order of first use.

    Raises :class:`InputError` when there is none.
    """
    from ansor_lite.frontend.importer import import_network
    from ansor_lite.graph.plan import plan_network

    found = [t for t in plan_network(import_network(model)).tunable if "conv" in t.name]
    if not found:
        raise InputError(f"{model.name} has no convolution")
    return found
