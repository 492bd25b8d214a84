"""Sums of shares are divided once, and order of dimensions is a choice; values stay."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import programs
import pytest
from small_tasks import SMALL

from schedules.dag import ComputeDAG
from schedules.errors import ScheduleError
from schedules.evaluate import evaluate
from schedules.expr import Axis, Call, Const, Read
from schedules.late_division import shares
from schedules.rewrites import apply_rewrites
from schedules.steps import CopyRead, DivideLate, Permute, Step

F = "float32"


def _same(dag: ComputeDAG, *steps: Step) -> ComputeDAG:
    arrays = programs.random_inputs(dag)
    rewritten = apply_rewrites(dag, steps)
    before, after = evaluate(dag, arrays), evaluate(rewritten, arrays)
    for name in dag.outputs:
        np.testing.assert_allclose(after[name], before[name], rtol=1e-5, atol=1e-5)
    return rewritten


def _with_shares(dag: ComputeDAG, make: object) -> ComputeDAG:
    """The DAG with another body of the stage that divides."""
    divided = dag.stage("shares")
    body = make(divided.body)  # type: ignore[operator]
    stages = tuple(replace(s, body=body) if s is divided else s for s in dag.stages)
    return replace(dag, stages=stages)


def test_the_division_follows_the_sum() -> None:
    dag = SMALL["attention"]()
    rewritten = _same(dag, DivideLate("attended"))
    assert "shares" not in rewritten.by_name
    summed, divided = rewritten.stages[-2:]
    assert summed.combiner == "sum"
    assert isinstance(divided.body, Call)
    assert divided.body.op == "div"


@pytest.mark.parametrize("as_number", [False, True])
def test_shares_without_nan_are_zero_in_whole_rows(as_number: bool) -> None:
    zero = Const(0.0, F)

    def guarded(body: Call) -> Call:
        test = Call("isnan", (body,), "bool")
        if as_number:
            test = Call("lt", (Const(0, "int64"), Call("cast", (test,), "int64")), "bool")
        return Call("select", (test, zero, body), F)

    dag = _with_shares(SMALL["attention"](), guarded)
    rewritten = _same(dag, DivideLate("attended"))
    arrays = programs.random_inputs(dag)
    arrays["q"][0, 0, 3] = np.nan
    before, after = evaluate(dag, arrays), evaluate(rewritten, arrays)
    assert not after["attended"][0, 0, 3].any()
    np.testing.assert_allclose(after["attended"], before["attended"], rtol=1e-5, atol=1e-6)


def test_refuses_because_the_divisor_changes_along_the_sum() -> None:
    def by_key(body: Call) -> Call:
        powers = body.args[0]
        assert isinstance(powers, Read)
        return Call("div", (powers, Call("cast", (powers.indices[-1],), F)), F)

    dag = _with_shares(SMALL["attention"](), by_key)
    assert shares(dag, dag.stage("attended")) is None
    with pytest.raises(ScheduleError, match="no sum of shares"):
        apply_rewrites(dag, (DivideLate("attended"),))


def test_refuses_because_nan_of_one_share_need_not_be_nan_of_its_row() -> None:
    """Without the greatest value taken off, a share may be ``inf / inf``."""
    zero = Const(0.0, F)

    def guarded(body: Call) -> Call:
        return Call("select", (Call("isnan", (body,), "bool"), zero, body), F)

    dag = _with_shares(SMALL["attention"](), guarded)
    powers = dag.stage("powers")
    assert isinstance(powers.body, Call)
    (difference,) = powers.body.args
    assert isinstance(difference, Call)
    plain = replace(powers, body=Call("exp", difference.args[:1], F))
    dag = replace(dag, stages=tuple(plain if s is powers else s for s in dag.stages))
    assert shares(dag, dag.stage("attended")) is None


def test_dimensions_in_another_order() -> None:
    dag = SMALL["attention"]()
    rewritten = _same(dag, Permute("scaled", ("b", "h", "j", "i")))
    assert [a.name for a in rewritten.stage("scaled").axes] == ["b", "h", "j", "i"]
    reader = rewritten.stage("powers").body
    assert isinstance(reader, Call)
    read = next(r for r in rewritten.stage("powers").reads() if r.tensor == "scaled")
    assert [i.name for i in read.indices if isinstance(i, Axis)] == ["b", "h", "j", "i"]


def test_a_read_through_a_copy() -> None:
    dag = SMALL["attention"]()
    rewritten = _same(dag, CopyRead("scores", ("b", "h", "d", "i")))
    assert rewritten.stage("scores.operand").shape == (1, 2, 19, 13)


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (CopyRead("scores", ("b", "h", "d")), "0 reads depend on"),
        (Permute("attended", ("b", "h", "d", "i")), "it is an output"),
        (Permute("scaled", ("b", "h", "j")), "are not its axes"),
    ],
)
def test_refuses_because(step: Step, reason: str) -> None:
    with pytest.raises(ScheduleError, match=reason):
        apply_rewrites(SMALL["attention"](), (step,))
