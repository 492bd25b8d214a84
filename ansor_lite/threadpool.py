"""TVM's thread pool with the number of threads that we want, bound to as many CPUs.

The pool belongs to the calling thread and takes its size when it is first used there: half the
logical CPUs, unless the environment or an explicit list of CPUs says otherwise. The list is what we
use: it needs no environment variable and works per thread.
"""

from __future__ import annotations

import os

from ansor_lite.runtime_library import call_global

# AffinityMode::kSpecifyThreadShareAllCore: workers float over the listed CPUs, as many as there are
# threads. One CPU for each (-2) is no faster on a quiet machine (pinned over floating, paired:
# mobilenet_v2 1.001 [0.998, 1.004], resnet18 0.999 [0.993, 1.013]), and on a busy one a worker
# cannot leave a CPU that somebody else uses: medians 1 to 37 % slower with a load of 5 on 2 CPUs.
SHARE_CPUS = -3


def use_threads(threads: int) -> bool:
    """Give the calling thread's pool ``threads`` threads; whether it now has them.

    A pool that was started smaller cannot grow: then use another thread, which gets its own pool.
    The calling thread is the pool's first; its affinity stays as it was.
    """
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    cpus = [str(allowed[i % len(allowed)]) for i in range(max(threads, len(allowed)))]
    listed = call_global("ffi.Array", *cpus[:threads])
    call_global("runtime.config_threadpool", SHARE_CPUS, threads, listed)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, allowed)
    return pool_size() == threads


def pool_size() -> int:
    """Threads that parallel loops started from the calling thread use. Starts the pool."""
    return int(call_global("runtime.NumThreads"))
