"""Runtimes that take turns: each lives in its own child process and computes only when asked.

Read ``Runtime`` first, then ``main`` (the child). The protocol is one JSON object per line on the
child's standard input and output. A child answers only once its thread pool is at rest: pools spin
for a while after a run, and a spinning neighbour would slow whoever is timed next. A child imports
numpy and what it runs, nothing else, so a peer may live under another interpreter.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ansor_lite.errors import AnsorLiteError

Array: TypeAlias = NDArray[Any]
Run: TypeAlias = Callable[[], Mapping[str, Array]]

# A child that says nothing for this long has hung.
LIMIT_SECONDS = 600.0
# A process is at rest when it used less than this share of one core for REST_SECONDS.
REST_SHARE = 0.05
REST_SECONDS = 0.02
REST_LIMIT = 3.0


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """One ``.npz`` file; names of tensors may be anything, so they are stored apart."""
    entries: dict[str, Any] = {f"array_{i}": array for i, array in enumerate(arrays.values())}
    entries["names"] = np.array(list(arrays), dtype=np.str_)
    np.savez(path, **entries)


def read_arrays(path: Path) -> dict[str, Array]:
    """What :func:`write_arrays` wrote."""
    with np.load(path) as file:
        return {str(name): file[f"array_{i}"] for i, name in enumerate(file["names"])}


class RuntimeFailure(AnsorLiteError):
    """A child process ended, hung or answered with an error; the message says why."""


class Runtime:
    """A child process that runs one network or operator. Use as a context manager.

    ``facts`` is what the child says about itself, such as its version.
    """

    def __init__(
        self, kind: str, path: Path, inputs: Path, threads: int, python: str = sys.executable
    ) -> None:
        """``inputs``: a file of :func:`write_arrays`; ``python``: the interpreter to run under.

        Raises :class:`RuntimeFailure` when the child does not come to be ready.
        """
        self.kind = kind
        self._messages = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the child)
        arguments = [kind, str(path), str(inputs), "--threads", str(threads)]
        try:
            self._process = subprocess.Popen(
                [python, "-m", "benchmarks.runtimes", *arguments],
                cwd=Path(__file__).parent.parent,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._messages,
                text=True,
            )
        except OSError as error:
            self._messages.close()
            raise RuntimeFailure(f"{kind}: {python} does not start: {error.strerror}") from error
        try:
            self.facts: dict[str, Any] = self._answer()
        except RuntimeFailure:
            self.close()
            raise

    def seconds(self, runs: int, warmups: int) -> list[float]:
        """Seconds of each of ``runs`` inferences, after untimed ones that wake the threads."""
        found: list[float] = self._ask({"runs": runs, "warmups": warmups})["seconds"]
        return found

    def outputs(self, path: Path) -> dict[str, Array]:
        """The outputs of one inference, by name; ``path`` is where the child leaves them."""
        self._ask({"outputs": str(path)})
        return read_arrays(path)

    def peak_bytes(self) -> int | None:
        """Most memory that was resident so far, interpreter and libraries included."""
        return status_bytes(self._process.pid, "VmHWM")

    def close(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._messages.close()

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise RuntimeFailure(f"{self.kind}: {self._reason()}") from error
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        """The child's next line. There is never more than one under way, so waiting is safe."""
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], LIMIT_SECONDS)[0]:
            self._process.kill()
            raise RuntimeFailure(f"{self.kind}: no answer within {LIMIT_SECONDS:g} seconds")
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeFailure(f"{self.kind}: {self._reason()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _reason(self) -> str:
        """Why the child has ended: its signal, or the last line that it wrote."""
        code = self._process.wait()
        if code < 0:
            return f"ended by {signal.Signals(-code).name}"
        self._messages.seek(0)
        lines = self._messages.read().decode(errors="replace").split("\n")
        written = [line.strip() for line in lines if line.strip()]
        return (written[-1] if written else f"ended with exit code {code}")[:300]


def status_bytes(pid: int, field_name: str) -> int | None:
    """``VmHWM`` or ``VmRSS`` of a process in bytes; ``None`` where nothing says."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith(f"{field_name}:")]
    return int(found[0]) * 1024 if found else None


@dataclass(frozen=True, slots=True)
class Request:
    """What a child is asked to run."""

    path: str
    feeds: Mapping[str, Array]
    threads: int


def nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Loaded:
    """One inference, and what the child has to say about it.

    ``prepare`` is called before each run, outside its time.
    """

    run: Run
    facts: Mapping[str, Any] = field(default_factory=dict)
    prepare: Callable[[], None] = nothing


def _ansor_lite(request: Request) -> Loaded:
    import ansor_lite

    module = ansor_lite.load(request.path, threads=request.threads)
    return Loaded(lambda: module.run(request.feeds), {"version": ansor_lite.__version__})


def _onnxruntime(request: Request) -> Loaded:
    """All graph optimisations, spinning as by default, one operator at a time."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = request.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = onnxruntime.InferenceSession(
        request.path, options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    feeds = dict(request.feeds)
    return Loaded(
        lambda: dict(zip(names, session.run(None, feeds), strict=True)),
        {"version": onnxruntime.__version__},
    )


def _openvino(request: Request) -> Loaded:
    """One infer request that is reused, float32, tuned for latency; inputs are not copied."""
    import openvino

    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": request.threads,
    }
    compiled = openvino.Core().compile_model(request.path, "CPU", settings)
    infer = compiled.create_infer_request().infer
    # A value may have several names in the ONNX file; which one is the output's is not said.
    ports = [(port.index, sorted(port.get_names())) for port in compiled.outputs]
    feeds = dict(request.feeds)

    def run() -> dict[str, Array]:
        values = infer(feeds, share_inputs=True, share_outputs=False)
        return {name: values[index] for index, names in ports for name in names}

    return Loaded(run, {"version": openvino.__version__, "settings": settings})


def _fma_peak(request: Request) -> Loaded:
    """Nothing but multiply-adds in registers: what the share of peak is a share of."""
    from ansor_lite.measure.peak import fma_run
    from ansor_lite.target import native
    from ansor_lite.threadpool import use_threads

    use_threads(request.threads)
    run, flop = fma_run(native(request.threads))
    return Loaded(lambda: run() or {}, {"gflop": flop / 1e9})


def _copy(request: Request) -> Loaded:
    """Copies half as many bytes as ``path`` says: what moving that footprint costs at least."""
    from ansor_lite.measure.peak import copy_run
    from ansor_lite.target import native
    from ansor_lite.threadpool import use_threads

    use_threads(request.threads)
    run, moved = copy_run(native(request.threads), int(request.path) // 2)
    return Loaded(lambda: run() or {}, {"bytes": moved})


def _operator(request: Request) -> Loaded:
    from benchmarks.operator_program import load

    return load(request)


def _cold_operator(request: Request) -> Loaded:
    from benchmarks.operator_program import WEIGHTS, load

    return load(request, cold=WEIGHTS)


def _operator_from_memory(request: Request) -> Loaded:
    from benchmarks.operator_program import INPUTS, load

    return load(request, cold=INPUTS)


def _read(request: Request) -> Loaded:
    from benchmarks.operator_program import load_read

    return load_read(request)


def _read_from_memory(request: Request) -> Loaded:
    from benchmarks.operator_program import load_read

    return load_read(request, cold=True)


def _torch(request: Request) -> Loaded:
    from benchmarks.torch_operator import load

    return load(request)


def _torch_attention(request: Request) -> Loaded:
    from benchmarks.torch_attention import load

    return load(request)


FMA_PEAK = "fma-peak"

RUNTIMES: Mapping[str, Callable[[Request], Loaded]] = {
    "ansor-lite": _ansor_lite,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "torch": _torch,
    "torch-attention": _torch_attention,
    "operator": _operator,
    "cold-operator": _cold_operator,
    "operator-from-memory": _operator_from_memory,
    "copy": _copy,
    "read": _read,
    "read-from-memory": _read_from_memory,
    FMA_PEAK: _fma_peak,
}


def main() -> None:
    """The child: loads, reports that it is ready, then answers requests until input ends."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("kind", choices=sorted(RUNTIMES))
    parser.add_argument("path")
    parser.add_argument("inputs")
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    # Whatever a library prints must not mix with the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    feeds = read_arrays(Path(arguments.inputs))
    loaded = RUNTIMES[arguments.kind](Request(arguments.path, feeds, arguments.threads))
    _reply(answers, loaded.facts)
    for line in sys.stdin:
        request = json.loads(line)
        if "runs" in request:
            _reply(answers, {"seconds": _timed(loaded, request["runs"], request["warmups"])})
        else:
            write_arrays(Path(request["outputs"]), loaded.run())
            _reply(answers, {})


def _timed(loaded: Loaded, runs: int, warmups: int) -> list[float]:
    for _ in range(warmups):
        loaded.run()
    seconds = []
    for _ in range(runs):
        loaded.prepare()
        start = time.perf_counter()
        loaded.run()
        seconds.append(time.perf_counter() - start)
    return seconds


def _reply(answers: Any, answer: Mapping[str, Any]) -> None:
    _rest()
    print(json.dumps(answer), file=answers, flush=True)


def _rest() -> None:
    """Wait until no thread of this process computes, at most ``REST_LIMIT`` seconds."""
    end = time.monotonic() + REST_LIMIT
    used = REST_SECONDS
    while used > REST_SHARE * REST_SECONDS and time.monotonic() < end:
        before = time.process_time()
        time.sleep(REST_SECONDS)
        used = time.process_time() - before


if __name__ == "__main__":
    main()
