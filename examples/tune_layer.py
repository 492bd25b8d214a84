"""Tune one layer instead of a network: a 3x3 convolution with bias and ReLU.

python examples/tune_layer.py --trials 64
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import ansor_lite as al


def main(trials: int, log: Path) -> None:
    task = al.workloads.conv2d(n=1, h=56, w=56, ci=64, co=64, kernel=3, stride=1, padding=1)
    best = al.tune_task(task, options=al.TuningOptions(trials=trials), log=log)
    if best.seconds is None:
        print("no candidate ran")
    else:
        print(f"{best.seconds * 1e6:.0f} us, {task.flop / best.seconds / 1e9:.0f} GFLOP/s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=64)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        main(arguments.trials, Path(temporary) / "layer.tune.jsonl")
