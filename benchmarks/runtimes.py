"""Runtimes that take turns: each lives in its own child process and computes only when asked.

Read ``Runtime`` first, then ``main`` (the child). The protocol is one JSON object per line on the
child's standard input and output. A child answers only once its thread pool is at rest: pools spin
for a while after a run, and a spinning neighbour would slow whoever is timed next.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ansor_lite.errors import AnsorLiteError

Array: TypeAlias = NDArray[Any]
Run: TypeAlias = Callable[[], Mapping[str, Array]]

WARMUP_RUNS = 2
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
    """A child process ended or answered with an error."""


class Runtime:
    """A child process that runs one network. Use as a context manager."""

    def __init__(self, kind: str, path: Path, inputs: Path, threads: int) -> None:
        """``inputs``: a file of :func:`write_arrays`."""
        self.kind = kind
        arguments = [kind, str(path), str(inputs), "--threads", str(threads)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.runtimes", *arguments],
            cwd=Path(__file__).parent.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            self._answer()
        except RuntimeFailure:
            self.close()
            raise

    def seconds(self, runs: int) -> list[float]:
        """Seconds of each of ``runs`` inferences, after untimed ones that wake the threads."""
        found: list[float] = self._ask({"runs": runs})["seconds"]
        return found

    def outputs(self, path: Path) -> dict[str, Array]:
        """The outputs of one inference, by name; ``path`` is where the child leaves them."""
        self._ask({"outputs": str(path)})
        return read_arrays(path)

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
            raise RuntimeFailure(f"{self.kind} ended unexpectedly") from error
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeFailure(f"{self.kind} ended unexpectedly; see its messages above")
        answer: dict[str, Any] = json.loads(line)
        return answer


def _ansor_lite(path: str, feeds: Mapping[str, Array], threads: int) -> Run:
    import ansor_lite

    module = ansor_lite.load(path, threads=threads)
    return lambda: module.run(feeds)


def _onnxruntime(path: str, feeds: Mapping[str, Array], threads: int) -> Run:
    """All graph optimisations, spinning as by default, one operator at a time."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda: dict(zip(names, session.run(None, dict(feeds)), strict=True))


RUNTIMES: Mapping[str, Callable[[str, Mapping[str, Array], int], Run]] = {
    "ansor-lite": _ansor_lite,
    "onnxruntime": _onnxruntime,
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
    run = RUNTIMES[arguments.kind](arguments.path, feeds, arguments.threads)
    _reply(answers, {"ready": True})
    for line in sys.stdin:
        request = json.loads(line)
        if "runs" in request:
            _reply(answers, {"seconds": _timed(run, request["runs"])})
        else:
            write_arrays(Path(request["outputs"]), run())
            _reply(answers, {"outputs": True})


def _timed(run: Run, runs: int) -> list[float]:
    for _ in range(WARMUP_RUNS):
        run()
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        run()
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
