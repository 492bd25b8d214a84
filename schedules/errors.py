"""Errors of the schedule layer: one for programs, one for schedules."""

from __future__ import annotations


class UnsupportedProgram(ValueError):
    """A function cannot be expressed as a :class:`schedules.dag.ComputeDAG`; says why."""


class ScheduleError(ValueError):
    """A step or a candidate is illegal; the message names the stage, the loop and the reason."""
