"""Tune a network from Python, compile it from the log, run it.

python examples/tune_network.py --trials 200
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from squeezenet import build

import ansor_lite as al


def main(trials: int, folder: Path) -> None:
    model = build()
    log = folder / "squeezenet.tune.jsonl"
    options = al.TuningOptions(trials=trials, seed=0)
    result = al.tune_model(model, options=options, log=log)
    print(f"{result.trials} trials in {result.seconds:.0f} s")

    module = al.compile(model, log=log)  # no search: the log is all it needs
    x = np.random.default_rng(0).standard_normal((1, 3, 224, 224), dtype=np.float32)
    outputs = module.run({"data_0": x})
    print({name: array.shape for name, array in outputs.items()})

    module.save(folder / "squeezenet.so")
    print(f"median latency {al.load(folder / 'squeezenet.so').bench().percentile(50) * 1e3:.2f} ms")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=200)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        main(arguments.trials, Path(temporary))
