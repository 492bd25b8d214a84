"""The passes that lower our TensorIR: TVM's default ones without those that our programs lack.

Candidates are built by the thousand. Left out are the passes for GPUs, and four that take half of
the time and find nothing: our loops come simplified, with buffers of the size they need. Common
subexpressions are left to LLVM, which finds them too, and where TVM has named them first gets
addresses of long unrolled bodies wrong: windows were up to a quarter slower. A pass of our own
writes vectors where ``program.py`` writes loops that no annotation describes.
"""

from __future__ import annotations

import tvm
from tvm import s_tir, tirx

from schedules.lower.exponentials import written_exponentials
from schedules.lower.horizontal import horizontal_reduction
from schedules.lower.statements import statement_pass
from schedules.lower.transposes import register_transpose
from schedules.lower.wider import wider_exponentials


def passes() -> tvm.transform.Pass:
    """From scheduled TensorIR to host functions, up to the passes that finish those."""
    blocks, plain = s_tir.transform, tirx.transform
    return tvm.transform.Sequential(
        [
            blocks.CanonicalizeLoop(),
            blocks.LowerInitBlock(),
            blocks.PlanAndUpdateBufferAllocationLocation(),
            blocks.ConvertBlocksToOpaque(),
            blocks.LowerMatchBuffer(),
            blocks.LowerOpaqueBlock(),
            plain.FlattenBuffer(),
            plain.BF16ComputeLegalize(),
            plain.NarrowDataType(32),
            statement_pass(
                "Registers", register_transpose, horizontal_reduction, wider_exponentials
            ),
            blocks.LoopPartition(),
            plain.VectorizeLoop(True),
            written_exponentials(),
            plain.StorageRewrite(),
            plain.UnrollLoop(),
            plain.StmtSimplify(),
            blocks.RewriteUnsafeSelect(),
            plain.FP8ComputeLegalize(),
            plain.VerifyMemory(),
            plain.AnnotateEntryFunc(),
            plain.SplitHostDevice(),
            plain.MakePackedAPI(),
            plain.FP8StorageLegalize(),
            plain.BF16StorageLegalize(),
        ]
    )
