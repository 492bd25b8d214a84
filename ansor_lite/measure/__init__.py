"""Measuring candidates: ``protocol.py`` says what that is, ``local.py`` does it in child processes.

``worker.py`` is what runs in a child, ``timing.py`` how it times and checks there, ``pipes.py`` how
both sides talk. ``fake.py`` measures nothing and costs nothing, for tests and dry runs.
"""

from ansor_lite.measure.fake import FakeClock, FakeRunner
from ansor_lite.measure.protocol import Builder, Candidate, Measurement, Measurer, Runner, Status

__all__ = [
    "Builder",
    "Candidate",
    "FakeClock",
    "FakeRunner",
    "Measurement",
    "Measurer",
    "Runner",
    "Status",
]
