"""What machine a program is compiled for: processor model, instruction set, threads, caches.

Read ``TARGETS`` first. Detection reads ``/proc`` and ``/sys`` and needs no TVM, because a log can
be looked at, and a module refused, on a machine that compiles nothing.
"""

# imports TVM
from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansor_lite.errors import InputError, TargetError
from schedules.hardware import Hardware

if TYPE_CHECKING:
    import tvm

_V3 = ("avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe")
_V4 = (*_V3, "avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl")
_ICELAKE = (
    *_V4, "avx512_bitalg", "avx512_vbmi2", "avx512_vnni", "avx512_vpopcntdq", "avx512ifma",
    "avx512vbmi", "gfni", "vaes", "vpclmulqdq",
)  # fmt: skip
_SAPPHIRE_RAPIDS = (
    *_ICELAKE, "amx_bf16", "amx_int8", "amx_tile", "avx512_bf16", "avx512_fp16", "avx_vnni",
    "serialize",
)  # fmt: skip
_ZEN4 = (*_ICELAKE, "avx512_bf16", "clzero", "sse4a")

# LLVM processor name -> the instruction sets, as Linux spells them, its code may use. Newest first:
# the first row that the machine satisfies is its native target.
TARGETS: dict[str, tuple[str, ...]] = {
    "graniterapids": (*_SAPPHIRE_RAPIDS, "amx_fp16"),
    "sapphirerapids": _SAPPHIRE_RAPIDS,
    "znver5": (*_ZEN4, "avx512_vp2intersect", "avx_vnni", "movdir64b", "movdiri"),
    "znver4": _ZEN4,
    "icelake-server": _ICELAKE,
    "cooperlake": (*_V4, "avx512_bf16", "avx512_vnni"),
    "cascadelake": (*_V4, "avx512_vnni"),
    "skylake-avx512": (*_V4, "adx", "clflushopt"),
    "x86-64-v4": _V4,
    "alderlake": (*_V3, "avx_vnni", "gfni", "serialize", "vaes", "vpclmulqdq"),
    "znver3": (*_V3, "clzero", "sse4a", "vaes", "vpclmulqdq"),
    "znver2": (*_V3, "clwb", "clzero", "sse4a"),
    "znver1": (*_V3, "clzero", "sse4a"),
    "haswell": _V3,
    "x86-64-v2": ("popcnt", "sse4_1", "sse4_2", "ssse3"),
    "x86-64": ("sse2",),
    "generic": ("asimd",),
}

# LLVM 20 to 22.1 take ``a[i % n + b]`` for consecutive elements where only ``i + b`` was shown not
# to overflow (llvm-project issue 191382), and vectorise such loops into wrong values. To be removed
# when the LLVM in TVM has the correction (pull request 191498).
CODE_GENERATION = ("-vectorize-loops:bool=0",)

# instruction set -> (bytes of a vector register, number of them); the first that is present counts.
VECTORS = {"avx512f": (64, 32), "avx": (32, 16), "sse2": (16, 16), "asimd": (16, 32)}


@dataclass(frozen=True, slots=True)
class Target:
    """A processor to compile for; cache sizes in bytes, per core except the last level.

    ``features`` are the instruction sets compiled code may use (sorted, in Linux' spelling).
    ``threads`` is what a program of this target will run with.
    """

    kind: str = "cpu"
    mcpu: str = "x86-64-v3"
    features: tuple[str, ...] = tuple(sorted(_V3))
    threads: int = 1
    vector_bytes: int = 32
    vector_registers: int = 16
    l1_bytes: int = 32 * 1024
    l2_bytes: int = 1024 * 1024
    l3_bytes: int = 32 * 1024 * 1024

    def __post_init__(self) -> None:
        if not _is_count(self.threads) or not self.threads:
            raise InputError(f"a target needs at least one thread, not {self.threads!r}")

    def hardware(self) -> Hardware:
        """The numbers that rules and the cost model see."""
        return Hardware(
            kind=self.kind,
            threads=self.threads,
            vector_bytes=self.vector_bytes,
            vector_registers=self.vector_registers,
            l1_bytes=self.l1_bytes,
            l2_bytes=self.l2_bytes,
            l3_bytes=self.l3_bytes,
        )

    def tvm(self) -> tvm.target.Target:
        """The same for TVM's code generator."""
        import tvm

        options = {"num-cores": self.threads, "cl-opt": list(CODE_GENERATION)}
        return tvm.target.Target({"kind": "llvm", "mcpu": self.mcpu, **options})

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"features": list(self.features)}

    def mismatch(self, other: Target) -> str | None:
        """In words, why code tuned for ``other`` is not code tuned for this one; threads aside."""
        if self.kind != other.kind:
            return f"it is for a {other.kind}, not a {self.kind}"
        if self.features == other.features:
            return None
        extra = sorted(set(other.features) - set(self.features))
        lacking = sorted(set(self.features) - set(other.features))
        parts = [f"with {' '.join(extra)}"] * bool(extra)
        parts += [f"without {' '.join(lacking)}"] * bool(lacking)
        return f"it is for {other.mcpu}, not {self.mcpu} ({', '.join(parts)})"


def from_json(value: Any) -> Target:
    """Inverse of ``Target.to_json``; :class:`TargetError` on anything else."""
    if not isinstance(value, Mapping) or not isinstance(value.get("features"), list):
        raise TargetError(f"not a target: {value!r}")
    known = {f.name: f.type for f in fields(Target)}
    unknown = sorted(set(value) - set(known))
    wrong = [n for n, t in known.items() if t == "int" and not _is_count(value.get(n, 1))]
    if unknown or wrong:
        raise TargetError(f"not a target: wrong or unknown {' '.join(unknown + wrong)}")
    return Target(**{**value, "features": tuple(sorted(map(str, value["features"])))})


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def parse(text: str | Mapping[str, Any] | Target, threads: int | None = None) -> Target:
    """The target a user named: ``"native"``, a processor of ``TARGETS``, or ``to_json``'s form.

    The JSON form may be text. ``threads=None`` means the CPUs this process may use, or what the
    JSON says. Raises :class:`TargetError` for a name or a form that is none of these.
    """
    if isinstance(text, Target):
        return text if threads is None else replace(text, threads=threads)
    if isinstance(text, str) and text.lstrip().startswith("{"):
        try:
            text = json.loads(text)
        except ValueError as error:
            raise TargetError(f"the target is not valid JSON: {error}") from error
    if isinstance(text, Mapping):
        return parse(from_json(text), threads)
    if not isinstance(text, str):
        raise TargetError(f"not a target: {text!r}")
    if text == "native":
        return native(threads)
    if text not in TARGETS:
        raise TargetError(f"unknown target {text!r}; known are native, {', '.join(TARGETS)}")
    return _target(text, available_threads() if threads is None else threads, cache_sizes())


def native(threads: int | None = None) -> Target:
    """This machine, as the newest row of ``TARGETS`` whose instructions it has."""
    present = cpu_features()
    mcpu = detect(present)
    if mcpu is None:
        raise TargetError(f"no target is known for this processor ({platform.machine()})")
    return _target(mcpu, available_threads() if threads is None else threads, cache_sizes())


def detect(present: frozenset[str]) -> str | None:
    """Name of the first row of ``TARGETS`` that ``present`` satisfies."""
    return next((name for name, needed in TARGETS.items() if present.issuperset(needed)), None)


def _target(mcpu: str, threads: int, caches: dict[int, int]) -> Target:
    features = tuple(sorted(TARGETS[mcpu]))
    width = next((size for name, size in VECTORS.items() if name in features), VECTORS["sse2"])
    target = Target("cpu", mcpu, features, threads, *width)
    return replace(
        target,
        l1_bytes=caches.get(1, target.l1_bytes),
        l2_bytes=caches.get(2, target.l2_bytes),
        l3_bytes=caches.get(3, target.l3_bytes),
    )


def missing_features(target: Target) -> tuple[str, ...]:
    """Instruction sets of ``target`` that this machine lacks; such code would crash here."""
    return tuple(sorted(set(target.features) - cpu_features()))


def require_native(target: Target) -> None:
    """Raise :class:`TargetError` when this machine cannot run code of ``target``."""
    missing = missing_features(target)
    if missing:
        raise TargetError(
            f"this machine cannot run {target.mcpu} code: it lacks {' '.join(missing)}"
        )


def require_cpus(threads: int) -> None:
    """Raise :class:`TargetError` when this process may use fewer CPUs than ``threads``.

    Threads that wait for each other spin: on one CPU they take turns, a time slice each.
    """
    if not _is_count(threads) or not threads:
        raise InputError(f"threads must be a whole number of at least 1, not {threads!r}")
    cpus = available_threads()
    if threads > cpus:
        raise TargetError(f"{threads} threads need as many CPUs; this process may use {cpus}")


def cpu_features(root: Path = Path("/")) -> frozenset[str]:
    """Instruction sets of this machine as Linux names them; the baseline where it is another OS."""
    text = _read(root / "proc/cpuinfo")
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset(("asimd",) if platform.machine() in ("arm64", "aarch64") else ("sse2",))


def cpu_model(root: Path = Path("/")) -> str:
    """The processor's trade name, for people who read a log."""
    for line in _read(root / "proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def cache_sizes(root: Path = Path("/")) -> dict[int, int]:
    """Level -> bytes of the data caches that the first CPU of this process sees."""
    cpu = min(_affinity(), default=0)
    found: dict[int, int] = {}
    for entry in sorted((root / f"sys/devices/system/cpu/cpu{cpu}/cache").glob("index*")):
        level, size = _read(entry / "level").strip(), _read(entry / "size").strip()
        known = level in ("1", "2", "3") and size[:-1].isdigit() and size[-1] in "KM"
        if known and _read(entry / "type").strip() != "Instruction":
            found[int(level)] = int(size[:-1]) * (1024 if size[-1] == "K" else 1024 * 1024)
    return found


def available_threads(root: Path = Path("/")) -> int:
    """CPUs of the affinity mask within the control group's quota, at least one."""
    quota = _quota(root)
    cpus = len(_affinity()) or 1
    return cpus if quota is None else max(1, min(cpus, math.ceil(quota)))


def _affinity() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _quota(root: Path) -> float | None:
    """CPUs granted by the tightest control group of this process, or ``None`` without a limit."""
    limits = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            limits += [_quota_v2(g) for g in _upwards(root / "sys/fs/cgroup", path)]
        elif "cpu" in controllers.split(","):
            for mount in (root / "sys/fs/cgroup" / c for c in (controllers, "cpu", "cpu,cpuacct")):
                limits += [_quota_v1(g) for g in _upwards(mount, path)]
    return min((limit for limit in limits if limit is not None), default=None)


def _upwards(mount: Path, path: str) -> list[Path]:
    """The group's folder and those above it, up to the mount point."""
    group = mount / path.lstrip("/")
    return [group, *(p for p in group.parents if p == mount or mount in p.parents)]


def _quota_v2(group: Path) -> float | None:
    quota, _, period = _read(group / "cpu.max").strip().partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def _quota_v1(group: Path) -> float | None:
    quota = _read(group / "cpu.cfs_quota_us").strip()
    period = _read(group / "cpu.cfs_period_us").strip()
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
