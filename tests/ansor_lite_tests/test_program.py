"""Memory plans never overlap what lives at the same time; programs do what the network says."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import tvm
from hypothesis import given
from hypothesis import strategies as st
from tvm import relax
from tvm.script import relax as R

from ansor_lite.compiler import compile as compile_model
from ansor_lite.errors import CompileError
from ansor_lite.flatten import flatten
from ansor_lite.program import ALIGNMENT, ARENA, Lifetime, Program, plan_memory

lifetimes = st.lists(
    st.builds(
        lambda size, first, length: Lifetime(size, first, first + length),
        st.integers(1, 500),
        st.integers(0, 8),
        st.integers(0, 4),
    ),
    max_size=12,
)


def needed(tensors: list[Lifetime]) -> int:
    """Bytes alive at the worst moment: no plan can need less."""
    sizes = [-(-t.bytes // ALIGNMENT) * ALIGNMENT for t in tensors]
    moments = range(max((t.last for t in tensors), default=0) + 1)
    alive = (
        sum(s for s, t in zip(sizes, tensors, strict=True) if t.first <= now <= t.last)
        for now in moments
    )
    return max(alive, default=0)


@given(lifetimes)
def test_tensors_that_live_together_never_share_memory(tensors):
    offsets, size = plan_memory(tensors)
    placed = list(zip(offsets, tensors, strict=True))
    for i, (a, x) in enumerate(placed):
        assert a % ALIGNMENT == 0 and a + x.bytes <= size
        for b, y in placed[:i]:
            assert not x.overlaps(y) or a + x.bytes <= b or b + y.bytes <= a
    assert needed(tensors) <= size


def test_a_chain_of_equal_tensors_needs_two():
    assert plan_memory([Lifetime(256, i, i + 1) for i in range(9)])[1] == 512


def test_the_best_of_several_orders_is_taken():
    """Largest first leaves a gap here: 512 bytes, where 384 are enough."""
    spans = ((3, 0, 1), (2, 0, 2), (3, 3, 3), (3, 2, 3))
    tensors = [Lifetime(64 * size, first, last) for size, first, last in spans]
    assert plan_memory(tensors)[1] == needed(tensors) == 384


def module_of(build) -> tvm.IRModule:
    """``build(x)`` of a float32 input [2, 3] as the ``main`` of a Relax module."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", R.Tensor((2, 3), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            result = builder.emit_output(build(builder, x))
        builder.emit_func_output(result)
    return builder.get()


def several(builder, x):
    """An input, a weight, a computed tensor, the same again, and a reshape of it."""
    weight = relax.const(np.arange(4, dtype=np.float32))
    twice = builder.emit(relax.op.add(x, x))
    flat = builder.emit(relax.op.reshape(twice, (6,)))
    return relax.Tuple([x, weight, twice, twice, flat])


def test_results_may_be_inputs_weights_and_each_other():
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    found = list(compile_model(module_of(several), threads=1).run({"x": x}).values())
    for array, expected in zip(found, [x, np.arange(4), 2 * x, 2 * x, 2 * x.ravel()], strict=True):
        np.testing.assert_array_equal(array, expected)
    assert not any(np.shares_memory(a, b) for i, a in enumerate(found) for b in [x, *found[:i]])


def test_results_of_one_run_survive_the_next():
    module = compile_model(module_of(several), threads=1)
    one, two = (np.full((2, 3), v, np.float32) for v in (1, 2))
    first = module.run({"x": one})["output2"]
    kept = first.copy()
    module.run({"x": two})
    np.testing.assert_array_equal(first, kept)


def test_a_run_leaves_its_inputs_alone_wherever_they_lie():
    module = compile_model(module_of(several), threads=1)
    memory = np.zeros(64, np.float32)
    for start in range(17):  # 4 bytes further each time: aligned once in 16
        x = memory[start : start + 6].reshape(2, 3)
        x[:] = np.arange(6).reshape(2, 3) + start
        before = x.copy()
        np.testing.assert_array_equal(module.run({"x": x})["output2"], 2 * before)
        np.testing.assert_array_equal(x, before)


def test_scheduled_kernels_read_the_inputs_of_the_network_in_place():
    """NumPy aligns large arrays to 16 bytes; copying them would cost more than the call."""
    program = compile_model(module_of(several), threads=1).manifest.program
    assert program.input_alignments == (4,)
    assert program.may_lie_at(0, 1004) and not program.may_lie_at(0, 1002)
    of_before = replace(program, input_alignments=())
    assert of_before.may_lie_at(0, 1024) and not of_before.may_lie_at(0, 1040)


def test_what_is_computed_for_the_caller_takes_no_room_in_the_arena():
    program = compile_model(module_of(several), threads=1).manifest.program
    assert program.arena_bytes == 0
    assert ARENA not in {v.space for v in program.values}


def test_the_json_form_of_a_program_is_the_program():
    program = compile_model(module_of(several), threads=1).manifest.program
    assert Program.from_json(json.loads(json.dumps(asdict(program)))) == program


def test_refuses_a_call_that_is_no_kernel():
    main = module_of(lambda builder, x: builder.emit(relax.op.add(x, x)))["main"]
    with pytest.raises(CompileError, match=r"needs .*add, for which there is no kernel"):
        flatten(main, {})
