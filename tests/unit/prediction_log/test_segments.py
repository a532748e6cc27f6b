"""What a server appended is there after its death, once; and a full disk is told, never half a record."""

import errno
import os
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from evergrow.prediction_log import segments
from evergrow.prediction_log.records import parse
from evergrow.prediction_log.segments import LogFull, is_written, recover, sealed, sweep
from tests.unit.prediction_log.conftest import append, kill, record


def names(paths):
    """Request ids in files, in order."""
    return [found.asked.request_id for path in paths for _, found in parse(path.read_bytes()).records]


def fill(writer):
    """Append until the writer refuses."""
    for n in range(1000):
        append(writer, record(str(n)))


def test_what_was_appended_is_sealed_when_the_writer_ends(writer, tmp_path):
    one = writer()
    for n in range(3):
        assert append(one, record(str(n))) is None
    assert is_written(tmp_path / "log")
    one.close()
    assert names(sealed(tmp_path / "log")) == ["0", "1", "2"]
    assert not is_written(tmp_path / "log")


def test_a_dead_writers_segments_are_recovered_and_a_living_ones_are_not(writer, tmp_path):
    dead, alive = writer(), writer()
    append(dead, record("dead"))
    append(alive, record("alive"))
    kill(dead)
    assert names(recover(tmp_path / "log")) == ["dead"]
    assert list(recover(tmp_path / "log")) == []
    assert names(sealed(tmp_path / "log")) == ["dead"]


def test_a_dead_writers_empty_folder_is_removed_and_a_living_ones_is_not(writer, tmp_path):
    dead, alive = writer(), writer()
    kill(dead)
    sweep(tmp_path / "log")
    assert [path.name for path in (tmp_path / "log").iterdir()] == [alive.name]


def test_a_segment_ends_when_it_is_long_enough_or_its_day_does_and_the_clock_may_step_back(writer, tmp_path):
    one = writer(segment_bytes=1)
    append(one, record("a"))
    append(one, record("b"))
    one.close()
    two = writer(root=tmp_path / "days")
    for name, seconds in (("c", 0.0), ("d", 86_400.0), ("e", 10.0)):
        append(two, record(name, seconds=seconds))
    two.close()
    assert [names([path]) for path in sealed(tmp_path / "log")] == [["a"], ["b"]]
    days = [parse(path.read_bytes()) for path in sorted((tmp_path / "days").glob("*/*.sealed"))]
    assert [(str(s.header.day), s.header.number) for s in days] == [
        ("2013-10-01", 1),
        ("2013-10-02", 2),
        ("2013-10-01", 3),
    ]
    for segment in days:
        assert all(datetime.fromtimestamp(r.event, UTC).date() == segment.header.day for _, r in segment.records)


def test_an_old_segment_is_sealed_without_another_record(writer, tmp_path):
    one = writer()
    one.segment_seconds = 0.05
    append(one, record("a"))
    for _ in range(200):
        if sealed(tmp_path / "log"):
            break
        threading.Event().wait(0.05)
    assert names(sealed(tmp_path / "log")) == ["a"]


def test_with_durability_each_the_answer_waits_until_its_record_was_synced(writer, monkeypatch):
    synced = threading.Event()
    one = writer(durability="each")
    sync = os.fdatasync
    monkeypatch.setattr(segments.os, "fdatasync", lambda fd: (synced.wait(5), sync(fd)))
    waiting = append(one, record())
    assert not waiting.done()
    synced.set()
    assert waiting.result(timeout=5) is None


def test_a_disk_that_cannot_sync_is_told_to_who_waits_for_it(writer, monkeypatch):
    one = writer(durability="each")

    def fail(_):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(segments.os, "fdatasync", fail)
        waiting = append(one, record())
        with pytest.raises(LogFull, match="cannot be synced: Input/output error"):
            waiting.result(timeout=5)
    assert append(one, record("later")).result(timeout=5) is None


def test_with_durability_group_what_was_appended_is_synced_soon_and_nobody_waits(writer, monkeypatch):
    synced, sync = threading.Event(), os.fdatasync
    one = writer(durability="group", groupMs=1)
    monkeypatch.setattr(segments.os, "fdatasync", lambda fd: (sync(fd), synced.set()))
    assert append(one, record()) is None
    assert synced.wait(5)


@pytest.mark.parametrize("short", [0, 7])
def test_a_disk_that_fills_in_the_middle_of_a_record_keeps_none_of_it_and_all_before(
    writer, monkeypatch, tmp_path, short
):
    one = writer()
    append(one, record("before"))
    write, calls = os.write, []

    def full(descriptor, line):
        calls.append(line)
        if len(calls) == 1 and short:
            return write(descriptor, line[:short])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as filled:
        filled.setattr(segments.os, "write", full)
        with pytest.raises(LogFull, match="No space left on device"):
            append(one, record("during"))
    assert one.counts.failure
    append(one, record("after"))
    assert one.counts.failure is None
    one.close()
    assert names(sealed(tmp_path / "log")) == ["before", "after"]
    assert one.counts.recorded == 2


def test_a_disk_that_is_full_when_a_segment_begins_leaves_no_empty_file(writer, monkeypatch, tmp_path):
    one = writer()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as filled:
        filled.setattr(segments.os, "write", full)
        with pytest.raises(LogFull):
            append(one, record())
    assert list((tmp_path / "log").glob("*/*.open")) == []
    append(one, record("a"))
    one.close()
    assert names(sealed(tmp_path / "log")) == ["a"]


def test_the_bound_is_kept_over_all_segments_and_what_was_shipped_makes_room(writer, tmp_path):
    one = writer(limitMb=0.01, segment_bytes=2000)
    with pytest.raises(LogFull, match=r"10,000 bytes wait to be shipped, the limit of serving.log"):
        fill(one)
    on_disk = sum(path.stat().st_size for path in (tmp_path / "log").glob("*/*"))
    assert 9_000 < on_disk <= 10_000
    one._sync()
    for path in sealed(tmp_path / "log"):
        path.unlink()
    one._measure()
    append(one, record("again"))


def test_files_that_are_gone_when_they_are_looked_at_are_no_files(writer, tmp_path, monkeypatch):
    one, stat = writer(), Path.stat
    append(one, record("a"))

    def gone(path, **kwargs):
        if path.suffix == ".open":
            raise FileNotFoundError(path)
        return stat(path, **kwargs)

    monkeypatch.setattr(Path, "stat", gone)
    assert [path.name for path, _ in segments.files(tmp_path / "log", "*")] == ["lock"]
    assert sealed(tmp_path / "log") == []
    one._measure()


def test_two_writers_know_of_each_others_bytes(writer):
    one, two = writer(limitMb=0.003), writer(limitMb=0.003)
    with pytest.raises(LogFull):
        fill(one)
    two._measure()
    with pytest.raises(LogFull):
        append(two, record())


def test_many_threads_lose_and_mix_nothing(writer, tmp_path):
    one = writer(segment_bytes=5000)

    def keep(thread):
        for n in range(200):
            append(one, record(f"{thread}-{n}"))

    threads = [threading.Thread(target=keep, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    one.close()
    found = names(sealed(tmp_path / "log"))
    assert sorted(found) == sorted(f"{t}-{n}" for t in range(4) for n in range(200))
    for t in range(4):
        own = [int(name.split("-")[1]) for name in found if name.startswith(f"{t}-")]
        assert len(own) == 200
