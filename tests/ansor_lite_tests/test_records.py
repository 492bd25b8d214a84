"""The log: what is written is read back, what is torn is cut off, what is foreign is refused."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_tasks import scaled, tiled

from ansor_lite import records as logs
from ansor_lite.errors import InputError, LogError, LogWriteError
from ansor_lite.measure.protocol import Measurement, Status
from ansor_lite.records import Log, Record, Records
from ansor_lite.target import Target, parse

ZEN = parse("znver4", 2)
OLD_LINE = (
    b'{"v":1,"task":"2f0c","name":"matmul","target":{"kind":"cpu","mcpu":"haswell","features":'
    b'["avx","avx2"],"threads":4,"vector_bytes":32,"vector_registers":16,"l1_bytes":32768,'
    b'"l2_bytes":262144,"l3_bytes":8388608},"threads":4,"host":"Some CPU","sketch":"rows","steps":'
    b'[["tile","y","i",[4,16]],["pack","y","w",null],["annotate","y",["i.0"],"parallel"]],'
    b'"status":"ok","seconds":[0.002,0.001,0.0011],"message":"","round":3,"elapsed":12.5,'
    b'"versions":{"apache-tvm":"0.27.0.post1"}}\n'
)


def record(size: int = 4, seconds: float = 1e-3, target: Target = ZEN, n: int = 64) -> Record:
    candidate = tiled(scaled(n), size)
    return logs.record_of(candidate, Measurement(Status.OK, (seconds,) * 3), target)


def failed(entry: Record, status: Status = Status.CRASH) -> Record:
    return replace(entry, status=status, seconds=(), message="SIGSEGV")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "some.jsonl"


def test_a_line_of_the_first_version_is_read_for_ever() -> None:
    old = logs.from_line(OLD_LINE)
    assert (old.task, old.threads, old.target.mcpu, old.round) == ("2f0c", 4, "haswell", 3)
    assert old.time == pytest.approx(0.00105) and len(old.steps) == 3
    assert logs.to_line(old) == OLD_LINE


@given(
    st.sampled_from(Status),
    st.lists(st.floats(1e-9, 1e3), max_size=3),
    st.text(),
    st.integers(0, 99),
)
def test_a_record_survives_its_line(
    status: Status, seconds: list[float], message: str, number: int
) -> None:
    entry = replace(
        record(), status=status, seconds=tuple(seconds), message=message, round=number, elapsed=0.5
    )
    line = logs.to_line(entry)
    assert logs.from_line(line) == entry and line.count(b"\n") == 1
    assert logs.to_line(logs.from_line(line)) == line


def test_appended_records_are_on_disk_before_append_returns(path: Path) -> None:
    with Log.open(path) as log:
        assert len(log.records) == 0
        log.append([record(4), record(8)])
        assert logs.read(path).records == (record(4), record(8))
        log.append([record(16)])
    with Log.open(path) as log:
        assert [r.steps for r in log.records] == [record(s).steps for s in (4, 8, 16)]


@given(st.integers(1, 10_000))
def test_a_torn_last_line_is_skipped_and_then_overwritten(cut: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "torn.jsonl"
        first, second = logs.to_line(record(4)), logs.to_line(record(8))
        path.write_bytes(first + second[: 1 + cut % (len(second) - 2)])
        torn = logs.read(path)
        assert torn.records == (record(4),)
        assert torn.warnings == (f"{path}: the last line was cut off and is skipped",)
        with Log.open(path) as log:
            log.append([record(16)])
        assert path.read_bytes() == first + logs.to_line(record(16))


def test_a_last_line_that_lacks_only_its_end_counts(path: Path) -> None:
    path.write_bytes(logs.to_line(record(4)).rstrip())
    with Log.open(path) as log:
        assert log.records.records == (record(4),) and not log.records.warnings
        log.append([record(8)])
    assert logs.read(path).records == (record(4), record(8))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x7fELF not a log\x00\xff", "last line: not JSON"),
        (b'{"nodes": []}\n', "line 1: not a record of a tuning log"),
        (b"[1, 2]", "last line: not a record of a tuning log"),
        (OLD_LINE + b"garbage\n" + OLD_LINE, "line 2: not JSON"),
        (OLD_LINE.replace(b'"v":1', b'"v":2'), r"line 1: written by a newer version \(format 2"),
        (OLD_LINE.replace(b'"v":1', b'"v":2').rstrip(), "last line: written by a newer version"),
        (OLD_LINE.replace(b'"tile"', b'"tickle"'), "line 1: not a record"),
        (OLD_LINE.replace(b'"ok"', b'"fine"'), "line 1: not a record"),
        (OLD_LINE.replace(b"0.002", b"NaN"), "seconds must be positive"),
    ],
)
def test_refuses_what_is_no_log_and_leaves_it_alone(path: Path, data: bytes, message: str) -> None:
    path.write_bytes(data)
    with pytest.raises(LogError, match=message):
        logs.read(path)
    with pytest.raises(LogError, match=message):
        Log.open(path)
    assert path.read_bytes() == data


def test_refuses_a_second_writer(path: Path) -> None:
    with Log.open(path), pytest.raises(InputError, match="another process is writing"):
        Log.open(path)
    Log.open(path).close()


def test_refuses_paths_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="No such file"):
        logs.read(tmp_path / "missing.jsonl")
    for path in (tmp_path / "no" / "folder.jsonl", tmp_path):
        with pytest.raises(LogError, match="cannot write the log"):
            Log.open(path)


def test_a_full_disk_leaves_the_records_before_intact(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pwrite

    def almost_full(file: int, data: bytes, offset: int) -> int:
        if len(data) > 600:
            return real(file, data[:600], offset)
        raise OSError(errno.ENOSPC, "No space left on device")

    with Log.open(path) as log:
        log.append([record(4)])
        monkeypatch.setattr("os.pwrite", almost_full)
        with pytest.raises(LogWriteError, match="No space left"):
            log.append([replace(record(8), message="x" * n) for n in (1, 2)])
        monkeypatch.undo()
        assert path.read_bytes() == logs.to_line(record(4))
        log.append([record(16)])
    assert logs.read(path).records == (record(4), record(16))


def test_the_last_result_of_a_program_counts() -> None:
    quick, slow = record(4, 1e-3), record(8, 2e-3)
    key = quick.task
    assert Records((quick, slow)).best(key, ZEN) == quick
    assert Records((quick, slow, failed(quick, Status.WRONG_RESULT))).best(key, ZEN) == slow
    assert Records((quick, slow, record(4, 3e-3))).best(key, ZEN) == slow
    assert Records((failed(quick), replace(slow, status=Status.SLOW))).best(key, ZEN) is None


def test_lookup_respects_features_and_threads() -> None:
    threads4, lake = record(8, 1e-4, replace(ZEN, threads=4)), record(16, 1e-5, parse("haswell", 2))
    records = Records((record(4), threads4, lake))
    assert records.best(lake.task, ZEN) == record(4)
    assert records.best_of_other_threads(lake.task, ZEN) == threads4
    assert Records((threads4,)).best(lake.task, ZEN) is None
    assert records.of(ZEN).records == (record(4),)


def test_refuses_a_log_for_another_target_only_and_says_which() -> None:
    haswell = record(4, target=parse("haswell", 2))
    with pytest.raises(LogError, match=r"some.jsonl .*it is for haswell, not znver4"):
        Records((haswell,), "some.jsonl").require(ZEN)
    Records((haswell, record(4))).require(ZEN)
    Records().require(ZEN)


def test_merge_keeps_every_record_once_and_distill_the_best(tmp_path: Path) -> None:
    a, b, out = (tmp_path / name for name in ("a.jsonl", "b.jsonl", "out.jsonl"))
    a.write_bytes(logs.to_line(record(4)) + logs.to_line(record(8, 2e-3)))
    other = record(4, n=128)
    b.write_bytes(logs.to_line(record(4)) + logs.to_line(other))
    assert len(logs.merge([a, b], out)) == 3
    assert logs.read(out).records == (record(4), record(8, 2e-3), other)
    assert logs.distill([a, b], out).records == logs.read(out).records == (record(4), other)
    with pytest.raises(LogError, match="cannot write"):
        logs.merge([a], tmp_path / "no" / "out.jsonl")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jsonl", "b.jsonl", "out.jsonl"]


def test_the_table_counts_programs_and_failures() -> None:
    rows = logs.best_rows(Records((record(4), record(4), failed(record(8)), failed(record(n=9)))))
    assert [(r.trials, r.failures, r.seconds) for r in rows] == [(2, 1, 1e-3), (1, 1, None)]
