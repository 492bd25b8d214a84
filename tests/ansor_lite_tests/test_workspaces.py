"""What the nests of a kernel leave for each other lies in the arena, not in a pool of its own."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from tvm import relax
from tvm.script import relax as R
from tvm.script import tirx as T

from ansor_lite.compiler import compile as compile_model
from ansor_lite.program import ARENA
from ansor_lite.workspaces import exposed


@T.prim_func(s_tir=True)
def two_nests(a: T.Buffer((512,), "float32"), b: T.Buffer((512,), "float32")):
    between = T.sblock_alloc_buffer((512,), "float32")
    inside = T.sblock_alloc_buffer((512,), "float32")
    small = T.sblock_alloc_buffer((4,), "float32")
    for i in range(512):
        with T.sblock("first"):
            v = T.axis.spatial(512, i)
            inside[v] = a[v] + T.float32(1)
            small[v % 4] = a[v]
            between[v] = inside[v] * inside[v]
    for i in range(512):
        with T.sblock("second"):
            v = T.axis.spatial(512, i)
            b[v] = between[511 - v] + small[v % 4]


def test_only_what_several_nests_share_and_the_stack_does_not_hold_becomes_a_parameter():
    found = exposed(two_nests)
    assert [w.name for w in found.workspaces] == ["between"]
    assert [p.name for p in found.function.params] == ["a", "b", "between"]
    assert [b.name for b in found.function.body.block.alloc_buffers] == ["inside", "small"]


def test_a_kernel_without_them_stays_as_it_is():
    found = exposed(exposed(two_nests).function)
    assert not found.workspaces and len(found.function.params) == 3


def test_workspaces_share_no_memory_with_the_other_operands_of_their_call():
    builder = relax.BlockBuilder()
    x = relax.Var("x", R.Tensor((512,), "float32"))
    kernel = builder.add_func(two_nests, "two_nests")
    with builder.function("main", [x]):
        with builder.dataflow():
            half = builder.emit(relax.call_tir(kernel, (x,), x.ty))
            result = builder.emit_output(relax.call_tir(kernel, (half,), x.ty))
        builder.emit_func_output(result)
    module = compile_model(builder.get(), threads=1)
    program = module.manifest.program
    for call in program.calls:
        operands = [program.values[i] for i in call.operands]
        places = sorted((v.at, v.at + v.bytes) for v in operands if v.space == ARENA)
        assert len(places) == 2
        assert all(end <= start for (_, end), (start, _) in pairwise(places))
        assert places[-1][1] <= program.arena_bytes
    values = np.random.default_rng(0).standard_normal(512).astype(np.float32)
    (found,) = module.run({"x": values}).values()
    np.testing.assert_allclose(found, computed(computed(values)), rtol=1e-5)


def computed(a):
    """What ``two_nests`` makes of ``a``."""
    return np.square(a + 1)[::-1] + np.tile(a[-4:], 128)
