"""A schedule for a task that nothing was measured of: the best of a sample, by the untrained model.

Read ``cost_model/cycles.py`` for what ranks it. Separate from the search, which measures: this is
what compiles a task without a record, where the rules' default choices can be two times off.
"""

from __future__ import annotations

import numpy as np

from cost_model.baseline import AnalyticModel
from cost_model.extract import features
from schedules.dag import ComputeDAG
from schedules.hardware import Hardware
from schedules.nest import effective_steps, follow
from schedules.steps import Step
from search_space.analysis import has_anchor
from search_space.sampling import SearchSpace, sample, unique
from search_space.sketch_generation import default_steps, generate_sketches

# Rows drawn per task: some ten milliseconds.
SAMPLE = 512


def good_steps(dag: ComputeDAG, hardware: Hardware, seed: int = 0) -> tuple[Step, ...]:
    """Closed steps of the best of ``SAMPLE`` random rows, by estimated cycles.

    Programs without an anchor get the default: their choices matter less than the estimate errs.
    Like the default, the result rounds like the plain sums. Raises ``ScheduleError`` when no rule
    schedules the program.
    """
    if not has_anchor(dag):
        return default_steps(dag, hardware)
    sketches = generate_sketches(dag, hardware, exact=True)
    rows = unique(sample(SearchSpace(sketches), SAMPLE, np.random.default_rng(seed)))
    model, best, steps = AnalyticModel(), -np.inf, default_steps(dag, hardware)
    for sketch, choices in zip(sketches, rows, strict=True):
        if len(choices):
            scores = model.predict(features(follow(sketch, choices), hardware))
            if scores.max() > best:
                best = float(scores.max())
                steps = effective_steps(sketch, choices[int(scores.argmax())])
    return steps
