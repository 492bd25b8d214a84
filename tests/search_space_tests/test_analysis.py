"""Predicates on stages that a reader can check by eye."""

from __future__ import annotations

from schedules.dag import REDUCE, ComputeDAG, IterAxis, Stage, Tensor
from schedules.expr import Axis, Call, Const, Expr, Read
from schedules.plan import stage_accesses
from search_space import analysis

F = "float32"
I64 = "int64"
AI, J, K = Axis("i"), Axis("j"), Axis("k")
ZERO = Const(0.0, F)


def _plus(a: Expr, b: Expr) -> Expr:
    return Call("add", (a, b), I64)


def _times(a: Expr, factor: int) -> Expr:
    return Call("mul", (a, Const(factor, I64)), I64)


def _read(tensor: str, *indices: Expr) -> Read:
    return Read(tensor, indices, F)


def _map(body: Expr, i: int = 4, j: int = 8) -> Stage:
    return Stage("y", (IterAxis("i", i), IterAxis("j", j)), body, F)


def _sum(body: Expr, *, i: int = 4, j: int = 8, k: int = 16) -> Stage:
    axes = (IterAxis("i", i), IterAxis("j", j), IterAxis("k", k, REDUCE))
    return Stage("s", axes, body, F, "sum")


PRODUCT = Call("mul", (_read("a", AI, K), _read("b", K, J)), F)


def test_reuse_needs_a_reduction_and_an_absent_axis() -> None:
    assert analysis.has_data_reuse(_sum(PRODUCT))
    assert not analysis.has_data_reuse(_sum(_read("a", AI, J, K)))
    assert not analysis.has_data_reuse(_map(_read("b", J)))


def test_an_axis_of_one_element_is_no_reuse() -> None:
    assert not analysis.has_data_reuse(
        _sum(Call("mul", (_read("a", K), _read("b", K, J)), F), i=1, j=1)
    )


def test_an_anchor_is_a_stage_with_reuse() -> None:
    inputs = (Tensor("a", (4, 16), F), Tensor("b", (16, 8), F))
    assert analysis.has_anchor(ComputeDAG(inputs, (_sum(PRODUCT),), ("s",)))
    copy = Stage("c", (IterAxis("i", 4), IterAxis("k", 16)), _read("a", AI, K), F)
    assert not analysis.has_anchor(ComputeDAG(inputs, (copy,), ("c",)))


def test_guards() -> None:
    inside = Call("lt", (AI, Const(3, I64)), "bool")
    guarded = Call("select", (inside, _read("a", AI, J), ZERO), F)
    assert analysis.is_guarded(_map(guarded))
    assert not analysis.is_guarded(_map(_read("a", AI, J)))
    always = Call("add", (guarded, _read("a", AI, J)), F)
    assert not analysis.is_guarded(_map(always))


def test_math_is_what_costs_many_operations() -> None:
    assert analysis.has_math(_map(Call("exp", (_read("a", AI, J),), F)))
    assert analysis.has_math(_map(Call("div", (_read("a", AI, J), ZERO), F)))
    index = Call("floordiv", (J, Const(2, I64)), I64)
    assert not analysis.has_math(_map(_read("a", AI, index)))


def test_a_plain_copy_may_move_and_cast() -> None:
    assert analysis.is_plain_copy(_map(_read("a", J, AI)))
    assert analysis.is_plain_copy(_map(Call("cast", (_read("a", J, AI),), F)))
    assert not analysis.is_plain_copy(_map(Call("add", (_read("a", J, AI), ZERO), F)))


def test_affine_reads() -> None:
    assert analysis.all_affine(_map(_read("a", _plus(_times(AI, 2), J))))
    assert not analysis.all_affine(_map(_read("a", Call("floordiv", (AI, Const(2, I64)), I64))))


def test_elementwise_map_wants_every_element_once_in_place() -> None:
    producer = _sum(PRODUCT)
    assert analysis.elementwise_map(producer, _map(_read("s", AI, J))) == {"i": "i", "j": "j"}
    swapped = Stage("y", (IterAxis("i", 8), IterAxis("j", 4)), _read("s", J, AI), F)
    assert analysis.elementwise_map(producer, swapped) == {"i": "j", "j": "i"}
    twice = Call("mul", (_read("s", AI, J), _read("s", AI, _times(J, 0))), F)
    assert analysis.elementwise_map(producer, _map(twice)) is None
    assert analysis.elementwise_map(producer, _map(_read("s", AI, _plus(J, Const(1, I64))))) is None
    assert analysis.elementwise_map(producer, _map(_read("s", AI, AI))) is None


def test_elementwise_map_leaves_out_unit_axes() -> None:
    producer = _sum(PRODUCT, i=1)
    consumer = Stage("y", (IterAxis("j", 8),), _read("s", Const(0, I64), J), F)
    assert analysis.elementwise_map(producer, consumer) == {"j": "j"}
    repeated = _map(_read("s", Const(0, I64), J))
    assert analysis.elementwise_map(producer, repeated) is None


def test_reuse_axes_are_those_the_vector_operand_ignores() -> None:
    assert [a.name for a in analysis.reuse_axes(_sum(PRODUCT), "j")] == ["i"]
    both = Call("mul", (_read("a", AI, K), _read("b", AI, K, J)), F)
    assert analysis.reuse_axes(_sum(both), "j") == ()


def test_contiguity() -> None:
    (access,) = stage_accesses(_map(_read("a", AI, J)))
    assert analysis.is_contiguous_along(access, "j")
    assert not analysis.is_contiguous_along(access, "i")
    (strided,) = stage_accesses(_map(_read("a", AI, _times(J, 2))))
    assert not analysis.is_contiguous_along(strided, "j")
    (same,) = stage_accesses(_map(_read("a", AI)))
    assert analysis.is_contiguous_along(same, "j")


def test_separable_reads_use_one_axis_per_dimension() -> None:
    (window,) = stage_accesses(_map(_read("a", _plus(AI, J))))
    assert not analysis.is_separable(window)
    (plain,) = stage_accesses(_map(_read("a", J, AI)))
    assert analysis.is_separable(plain)


def test_the_vector_axis_is_the_last_unless_it_is_short() -> None:
    copy = _read("a", AI, J)
    assert analysis.vector_axis(_map(copy, 64, 8), 4) == IterAxis("j", 8)
    assert analysis.vector_axis(_map(copy, 64, 2), 4) == IterAxis("i", 64)
    assert analysis.vector_axis(_map(copy, 1, 1), 4) is None
