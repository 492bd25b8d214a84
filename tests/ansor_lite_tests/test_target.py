"""Detection from files, matching in words, forms a user may write."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ansor_lite import target as targets
from ansor_lite.errors import InputError
from ansor_lite.target import TARGETS, Target


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize("name", TARGETS)
def test_a_machine_with_the_features_of_a_row_is_that_row(name: str) -> None:
    assert targets.detect(frozenset(TARGETS[name])) == name


def test_an_unknown_feature_changes_nothing_and_a_missing_one_does() -> None:
    zen4 = frozenset(TARGETS["znver4"])
    assert targets.detect(zen4 | {"new_thing"}) == "znver4"
    assert targets.detect(zen4 - {"avx512_bf16"}) == "icelake-server"
    assert targets.detect(zen4 - {"avx512f"}) == "znver3"


def test_features_come_from_the_flags_line(tmp_path: Path) -> None:
    write(tmp_path, "proc/cpuinfo", "model name\t: Some CPU\nflags\t\t: fpu avx2 fma\n")
    assert targets.cpu_features(tmp_path) == {"fpu", "avx2", "fma"}
    assert targets.cpu_model(tmp_path) == "Some CPU"


def test_instruction_caches_do_not_count(tmp_path: Path) -> None:
    cache = f"sys/devices/system/cpu/cpu{min(os.sched_getaffinity(0))}/cache"
    rows = [("1", "Data", "48K"), ("1", "Instruction", "64K"), ("2", "Unified", "2048K")]
    for i, (level, kind, size) in enumerate([*rows, ("3", "Unified", "105M")]):
        for name, text in (("level", level), ("type", kind), ("size", size)):
            write(tmp_path, f"{cache}/index{i}/{name}", text + "\n")
    expected = {1: 48 * 1024, 2: 2048 * 1024, 3: 105 * 1024 * 1024}
    assert targets.cache_sizes(tmp_path) == expected


@pytest.mark.parametrize("quota", ["max 100000", "9900000 100000"])
def test_a_wide_quota_leaves_the_affinity_mask(tmp_path: Path, quota: str) -> None:
    write(tmp_path, "proc/self/cgroup", "0::/job\n")
    write(tmp_path, "sys/fs/cgroup/job/cpu.max", quota)
    assert targets.available_threads(tmp_path) == min(99, len(os.sched_getaffinity(0)))


def test_the_quota_of_a_group_above_counts_too(tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", "0::/pod/job\n")
    write(tmp_path, "sys/fs/cgroup/pod/job/cpu.max", "max 100000")
    write(tmp_path, "sys/fs/cgroup/pod/cpu.max", "50000 100000")
    assert targets.available_threads(tmp_path) == 1


def test_a_quota_of_the_first_kind_of_control_groups(tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", "4:cpu,cpuacct:/job\n3:memory:/job\n")
    write(tmp_path, "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us", "100000\n")
    write(tmp_path, "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us", "100000\n")
    assert targets.available_threads(tmp_path) == 1


def test_the_native_target_runs_here_and_describes_the_machine() -> None:
    native = targets.native(threads=3)
    assert targets.missing_features(native) == () and native.threads == 3
    hardware = native.hardware()
    assert (hardware.threads, hardware.l2_bytes) == (3, native.l2_bytes)
    assert native == targets.parse("native", threads=3)


def test_json_in_all_forms_gives_the_target_back() -> None:
    target = targets.parse("znver4", threads=8)
    assert targets.parse(target.to_json()) == target
    assert targets.parse(json.dumps(target.to_json())) == target
    assert targets.parse(target, threads=2) == replace(target, threads=2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("z80", "unknown target 'z80'; known are native, graniterapids"),
        ("{", "not valid JSON"),
        ("{}", "not a target"),
        ({"features": [], "wings": 2}, "wings"),
        ({"features": [], "threads": "two"}, "threads"),
        ({"features": [], "threads": 0}, "at least one thread"),
    ],
)
def test_refuses_what_is_no_target(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        targets.parse(text)


@pytest.mark.parametrize("threads", [0, -1, "2", 1.5])
def test_refuses_what_is_no_number_of_threads(threads: Any) -> None:
    with pytest.raises(InputError, match="at least one thread"):
        targets.parse("native", threads)


def test_refuses_to_run_code_for_instructions_this_machine_lacks() -> None:
    alien = Target(mcpu="alien", features=("avx9000",))
    with pytest.raises(InputError, match=r"cannot run alien code: it lacks avx9000"):
        targets.require_native(alien)


def test_mismatch_names_both_and_the_difference() -> None:
    zen, lake = targets.parse("znver4", 2), targets.parse("icelake-server", 2)
    assert zen.mismatch(replace(zen, threads=64, l2_bytes=1)) is None
    reason = "it is for icelake-server, not znver4 (without avx512_bf16 clzero sse4a)"
    assert zen.mismatch(lake) == reason
    assert zen.mismatch(replace(zen, kind="gpu")) == "it is for a gpu, not a cpu"
