"""Every error that ansor-lite raises on purpose.

::

    AnsorLiteError                 something this package refused or could not do
    ├── InputError                 what the caller gave is wrong; the command line exits with 2
    │   ├── ModelError             not a model, an operator that cannot be imported, open shapes
    │   ├── LogError               not a tuning log, a newer version, for another target
    │   ├── MissingRecords         --strict: tasks without a record (``.tasks`` names them)
    │   ├── TargetError            a target, instructions or CPUs that this machine lacks
    │   └── ModuleInputError       run(): a missing or unknown name, a wrong shape, dtype or index
    ├── LogWriteError              a result could not be appended (full disk, read-only file)
    ├── MeasurementError           the machinery of measuring broke down (one bad trial is a record)
    └── CompileError               a network could not be built or linked

A message is one line: what was wrong, then what to do about it.
"""

from __future__ import annotations

from collections.abc import Iterable


class AnsorLiteError(Exception):
    """Base of all errors of this package."""


class InputError(AnsorLiteError, ValueError):
    """What the caller gave cannot be used; nothing was written."""


class ModelError(InputError):
    """The model cannot be read, imported or given concrete shapes."""


class LogError(InputError):
    """The file is not a tuning log that this version and this target can use."""


class MissingRecords(InputError):
    """A strict replay found tasks for which the log has no usable record."""

    def __init__(self, tasks: Iterable[str], log: str) -> None:
        self.tasks = tuple(tasks)
        names = ", ".join(self.tasks)
        super().__init__(f"{log} has no record for {len(self.tasks)} task(s): {names}")


class TargetError(InputError):
    """The target is unknown, or needs instructions or CPUs that this machine does not have."""


class ModuleInputError(InputError):
    """An input of a compiled module is missing, unknown, or of the wrong shape, dtype or range."""


class LogWriteError(AnsorLiteError, OSError):
    """A result could not be appended to the log; the trials before it are intact."""


class MeasurementError(AnsorLiteError, RuntimeError):
    """Worker processes cannot be started or kept alive."""


class CompileError(AnsorLiteError, RuntimeError):
    """A network could not be built or linked."""
