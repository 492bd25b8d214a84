"""What this machine can do at best: multiply-adds and copied bytes per second, measured.

The denominators of "share of peak". Read ``measure_peak`` first; it runs this module in a child
process, because two tiny kernels are run there. What is read or copied lies in the same kind of
memory as tensors do (``memory.py``). Separate from the workers that time candidates: it runs before
them, once.
"""

# imports TVM
from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansor_lite.errors import MeasurementError
from ansor_lite.memory import arena
from ansor_lite.target import Target, parse

if TYPE_CHECKING:
    import tvm

# Chains of dependent multiply-adds: enough to hide a latency of four cycles in two units.
CHAINS = 12
FMA_STEPS = 60_000
# Sums that a chunk is read into: enough for loads, not additions, to be what is waited for.
READ_SUMS = 8
COPY_BYTES = 128 * 1024 * 1024
SECONDS = 0.7
TIMEOUT_SECONDS = 60.0
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Peak:
    """``gflops``: float32 multiply-adds count as two. ``copy_gbs``: bytes read plus written."""

    threads: int
    gflops: float
    copy_gbs: float


def measure_peak(target: Target) -> Peak:
    """Peak of ``target.threads`` threads of this machine, in about three seconds.

    Raises :class:`MeasurementError` when the child process fails.
    """
    command = [sys.executable, "-m", "ansor_lite.measure.peak", json.dumps(target.to_json())]
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MeasurementError(f"the peak of this machine cannot be measured: {error}") from error
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise MeasurementError(f"the peak of this machine cannot be measured: {last}")
    return Peak(**json.loads(done.stdout.splitlines()[-1]))


def main(argv: list[str] | None = None) -> None:
    """The child process: measures, prints one line of JSON."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("target", help="JSON form of the target")
    target = parse(parser.parse_args(argv).target)
    from ansor_lite.threadpool import use_threads

    use_threads(target.threads)
    print(json.dumps(asdict(Peak(target.threads, _gflops(target), _copy_gbs(target)))))


def _gflops(target: Target) -> float:
    run, flop = fma_run(target)
    return flop / _best_seconds(run) / 1e9


def _copy_gbs(target: Target) -> float:
    run, moved = copy_run(target, COPY_BYTES)
    return moved / _best_seconds(run) / 1e9


def fma_run(target: Target) -> tuple[Callable[[], Any], float]:
    """A call that only multiplies and adds, in this process, and its floating-point operations.

    The pool of the calling thread must have ``target.threads`` threads.
    """
    import numpy as np
    import tvm

    lanes = target.vector_bytes // 4
    run = _build(fma_kernel(target.threads, lanes), target)
    factors = tvm.runtime.tensor(np.full((2, lanes), 0.5, "float32"))
    sums = tvm.runtime.empty((target.threads, CHAINS, lanes), "float32")
    return lambda: run(factors, sums), 2.0 * target.threads * CHAINS * lanes * FMA_STEPS


def copy_run(target: Target, size: int) -> tuple[Callable[[], Any], float]:
    """A call that copies about ``size`` bytes, and the bytes that it reads and writes together."""
    lanes = target.vector_bytes // 4
    chunks, chunk = _chunks(size, target, lanes)
    run = _build(copy_kernel(chunks, chunk, lanes), target)
    source, result = _ones(chunks * chunk), _ones(chunks * chunk)
    return lambda: run(source, result), 2.0 * 4 * chunks * chunk


def read_run(target: Target, size: int) -> tuple[Callable[[], Any], float, tvm.runtime.Tensor]:
    """A call that reads about ``size`` bytes once and does next to nothing else, how many bytes it
    reads, and the tensor that it reads.
    """
    lanes = target.vector_bytes // 4
    chunks, chunk = _chunks(size, target, READ_SUMS * lanes)
    run = _build(read_kernel(chunks, chunk, lanes), target)
    source, sums = _ones(chunks * chunk), _ones(chunks * READ_SUMS * lanes)
    return lambda: run(source, sums), 4.0 * chunks * chunk, source


def _chunks(size: int, target: Target, step: int) -> tuple[int, int]:
    """About ``size`` bytes of floats as parts, enough for every thread, of whole ``step`` s."""
    chunks = 64 if size >= 64 * 64 * target.vector_bytes else target.threads
    return chunks, max(1, size // (4 * chunks * step)) * step


def _ones(count: int) -> tvm.runtime.Tensor:
    """Flat floats; written, because memory that never was reads as one page of zeros."""
    import tvm

    memory = arena(4 * count).view("float32")
    memory.fill(1.0)
    return tvm.runtime.from_dlpack(memory)


def _best_seconds(call: Callable[[], Any]) -> float:
    """The least of many short runs: disturbances only ever add time."""
    begun, best = time.perf_counter(), float("inf")
    while (start := time.perf_counter()) - begun < SECONDS:
        call()
        best = min(best, time.perf_counter() - start)
    return best


def _build(function: tvm.tirx.PrimFunc, target: Target) -> Callable[..., Any]:
    import tvm

    scheduled = function.with_attr("tirx.is_scheduled", True).with_attr("tirx.noalias", True)
    return tvm.compile(tvm.IRModule({"main": scheduled}), target.tvm())["main"]  # type: ignore[no-any-return]


def fma_kernel(threads: int, lanes: int) -> tvm.tirx.PrimFunc:
    """Per thread ``CHAINS`` registers, each updated ``x = x * a + b`` ``FMA_STEPS`` times."""
    from tvm.script import tirx as T

    @T.prim_func(s_tir=True)  # type: ignore[untyped-decorator]
    def fma(
        factors: T.Buffer((2, lanes), "float32"),  # type: ignore[valid-type]
        sums: T.Buffer((threads, CHAINS, lanes), "float32"),  # type: ignore[valid-type]
    ) -> None:
        registers = T.sblock_alloc_buffer((CHAINS, lanes), "float32", scope="local")
        for t in T.parallel(threads):
            for c in T.unroll(CHAINS):
                for v in T.vectorized(lanes):
                    registers[c, v] = factors[0, v]
            for _k in T.serial(FMA_STEPS):
                for c in T.unroll(CHAINS):
                    for v in T.vectorized(lanes):
                        registers[c, v] = registers[c, v] * factors[0, v] + factors[1, v]
            for c in T.unroll(CHAINS):
                for v in T.vectorized(lanes):
                    sums[t, c, v] = registers[c, v]

    return fma


def copy_kernel(chunks: int, chunk: int, lanes: int) -> tvm.tirx.PrimFunc:
    """Copies ``chunks * chunk`` floats, the chunks in parallel."""
    from tvm.script import tirx as T

    @T.prim_func(s_tir=True)  # type: ignore[untyped-decorator]
    def copy(
        source: T.Buffer((chunks * chunk,), "float32"),  # type: ignore[valid-type]
        result: T.Buffer((chunks * chunk,), "float32"),  # type: ignore[valid-type]
    ) -> None:
        for p in T.parallel(chunks):
            for i in T.serial(chunk // lanes):
                for v in T.vectorized(lanes):
                    result[p * chunk + i * lanes + v] = source[p * chunk + i * lanes + v]

    return copy


def read_kernel(chunks: int, chunk: int, lanes: int) -> tvm.tirx.PrimFunc:
    """Adds up ``chunks * chunk`` floats, the chunks in parallel, each in ``READ_SUMS`` vectors."""
    from tvm.script import tirx as T

    @T.prim_func(s_tir=True)  # type: ignore[untyped-decorator]
    def read(
        source: T.Buffer((chunks * chunk,), "float32"),  # type: ignore[valid-type]
        sums: T.Buffer((chunks * READ_SUMS * lanes,), "float32"),  # type: ignore[valid-type]
    ) -> None:
        registers = T.sblock_alloc_buffer((READ_SUMS, lanes), "float32", scope="local")
        for p in T.parallel(chunks):
            for s in T.unroll(READ_SUMS):
                for v in T.vectorized(lanes):
                    registers[s, v] = T.float32(0.0)
            for i in T.serial(chunk // (READ_SUMS * lanes)):
                for s in T.unroll(READ_SUMS):
                    for v in T.vectorized(lanes):
                        registers[s, v] += source[p * chunk + (i * READ_SUMS + s) * lanes + v]
            for s in T.unroll(READ_SUMS):
                for v in T.vectorized(lanes):
                    sums[(p * READ_SUMS + s) * lanes + v] = registers[s, v]

    return read


if __name__ == "__main__":
    main()
