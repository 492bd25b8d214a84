"""The size of TVM's thread pool, which belongs to the calling thread."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import small_models

from ansor_lite.compiler import compile as compile_model
from ansor_lite.threadpool import pool_size, use_threads


def in_new_thread(work):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def test_a_new_thread_gets_the_pool_it_asks_for():
    assert in_new_thread(lambda: (use_threads(1), pool_size())) == (True, 1)
    assert in_new_thread(lambda: (use_threads(3), pool_size())) == (True, 3)


def test_a_started_pool_can_shrink_and_recover_but_not_grow():
    def work():
        return use_threads(3), use_threads(1), use_threads(3), use_threads(4)

    assert in_new_thread(work) == (True, True, True, False)


def test_the_affinity_of_the_caller_stays():
    def work():
        before = os.sched_getaffinity(0)
        use_threads(1)
        return before == os.sched_getaffinity(0)

    assert in_new_thread(work)


def test_modules_of_different_thread_counts_run_in_turns_in_one_thread():
    model = small_models.small_cnn()
    modules = [compile_model(model, threads=n) for n in (1, 3, 2)]
    x = modules[0].random_inputs()

    def work():
        return [m.run(x)["y"] for _ in range(3) for m in modules]

    expected = small_models.reference(model, x)["y"]
    for found in in_new_thread(work):
        assert small_models.relative_error(found, expected) < 1e-4


def test_a_caller_whose_pool_is_too_small_is_served_too():
    module = compile_model(small_models.small_cnn(), threads=3)
    x = module.random_inputs()

    def work():
        use_threads(1)
        return module.run(x)["y"], pool_size()

    found, size = in_new_thread(work)
    np.testing.assert_array_equal(found, module.run(x)["y"])
    assert size == 1
