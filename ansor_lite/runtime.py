"""A compiled network: run it, measure it, save it, load it.

Separate from the compiler so that running needs nothing of the search, and of TVM only its runtime
library. ``executor.py`` is what happens in a run.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ansor_lite.errors import InputError, ModuleInputError
from ansor_lite.events import OnEvent, TuningWarning, ignore
from ansor_lite.executor import Code, Executor
from ansor_lite.frontend.network import TensorInfo
from ansor_lite.manifest import SLICE_MARK, KernelInfo, Manifest, read_manifest, resident_weights
from ansor_lite.quiet import native_stderr_hidden
from ansor_lite.runtime_library import LoadedCode
from ansor_lite.target import available_threads, from_json, require_cpus, require_native
from ansor_lite.threadpool import pool_size, use_threads

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds of repeated runs."""

    seconds: tuple[float, ...]

    def percentile(self, q: float) -> float:
        return float(np.percentile(self.seconds, q))

    @property
    def mean(self) -> float:
        return float(np.mean(self.seconds))

    @property
    def minimum(self) -> float:
        return min(self.seconds)


@dataclass(frozen=True, slots=True)
class KernelTime:
    """Seconds that all calls of one kernel took in one run of the network."""

    kernel: KernelInfo
    calls: int
    seconds: float

    @property
    def gflops(self) -> float:
        return self.kernel.gflop * self.calls / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Overhead:
    """Seconds of one run, and how many of them are spent outside kernels: medians."""

    run: float
    outside: float

    @property
    def share(self) -> float:
        return self.outside / self.run


class Source(Protocol):
    """Where the code and the weights of a module are: in memory, or in a file."""

    def code(self) -> Code: ...

    def weights(self) -> Sequence[Array]: ...

    def write(self, path: Path, manifest: Manifest) -> None:
        """The whole module as one file."""


@dataclass(frozen=True, slots=True)
class FileSource:
    """A file written by :meth:`CompiledModule.save`; its weights start at byte ``start``."""

    path: Path
    manifest: Manifest
    start: int

    def code(self) -> Code:
        return LoadedCode(self.path)

    def weights(self) -> Sequence[Array]:
        return resident_weights(self.path, self.manifest.program, self.start)

    def write(self, path: Path, manifest: Manifest) -> None:
        shutil.copyfile(self.path, path)


class CompiledModule:
    """A network compiled for one target. ``run`` may be called from several threads."""

    def __init__(self, source: Source, manifest: Manifest, threads: int | None = None) -> None:
        self.manifest = replace(manifest, threads=threads or manifest.threads)
        self._source = source
        self._lock = threading.Lock()
        self._here = threading.local()
        self._elsewhere: ThreadPoolExecutor | None = None

    @cached_property
    def _executor(self) -> Executor:
        """Loaded on first use: a module that is only saved never pays for it."""
        require_native(from_json(self.manifest.target))
        with native_stderr_hidden():
            code = self._source.code()
        return Executor(self.manifest.program, code, self._source.weights())

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        return self.manifest.inputs

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        return self.manifest.outputs

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """One inference: arrays by input name in, fresh arrays by output name out.

        Raises :class:`ModuleInputError` that names the input that is missing, unknown, or of the
        wrong shape or dtype.
        """
        arrays = self._checked(feeds)
        with self._lock:
            results: list[Array] = self._in_pool(lambda: self._executor.run(arrays))
        return {o.name: array for o, array in zip(self.outputs, results, strict=True)}

    def _in_pool(self, work: Callable[[], Any]) -> Any:
        """``work()`` in a thread whose pool has our number of threads: this one if possible."""
        if getattr(self._here, "configured", False) and pool_size() == self.manifest.threads:
            return work()
        if not getattr(self._here, "refused", False):
            self._here.configured = use_threads(self.manifest.threads)
            self._here.refused = not self._here.configured
            if self._here.configured:
                return work()
        if self._elsewhere is None:
            self._elsewhere = ThreadPoolExecutor(1, "ansor-lite")
            self._elsewhere.submit(use_threads, self.manifest.threads).result()
        return self._elsewhere.submit(work).result()

    def _checked(self, feeds: Mapping[str, Array]) -> list[Array]:
        if not isinstance(feeds, Mapping):
            kind = type(feeds).__name__
            raise ModuleInputError(f"inputs are a dict from names to arrays, not {kind}")
        known = {i.name for i in self.inputs}
        for name in feeds:
            if name not in known:
                raise ModuleInputError(
                    f"unknown input {name!r}; inputs: {', '.join(sorted(known))}"
                )
        return [_checked_array(info, feeds) for info in self.inputs]

    def save(self, path: str | Path) -> Path:
        """Write one shared library with the manifest inside; replaces ``path`` only when complete.

        Raises :class:`InputError` when ``path`` cannot be written or nothing can link.
        """
        path = Path(path)
        try:
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
                part = Path(folder) / "module.so"
                with native_stderr_hidden():
                    self._source.write(part, self.manifest)
                os.replace(part, path)
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror or error}") from error
        return path

    def random_inputs(self, seed: int = 0) -> dict[str, Array]:
        """Arrays of the right names, shapes and dtypes; integers are small."""
        rng = np.random.default_rng(seed)
        return {i.name: _random(i, rng) for i in self.inputs}

    def bench(
        self, repeats: int = 50, warmup: int = 5, feeds: Mapping[str, Array] | None = None
    ) -> Latency:
        """Wall-clock seconds of ``repeats`` calls of :meth:`run`."""
        feeds = feeds if feeds is not None else self.random_inputs()
        for _ in range(warmup):
            self.run(feeds)
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            self.run(feeds)
            seconds.append(time.perf_counter() - start)
        return Latency(tuple(seconds))

    def profile(
        self, repeats: int = 10, feeds: Mapping[str, Array] | None = None
    ) -> tuple[KernelTime, ...]:
        """Median seconds per kernel over ``repeats`` runs, slowest first.

        Time between kernels (:meth:`overhead`) is in no kernel.
        """
        arrays = self._checked(feeds if feeds is not None else self.random_inputs())
        with self._lock:
            self._in_pool(lambda: self._executor.run(arrays))
            runs = [self._in_pool(lambda: self._executor.timed_run(arrays)) for _ in range(repeats)]
        return _kernel_times(self.manifest.kernels, [_by_kernel(run) for run in runs])

    def overhead(self, repeats: int = 50, feeds: Mapping[str, Array] | None = None) -> Overhead:
        """What a run costs beside its kernels: checks, results, the calls themselves.

        Whole runs and runs timed kernel by kernel take turns, and each pair gives a difference.
        What the timer adds to each kernel is subtracted.
        """
        feeds = feeds if feeds is not None else self.random_inputs()
        arrays = self._checked(feeds)
        self.run(feeds)
        whole, kernels = [], []
        for _ in range(repeats):
            start = time.perf_counter()
            self.run(feeds)
            whole.append(time.perf_counter() - start)
            with self._lock:
                timed = self._in_pool(lambda: self._executor.timed_run(arrays))
                timer = self._in_pool(self._executor.timer_seconds)
            kernels.append(sum(seconds - timer for _, seconds in timed))
        return Overhead(float(np.median(whole)), float(np.median(np.subtract(whole, kernels))))


def _by_kernel(run: Sequence[tuple[str, float]]) -> dict[str, list[float]]:
    """Seconds of the calls of each kernel, whatever slice of a result they wrote."""
    spent: dict[str, list[float]] = {}
    for symbol, seconds in run:
        spent.setdefault(symbol.split(SLICE_MARK)[0], []).append(seconds)
    return spent


def _kernel_times(
    kernels: Sequence[KernelInfo], runs: Sequence[Mapping[str, list[float]]]
) -> tuple[KernelTime, ...]:
    times = []
    for kernel in kernels:
        totals = [sum(spent.get(kernel.symbol, ())) for spent in runs]
        calls = len(runs[0].get(kernel.symbol, ()))
        times.append(KernelTime(kernel, calls, float(np.median(totals))))
    return tuple(sorted(times, key=lambda t: -t.seconds))


def load(
    path: str | Path, threads: int | None = None, on_event: OnEvent = ignore
) -> CompiledModule:
    """A module written by :meth:`CompiledModule.save`, to run with ``threads``.

    ``threads=None``: what it was compiled for, or all CPUs that this process may use if these are
    fewer, of which ``on_event`` hears a warning. Raises :class:`InputError` when the file is none,
    needs instructions that this CPU lacks, or ``threads`` are more than those CPUs.
    """
    path = Path(path)
    manifest, start = read_manifest(path)
    require_native(from_json(manifest.target))
    if threads is not None:
        require_cpus(threads)
    elif (cpus := available_threads()) < manifest.threads:
        threads = cpus
        made = f"{path.name} was compiled for {manifest.threads} threads"
        on_event(TuningWarning(f"{made}; it runs with {cpus}, the CPUs that this process may use"))
    return CompiledModule(FileSource(path, manifest, start), manifest, threads)


def _checked_array(info: TensorInfo, feeds: Mapping[str, Array]) -> Array:
    if info.name not in feeds:
        raise ModuleInputError(f"missing input {info.name!r} ({info.dtype}{list(info.shape)})")
    array = np.asarray(feeds[info.name])
    if array.shape != info.shape:
        raise ModuleInputError(
            f"input {info.name!r} has shape {list(array.shape)}, expected {list(info.shape)}"
        )
    if array.dtype.name != info.dtype:
        raise ModuleInputError(
            f"input {info.name!r} has dtype {array.dtype.name}, expected {info.dtype}"
        )
    return np.ascontiguousarray(array).reshape(info.shape)


def _random(info: TensorInfo, rng: np.random.Generator) -> Array:
    if info.dtype == "bool":
        return rng.integers(0, 2, info.shape).astype(bool)
    if "int" in info.dtype:
        return rng.integers(0, 100, info.shape).astype(info.dtype)
    return rng.standard_normal(info.shape).astype(info.dtype)
