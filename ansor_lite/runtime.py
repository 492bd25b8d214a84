"""A compiled network: run it, measure it, save it, load it.

Separate from the compiler so that running needs nothing of the search. Every run goes through
tensors that TVM allocated: kernels assume 64-byte alignment, which numpy does not promise.
"""

# imports TVM
from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm.runtime.vm import VirtualMachine

from ansor_lite.errors import InputError, ModuleInputError
from ansor_lite.frontend.network import TensorInfo
from ansor_lite.linker import shared_library_linker
from ansor_lite.manifest import SLICE_MARK, KernelInfo, Manifest, append_manifest, read_manifest
from ansor_lite.quiet import native_stderr_hidden
from ansor_lite.target import from_json, require_native
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


class CompiledModule:
    """A network compiled for one target. ``run`` may be called from several threads."""

    def __init__(self, source: Any, manifest: Manifest, threads: int | None = None) -> None:
        """``source``: a TVM executable, or the path of a library written by :meth:`save`."""
        self.manifest = replace(manifest, threads=threads or manifest.threads)
        self._source = source
        self._lock = threading.Lock()
        self._here = threading.local()
        self._elsewhere: ThreadPoolExecutor | None = None

    @cached_property
    def _vm(self) -> VirtualMachine:
        """Loaded on first use: a module that is only saved never pays for it."""
        require_native(from_json(self.manifest.target))
        loaded = isinstance(self._source, Path)
        with native_stderr_hidden():
            library = (
                tvm.runtime.load_module(str(self._source.resolve()))
                if loaded
                else self._source.jit()
            )
            return VirtualMachine(library, tvm.cpu())

    @cached_property
    def _main(self) -> Callable[..., Any]:
        function: Callable[..., Any] = self._vm["main"]
        return function

    @cached_property
    def _buffers(self) -> list[Any]:
        """Where inputs are copied before a run; reused by every run."""
        return [tvm.runtime.empty(i.shape, i.dtype) for i in self.inputs]

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
            outputs: dict[str, Array] = self._in_pool(lambda: self._run(arrays))
        return outputs

    def _run(self, arrays: list[Array]) -> dict[str, Array]:
        for buffer, array in zip(self._buffers, arrays, strict=True):
            buffer.copyfrom(array)
        result = self._main(*self._buffers)
        values = [result] if len(self.outputs) == 1 and not _is_tuple(result) else list(result)
        return {o.name: v.numpy() for o, v in zip(self.outputs, values, strict=True)}

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
                if isinstance(self._source, Path):
                    shutil.copyfile(self._source, part)
                else:
                    with native_stderr_hidden():
                        self._source.export_library(str(part), fcompile=shared_library_linker())
                    append_manifest(part, self.manifest)
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

        Time between kernels (allocation, copies of inputs and outputs) is in no kernel.
        """
        feeds = feeds if feeds is not None else self.random_inputs()
        self.run(feeds)
        runs = []
        for _ in range(repeats):
            with self._instrumented() as spent:
                self.run(feeds)
            runs.append(spent)
        times = []
        for kernel in self.manifest.kernels:
            totals = [sum(spent.get(kernel.symbol, ())) for spent in runs]
            calls = len(runs[0].get(kernel.symbol, ()))
            times.append(KernelTime(kernel, calls, float(np.median(totals))))
        return tuple(sorted(times, key=lambda t: -t.seconds))

    @contextmanager
    def _instrumented(self) -> Iterator[dict[str, list[float]]]:
        spent: dict[str, list[float]] = {}
        started = [0.0]

        def instrument(_function: Any, symbol: str, before: bool, _result: Any, *_: Any) -> int:
            if before:
                started[0] = time.perf_counter()
            else:
                kernel = symbol.split(SLICE_MARK)[0]
                spent.setdefault(kernel, []).append(time.perf_counter() - started[0])
            return 0

        self._vm.set_instrument(instrument)
        try:
            yield spent
        finally:
            self._vm.set_instrument(_no_instrument)


def _no_instrument(*_: Any) -> int:
    return 0


def load(path: str | Path, threads: int | None = None) -> CompiledModule:
    """A module written by :meth:`CompiledModule.save`; ``threads``: what it was compiled for.

    Raises :class:`InputError` when the file is none, or needs instructions that this CPU lacks.
    """
    path = Path(path)
    manifest = read_manifest(path)
    require_native(from_json(manifest.target))
    return CompiledModule(path, manifest, threads)


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


def _is_tuple(result: Any) -> bool:
    return not isinstance(result, tvm.runtime.Tensor)


def _random(info: TensorInfo, rng: np.random.Generator) -> Array:
    if info.dtype == "bool":
        return rng.integers(0, 2, info.shape).astype(bool)
    if "int" in info.dtype:
        return rng.integers(0, 100, info.shape).astype(info.dtype)
    return rng.standard_normal(info.shape).astype(info.dtype)
