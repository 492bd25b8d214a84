"""A sketch in the making: what the rules hand to each other. Frozen; a change is a new draft."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from schedules.dag import ComputeDAG, Stage
from schedules.rewrites import apply_rewrites
from schedules.sketch import Knob, Sketch
from schedules.steps import Step


@dataclass(frozen=True)
class Draft:
    """Steps so far. ``dag`` is the task, ``current`` what the rewrites leave of it.

    ``placed`` names the stages whose loops are decided, ``settled`` those whose formulation is;
    ``defaults`` the choice of each knob that a
    good guess takes; ``label`` the decisions taken, for the name of the sketch.
    """

    dag: ComputeDAG
    current: ComputeDAG
    rewrites: tuple[Step, ...] = ()
    loops: tuple[Step, ...] = ()
    knobs: tuple[Knob, ...] = ()
    defaults: dict[str, int] = field(default_factory=dict)
    placed: frozenset[str] = frozenset()
    settled: frozenset[str] = frozenset()
    label: tuple[str, ...] = ()

    def rewrite(self, *steps: Step, label: str = "") -> Draft:
        """With rewrites appended and applied."""
        return replace(
            self,
            rewrites=(*self.rewrites, *steps),
            current=apply_rewrites(self.current, steps),
            label=(*self.label, label) if label else self.label,
        )

    def place(self, *stages: str) -> Draft:
        return replace(self, placed=self.placed | set(stages))

    def settle(self, *stages: str) -> Draft:
        return replace(self, settled=self.settled | set(stages))

    def loop(self, *steps: Step) -> Draft:
        return replace(self, loops=(*self.loops, *steps))

    def knob(self, knob: Knob, default: int) -> Draft:
        """With a new knob whose default is choice number ``default``."""
        return replace(
            self,
            knobs=(*self.knobs, knob),
            defaults=self.defaults | {knob.name: min(default, len(knob.choices) - 1)},
        )

    def narrowed(self, knob: Knob, default: int) -> Draft:
        """With ``knob`` in the place of the one of its name."""
        others = tuple(k for k in self.knobs if k.name != knob.name)
        return replace(self, knobs=others).knob(knob, default)

    def choices(self, knob: str) -> tuple[tuple[int, ...], ...]:
        return next(k.choices for k in self.knobs if k.name == knob)

    def called(self, label: str) -> Draft:
        return replace(self, label=(*self.label, label))

    @property
    def pending(self) -> tuple[Stage, ...]:
        """Stages without decided loops, last first."""
        return tuple(s for s in reversed(self.current.stages) if s.name not in self.placed)

    def sketch(self) -> Sketch:
        return Sketch(self.dag, (*self.rewrites, *self.loops), self.knobs, "/".join(self.label))

    def default_row(self) -> NDArray[np.int32]:
        return np.array([self.defaults[k.name] for k in self.knobs], dtype=np.int32)
