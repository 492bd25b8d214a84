"""How a program is timed: constants cold, everything else warm, as inside a network.

Between two kernels of a network the activations were just written, while the weights were last
read one inference ago. So constants leave the caches before each repeat and nothing else does, and
the threads of the pool are awake.
"""

# imports TVM
from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import s_tir

from ansor_lite.memory import arena
from ansor_lite.program import aligned, tensor_bytes
from ansor_lite.tasks import Task
from schedules.dag import REDUCE, ComputeDAG, IterAxis, Stage, Tensor
from schedules.expr import Axis, Read
from schedules.lower.packing import Packing
from schedules.to_tir import to_tir

# Repeats go on until both lower limits or one upper limit is reached.
MIN_REPEATS = 3
MAX_REPEATS = 10
MIN_SECONDS = 0.01
MAX_SECONDS = 0.5
# A first, cold run this many times slower than the limit needs no repeat to be called slow, ...
HOPELESS = 4.0
# ... but less than this is too little to call anything slow: one interrupt takes as long.
MIN_SLOW_SECONDS = 2e-3
# Elements of an array that are drawn, and then repeated: half a gigabyte of weights takes seconds.
# A prime, so that no row of another length meets the same numbers.
DRAWN = 4_000_037
Array = NDArray[Any]


@dataclass(frozen=True)
class Program:
    """A compiled candidate of ``task``: arguments are the inputs, then the outputs."""

    task: Task
    function: Any
    packs: Mapping[str, Packing]


class TimingInputs:
    """The arguments that all candidates of one task are timed with; made once."""

    def __init__(self, task: Task) -> None:
        self.dag = dag = task.dag
        self.rng = rng_of(task.key)
        fed = [t for t in dag.inputs if not t.constant]
        tensors = placed(
            [(t.shape, t.dtype) for t in fed]
            + [(dag.shape_of(name), dag.dtype_of(name)) for name in dag.outputs]
        )
        self.activations = {t.name: tensors[i] for i, t in enumerate(fed)}
        for t in fed:
            self.activations[t.name].copyfrom(random_array(self.rng, t.shape, t.dtype))
        self.outputs = tensors[len(fed) :]
        self.constants: dict[str, Any] = {}

    def arguments(self, program: Program) -> tuple[list[Any], list[Any]]:
        """All arguments, and those of them that are constants.

        Constants are filled in the packed shape at once: no timing depends on their values.
        """
        inputs = {**self.activations}
        for t in self.dag.inputs:
            if t.constant:
                pack = program.packs.get(t.name)
                shape = t.shape if pack is None else pack.shape
                inputs[t.name] = self._constant(t.name, shape, t.dtype)
        ordered = [inputs[t.name] for t in self.dag.inputs]
        return ordered + self.outputs, [inputs[t.name] for t in self.dag.inputs if t.constant]

    def _constant(self, name: str, shape: tuple[int, ...], dtype: str) -> Any:
        """A view of the elements kept for ``name``, which grow with the largest packing seen."""
        size = max(1, prod(shape))
        if name not in self.constants or self.constants[name].shape[0] < size:
            drawn = random_array(self.rng, (min(size, DRAWN),), dtype)
            # A compiled module keeps its weights in such memory too.
            memory = arena(size * drawn.itemsize).view(drawn.dtype)
            repeat(drawn, memory)
            self.constants[name] = tvm.runtime.from_dlpack(memory)
        return self.constants[name]._create_view(shape, dtype)


def placed(tensors: Sequence[tuple[tuple[int, ...], str]]) -> list[Any]:
    """Zeros of these shapes and dtypes, one behind the other as a compiled module places them."""
    sizes = [tensor_bytes(*tensor) for tensor in tensors]
    starts = list(accumulate(map(aligned, sizes), initial=0))
    memory = arena(starts[-1])
    return [
        tvm.runtime.from_dlpack(memory[start : start + size].view(dtype).reshape(shape))
        for (shape, dtype), size, start in zip(tensors, sizes, starts, strict=False)
    ]


def time_program(
    program: Program, inputs: TimingInputs, limit: float | None, wake: Callable[[], None]
) -> tuple[list[float], bool]:
    """Seconds of the repeats, and whether the program stopped early as slower than ``limit``.

    ``wake`` is called right before each repeat, after the caches have been prepared.
    """
    arguments, constants = inputs.arguments(program)
    flush = tvm.get_global_func("cache_flush_cpu_non_first_arg")
    function = program.function

    def once() -> float:
        flush(arguments[-1], *constants)
        wake()
        start = time.perf_counter()
        function(*arguments)
        return time.perf_counter() - start

    gc.disable()
    try:
        first = once()
        if limit is not None and first > max(HOPELESS * limit, MIN_SLOW_SECONDS):
            return [first], True
        seconds: list[float] = []
        while not enough(seconds):
            seconds.append(once())
            if limit is not None and is_slow(seconds, limit):
                return seconds, True
    finally:
        gc.enable()
    return seconds, False


def waker(target: tvm.target.Target, threads: int) -> Callable[[], None]:
    """A parallel program that does next to nothing, which leaves the pool's threads spinning."""
    index, loop = Axis("i"), (IterAxis("i", threads),)
    stage = Stage("y", loop, Read("x", (index,), "float32"), "float32")
    dag = ComputeDAG((Tensor("x", (threads,), "float32"),), (stage,), ("y",))
    function = tvm.tirx.build(parallel_reference(dag), target=target)["main"]
    arguments = [tvm.runtime.tensor(np.zeros(threads, dtype=np.float32)) for _ in range(2)]
    return lambda: function(*arguments)


def is_slow(seconds: list[float], limit: float) -> bool:
    """Whether these repeats already show a program to be slower than ``limit``."""
    return min(seconds) > limit and sum(seconds) >= MIN_SLOW_SECONDS


def enough(seconds: list[float]) -> bool:
    """Whether these repeats say how fast a program is."""
    total = sum(seconds)
    if len(seconds) >= MAX_REPEATS or total >= MAX_SECONDS:
        return True
    return len(seconds) >= MIN_REPEATS and total >= MIN_SECONDS


def rng_of(key: str) -> np.random.Generator:
    """The generator of a task's inputs; ``key`` is hexadecimal, or any text."""
    return np.random.default_rng(list(key.encode()))


def random_array(
    rng: np.random.Generator, shape: tuple[int, ...], dtype: str, positive: bool = False
) -> Array:
    """Standard normal floats (their magnitude plus 0.1 if ``positive``), or small integers.

    Wide integers are 0 or 1: they may index a table of two rows. A large array repeats itself.
    """
    size = prod(shape)
    if size > DRAWN:
        drawn = random_array(rng, (DRAWN,), dtype, positive)
        result = np.empty(size, dtype=drawn.dtype)
        repeat(drawn, result)
        return result.reshape(shape)
    if dtype == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if "float" not in dtype:
        high = 8 if dtype in ("int8", "uint8") else 2
        return rng.integers(0, high, shape).astype(dtype)
    values = rng.standard_normal(shape, dtype=np.float32)
    return (np.abs(values) + np.float32(0.1) if positive else values).astype(dtype)


def repeat(values: Array, into: Array) -> None:
    """Fill a flat array with ``values``, again and again."""
    for start in range(0, len(into), len(values)):
        part = into[start : start + len(values)]
        part[:] = values[: len(part)]


def empty(dag: ComputeDAG, name: str) -> Any:
    """An output tensor, aligned as kernels demand."""
    return tvm.runtime.tensor(np.zeros(dag.shape_of(name), dtype=dag.dtype_of(name)))


def parallel_reference(dag: ComputeDAG) -> tvm.tirx.PrimFunc:
    """``to_tir(dag)`` with reductions outside the last spatial loop and the first ones parallel.

    No element's sum changes its order.
    """
    schedule = s_tir.Schedule(tvm.IRModule({"main": to_tir(dag)}))
    for stage in dag.stages:
        loops = schedule.get_loops(schedule.get_sblock(stage.name))
        spatial = [loop for loop, a in zip(loops, stage.axes, strict=True) if a.kind != REDUCE]
        reduce = [loop for loop, a in zip(loops, stage.axes, strict=True) if a.kind == REDUCE]
        if len(spatial) > 1:
            schedule.reorder(*spatial[:-1], *reduce, spatial[-1])
            schedule.parallel(schedule.fuse(*spatial[:-1]))
        elif spatial:
            schedule.parallel(spatial[0])
    return schedule.mod["main"]
