"""Steps and DAGs travel through JSON unchanged; nothing else passes."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_tasks import HARDWARE, SMALL

from schedules.codec import (
    dag_from_json,
    dag_to_json,
    expr_from_json,
    expr_to_json,
    steps_from_json,
    steps_to_json,
)
from schedules.errors import ScheduleError
from schedules.expr import Const
from schedules.nest import all_effective_steps
from schedules.steps import STEP_TYPES, Step, Tile
from search_space.sketch_generation import generate_sketches

_name = st.text(min_size=1, max_size=6)
_count = st.integers(1, 1 << 20)
_BY_TYPE: dict[str, st.SearchStrategy[Any]] = {
    "str": _name,
    "int": _count,
    "bool": st.booleans(),
    "tuple[str, ...]": st.lists(_name, max_size=4).map(tuple),
    "tuple[Number, ...]": st.lists(_count, max_size=4).map(tuple),
    "tuple[str, str] | None": st.none() | st.tuples(_name, _name),
}


def _steps() -> st.SearchStrategy[Step]:
    return st.one_of(
        *(
            st.builds(cls, **{f.name: _BY_TYPE[str(f.type)] for f in fields(cls)})
            for cls in STEP_TYPES.values()
        )
    )


@given(st.lists(_steps(), max_size=6))
def test_steps_come_back(steps: list[Step]) -> None:
    text = json.dumps(steps_to_json(tuple(steps)))
    assert steps_from_json(json.loads(text)) == tuple(steps)


@pytest.mark.parametrize("name", ("conv2d", "batch_matmul_transposed", "softmax"))
def test_candidates_come_back(name: str) -> None:
    for sketch in generate_sketches(SMALL[name](), HARDWARE):
        for steps in all_effective_steps(sketch, sketch.random(3, np.random.default_rng(0))):
            assert steps_from_json(json.loads(json.dumps(steps_to_json(steps)))) == steps


@pytest.mark.parametrize("name", SMALL)
def test_programs_come_back(name: str) -> None:
    dag = SMALL[name]()
    again = dag_from_json(json.loads(json.dumps(dag_to_json(dag), allow_nan=False)))
    assert again == dag
    assert again.key == dag.key


@pytest.mark.parametrize("value", (float("inf"), float("-inf"), 1.5, 7, True))
def test_literals_come_back(value: float) -> None:
    text = json.dumps(expr_to_json(Const(value, "float32")), allow_nan=False)
    again = expr_from_json(json.loads(text))
    assert isinstance(again, Const)
    assert again.value == value
    assert type(again.value) is type(value)


def test_refuses_an_open_step() -> None:
    sketch = generate_sketches(SMALL["matmul"](), HARDWARE)[0]
    with pytest.raises(ScheduleError, match="is an open number; close the sketch first"):
        steps_to_json(sketch.steps)


REFUSED: dict[str, tuple[Any, str]] = {
    "no list": (7, "not a list of steps"),
    "no tag": ([[]], "not a list of steps"),
    "unknown tag": ([["teleport", "y"]], "not a list of steps: 'teleport'"),
    "too few": ([["tile", "y", "i"]], "step 'tile' takes 3 fields, not 2"),
    "a fraction": ([["tile", "y", "i", [1.5]]], "1.5 cannot be part of a step"),
    "an object": ([["inline", {"a": 1}]], "cannot be part of a step"),
    "no number": ([["tile", "y", "i", ["x"]]], r"factors of step 'tile' cannot be \('x',\)"),
    "nothing": ([["tile", "y", "i", [0]]], r"factors of step 'tile' cannot be \(0,\)"),
    "negative": ([["split_reduction", "y", "k", -2, True]], "lanes of step .* cannot be -2"),
    "a truth": ([["split_reduction", "y", "k", True, True]], "lanes of step .* cannot be True"),
    "no truth": ([["split_reduction", "y", "k", 2, 1]], "interleaved of step .* cannot be 1"),
    "half a place": ([["pack", "y", "w", ["z"]]], r"at of step 'pack' cannot be \('z',\)"),
    "no names": ([["reorder", "y", "i.0"]], "loops of step 'reorder' cannot be 'i.0'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_because(name: str) -> None:
    value, reason = REFUSED[name]
    with pytest.raises(ScheduleError, match=reason):
        steps_from_json(value)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=4),
        lambda inner: st.lists(inner, max_size=4),
        max_leaves=8,
    )
)
def test_any_json_is_steps_or_refused(value: Any) -> None:
    try:
        steps = steps_from_json([value])
    except ScheduleError:
        return
    assert steps_to_json(steps) == [value]


def test_tags_never_change() -> None:
    """They are part of the log format."""
    assert " ".join(STEP_TYPES) == (
        "inline cache_write split_reduction minimal_filtering quarter_products pair_products "
        "divide_late chunk shifted_moments reciprocal copy_read permute split_axis split_window "
        "tile reorder compute_at store_at pack annotate scope limit"
    )
    assert steps_to_json((Tile("y", "i", (2, 4)),)) == [["tile", "y", "i", [2, 4]]]
