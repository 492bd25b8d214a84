"""The Relax passes between import and task extraction, in order.

After them ``main`` is a list of ``call_tir`` on fused PrimFuncs, convolutions in channels-last
layout with weights stored that way, every constant foldable by numpy folded.
"""

# imports TVM
from __future__ import annotations

import tvm
from tvm import relax
from tvm.relax import transform

from ansor_lite.graph.bounds import clamp_indices
from ansor_lite.graph.convolutions import channels_last, split_channels
from ansor_lite.graph.fold import fold_constants
from ansor_lite.graph.norms import norms_to_stages
from ansor_lite.graph.shuffles import sink_shuffles
from ansor_lite.graph.simplify import simplify
from ansor_lite.graph.transposes import sink_transposes
from ansor_lite.graph.windows import windows_to_sums


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
    folded = fold_constants(sink_transposes(simplify(folded)))
    converted = transform.ConvertLayout({}, layout_cb=channels_last)(folded)
    folded = fold_constants(windows_to_sums(transform.Normalize()(converted)))
    split = fold_constants(norms_to_stages(split_channels(sink_shuffles(folded))))
    folded = fold_constants(simplify(split, layouts_chosen=True))
    return tvm.transform.Sequential(
        [
            transform.EliminateCommonSubexpr(),
            transform.CanonicalizeBindings(),
            transform.DeadCodeElimination(),
            relax.backend.DispatchSortScan(),
            transform.LegalizeOps(),
            # A reshape is a view. Inside a kernel it would be divisions in every index.
            transform.RewriteDataflowReshape(),
            transform.AnnotateTIROpPattern(),
            transform.FuseOps(),
            transform.FuseTIR(),
            transform.DeadCodeElimination(),
        ]
    )(folded)
