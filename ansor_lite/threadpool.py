"""TVM's thread pool with the number of threads that we want.

The pool belongs to the calling thread and takes its size when it is first used there: half the
logical CPUs, unless the environment or an explicit list of CPUs says otherwise. The list is what we
use: it needs no environment variable and works per thread.
"""

# imports TVM
from __future__ import annotations

import os

import tvm

# AffinityMode::kSpecifyThreadShareAllCore: workers float over the listed CPUs.
SHARE_CPUS = -3


def use_threads(threads: int) -> bool:
    """Give the calling thread's pool ``threads`` threads; whether it now has them.

    A pool that was started smaller cannot grow: then use another thread, which gets its own pool.
    The affinity of the calling thread stays as it was.
    """
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    cpus = [str(allowed[i % len(allowed)]) for i in range(max(threads, len(allowed)))]
    tvm.get_global_func("runtime.config_threadpool")(SHARE_CPUS, threads, cpus[:threads])
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, allowed)
    return pool_size() == threads


def pool_size() -> int:
    """Threads that parallel loops started from the calling thread use. Starts the pool."""
    return int(tvm.get_global_func("runtime.NumThreads")())
