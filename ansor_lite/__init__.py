"""ansor-lite: tunes a network for the CPU it will run on, and compiles it.

The public names are listed in ``__all__`` and loaded on first use, so that ``import ansor_lite``
loads neither TVM nor xgboost. Read ``tune.py`` next for the loop that joins the parts.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ansor_lite import workloads as workloads
    from ansor_lite.compiler import compile as compile
    from ansor_lite.errors import AnsorLiteError as AnsorLiteError
    from ansor_lite.errors import InputError as InputError
    from ansor_lite.options import TuningOptions as TuningOptions
    from ansor_lite.runtime import CompiledModule as CompiledModule
    from ansor_lite.runtime import load as load
    from ansor_lite.target import Target as Target
    from ansor_lite.tasks import Task as Task
    from ansor_lite.tune import tune_model as tune_model
    from ansor_lite.tune import tune_task as tune_task

__version__ = "0.1.0"

# Public name -> module that defines it; "" marks a submodule that is public itself.
_HOME = {
    "AnsorLiteError": "errors",
    "CompiledModule": "runtime",
    "InputError": "errors",
    "Target": "target",
    "Task": "tasks",
    "TuningOptions": "options",
    "compile": "compiler",
    "load": "runtime",
    "tune_model": "tune",
    "tune_task": "tune",
    "workloads": "",
}

__all__ = [
    "AnsorLiteError",
    "CompiledModule",
    "InputError",
    "Target",
    "Task",
    "TuningOptions",
    "compile",
    "load",
    "tune_model",
    "tune_task",
    "workloads",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOME[name]
    if not home:
        return importlib.import_module(f"{__name__}.{name}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
