"""Tunes SqueezeNet for a minute or two and shows what it brought; ``scripts/demo`` runs it.

Three latencies are measured in turns, so that a busy moment hits all of them alike: the network
compiled without any tuning, with it, and onnxruntime where that is installed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import onnx
from squeezenet import build

import ansor_lite as al

TURNS = 40
# Thread pools spin for a while after a run; the next runtime would share its CPUs with them.
REST_SECONDS = 0.03
TUNE_MODEL = "from ansor_lite.cli import tune_model_main; tune_model_main()"
Run = Callable[[], np.ndarray]


def main(seconds: float, threads: int | None, folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    model, log, library = (folder / f"squeezenet{s}" for s in (".onnx", ".tune.jsonl", ".so"))
    onnx.save(build(), model)
    tune = [sys.executable, "-c", TUNE_MODEL, str(model)]
    tune += ["--time", f"{seconds:g}", "--log", str(log), "-o", str(library)]
    tune += ["--threads", str(threads)] if threads else []
    print("$ tune-model", " ".join(tune[3:]), flush=True)
    if code := subprocess.run(tune, check=False).returncode:
        return code

    x = np.random.default_rng(0).standard_normal((1, 3, 224, 224), dtype=np.float32)
    untuned, tuned = al.compile(model, threads=threads), al.load(library, threads=threads)
    runs: dict[str, Run] = {
        "untuned": lambda: untuned.run({"data_0": x})["softmaxout_1"],
        "tuned": lambda: tuned.run({"data_0": x})["softmaxout_1"],
    }
    if peer := onnxruntime_run(model, x, tuned.manifest.threads):
        runs["onnxruntime"] = peer
    show(measure_in_turns(runs), {name: run() for name, run in runs.items()})
    return 0


def onnxruntime_run(model: Path, x: np.ndarray, threads: int) -> Run | None:
    try:
        import onnxruntime
    except ImportError:
        return None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"data_0": x})[0]


def measure_in_turns(runs: dict[str, Run]) -> dict[str, float]:
    """Median seconds of each, measured alternately."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(TURNS):
        for name, run in runs.items():
            time.sleep(REST_SECONDS)
            run()
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: median(values) for name, values in seconds.items()}


def show(latencies: dict[str, float], outputs: dict[str, np.ndarray]) -> None:
    reference = outputs.get("onnxruntime", outputs["untuned"])
    print(f"\n{'SqueezeNet':<14}{'latency':>10}{'gain':>8}{'deviation':>12}")
    for name, seconds in latencies.items():
        gain = latencies["untuned"] / seconds
        deviation = np.abs(outputs[name] - reference).max() / np.abs(reference).max()
        print(f"{name:<14}{seconds * 1e3:>7.2f} ms{gain:>7.2f}x{deviation:>12.1e}")
    if "onnxruntime" not in latencies:
        print("(install onnxruntime beside it to compare: pip install onnxruntime)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--time", type=float, default=90.0, help="seconds of tuning")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--folder", type=Path, default=Path("build/demo"))
    arguments = parser.parse_args()
    sys.exit(main(arguments.time, arguments.threads, arguments.folder))
