"""The Relax passes between import and task extraction, in order.

After them ``main`` is a list of ``call_tir`` on fused PrimFuncs, convolutions in channels-last
layout with weights stored that way, every constant foldable by numpy folded.
"""

# imports TVM
from __future__ import annotations

from typing import Any

import tvm
from tvm import relax
from tvm.relax import transform

from ansor_lite.graph.bounds import clamp_indices
from ansor_lite.graph.fold import fold_constants
from ansor_lite.graph.simplify import simplify

# Channels last: the vectorised dimension is the innermost of data, weights and result.
LAYOUTS = {
    "relax.nn.conv1d": ("NCW", ["NWC", "WIO"]),
    "relax.nn.conv2d": ("NCHW", ["NHWC", "HWIO"]),
    "relax.nn.conv3d": ("NCDHW", ["NDHWC", "DHWIO"]),
}


def _layouts(call: Any) -> dict[str, list[str]]:
    name = call.op.name
    if name not in LAYOUTS or str(call.attrs.data_layout) != LAYOUTS[name][0]:
        return {}
    return {name: LAYOUTS[name][1]}


def fuse_network(module: tvm.IRModule) -> tvm.IRModule:
    """The module as calls of fused PrimFuncs; pure, compiles nothing."""
    simplified = tvm.transform.Sequential(
        [
            transform.CanonicalizeBindings(),
            transform.DecomposeOpsForInference(),
            transform.CanonicalizeBindings(),
        ]
    )(module)
    folded = fold_constants(clamp_indices(fold_constants(simplified)))
    folded = fold_constants(simplify(folded))
    converted = transform.ConvertLayout({}, layout_cb=_layouts)(folded)
    folded = fold_constants(transform.Normalize()(converted))
    return tvm.transform.Sequential(
        [
            transform.EliminateCommonSubexpr(),
            transform.CanonicalizeBindings(),
            transform.DeadCodeElimination(),
            relax.backend.DispatchSortScan(),
            transform.LegalizeOps(),
            transform.AnnotateTIROpPattern(),
            transform.FuseOps(),
            transform.FuseTIR(),
            transform.DeadCodeElimination(),
            transform.RewriteDataflowReshape(),
        ]
    )(folded)
