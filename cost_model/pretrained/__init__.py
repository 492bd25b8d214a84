"""Weights shipped with the package, one file per kind of machine, each below 1 MB.

Features are relative to the machine (lanes, registers, cache sizes, threads), so one file serves
all machines of a kind.
"""

from __future__ import annotations

from importlib.resources import as_file, files

from cost_model.base import CostModel
from cost_model.xgb import XGBModel
from schedules.hardware import Hardware


def load_pretrained(hardware: Hardware, seed: int = 0, threads: int = 1) -> CostModel | None:
    """The shipped model for ``hardware``, or ``None`` when there is none for its kind."""
    resource = files(__name__) / f"{hardware.kind}.model"
    if not resource.is_file():
        return None
    model = XGBModel(seed, threads)
    with as_file(resource) as path:
        model.load(path)
    model.become_prior()
    return model
