"""Whatever dies, and whenever: an acknowledged prediction is in the store or on disk, and in the store at most once."""

from __future__ import annotations

import contextlib
import io
import shutil
import tempfile
from datetime import date, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from evergrow.errors import StoreError
from evergrow.prediction_log.records import parse
from evergrow.prediction_log.segments import LogFull, SegmentWriter, sealed
from evergrow.prediction_log.shipping import Shipper
from evergrow.spec.model import PredictionLogSpec
from tests.unit.prediction_log.conftest import append, header, kill, record


class Killed(BaseException):
    """The shipper's process died."""


class Store:
    """Objects by name."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.away = False
        self.expired: list[tuple[str, timedelta]] = []

    def put(self, name: str, content: bytes) -> None:
        if self.away:
            raise StoreError("the store does not answer", retriable=True)
        before = self.objects.setdefault(name, content)
        assert before == content, "an object that is written again is the same"

    def expire(self, model: str, retention: timedelta) -> list[str]:
        self.expired.append((model, retention))
        return []

    def ids(self) -> list[str]:
        tables = (pq.read_table(io.BytesIO(content)) for content in self.objects.values())
        return [name for table in tables for name in table["request_id"].to_pylist()]


def damaged(root: Path) -> list[Path]:
    return sorted(root.glob("*/*.damaged"))


def on_disk(root: Path) -> list[str]:
    return [r.asked.request_id for path in root.glob("*/*.*") for _, r in parse(path.read_bytes()).records]


def test_what_is_sealed_is_shipped_by_model_and_day_and_deleted(writer, tmp_path):
    one, store = writer(), Store()
    append(one, record("a", rows=2))
    append(one, record("b", seconds=86_400))
    one.close()
    shipped = list(Shipper(tmp_path / "log", store.put, store.expire).ship())
    assert [s.rows for s in shipped] == [2, 1]
    assert sorted(store.objects) == [
        f"delays/day=2013-10-01/{one.name}-00000001.parquet",
        f"delays/day=2013-10-02/{one.name}-00000002.parquet",
    ]
    assert list((tmp_path / "log").iterdir()) == []


def test_a_segment_without_a_record_is_no_object(tmp_path, writer):
    one, store = writer(), Store()
    append(one, record("a"))
    one.close()
    (path,) = sealed(tmp_path / "log")
    path.write_bytes(path.read_bytes()[: path.read_bytes().index(b"\n") + 5])
    assert [s.name for s in Shipper(tmp_path / "log", store.put, store.expire).ship()] == [""]
    assert store.objects == {}
    assert sealed(tmp_path / "log") == []


def test_a_store_that_is_away_costs_nothing(writer, tmp_path):
    one, store = writer(), Store()
    append(one, record("a"))
    one.close()
    store.away = True
    with pytest.raises(StoreError):
        list(Shipper(tmp_path / "log", store.put, store.expire).ship())
    assert on_disk(tmp_path / "log") == ["a"]
    store.away = False
    list(Shipper(tmp_path / "log", store.put, store.expire).ship())
    assert (store.ids(), on_disk(tmp_path / "log")) == (["a"], [])


def test_a_shipper_that_is_told_to_stop_ships_what_its_writer_leaves_however_long_the_store_is_away(writer, tmp_path):
    one, store, pauses = writer(), Store(), []
    append(one, record("a"))
    store.away = True

    def sleep(seconds):
        pauses.append(seconds)
        if len(pauses) == 3:
            one.close()
        store.away = len(pauses) < 9

    Shipper(tmp_path / "log", store.put, store.expire, sleep).run(lambda: True)
    assert store.ids() == ["a"]
    assert max(pauses) == 30.0, "the pauses grow, and end growing"


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_before_or_after_the_object_is_written_it_is_there_once(writer, tmp_path, when):
    one, store = writer(), Store()
    append(one, record("a"))
    kill(one)

    def put(name, content):
        if when == "after":
            store.put(name, content)
        raise Killed

    with pytest.raises(Killed):
        list(Shipper(tmp_path / "log", put, store.expire).ship())
    list(Shipper(tmp_path / "log", store.put, store.expire).ship())
    assert (store.ids(), on_disk(tmp_path / "log")) == (["a"], [])


def test_what_the_disk_damaged_is_kept_for_who_wants_to_look_and_the_rest_is_shipped(writer, tmp_path, caplog):
    one, store = writer(), Store()
    for name in "abc":
        append(one, record(name))
    one.close()
    (path,) = sealed(tmp_path / "log")
    path.write_bytes(path.read_bytes().replace(b'["b"', b'["B"'))
    (shipped,) = Shipper(tmp_path / "log", store.put, store.expire).ship()
    assert (store.ids(), shipped.damaged) == (["a", "c"], 1)
    assert damaged(tmp_path / "log") == [path.with_suffix(".damaged")]
    assert "1 damaged lines" in caplog.text
    assert list(Shipper(tmp_path / "log", store.put, store.expire).ship()) == [], "and not shipped again"


def test_a_segment_that_no_parquet_can_be_made_of_does_not_hold_up_the_others(writer, tmp_path, caplog):
    one, store = writer(segment_bytes=1), Store()
    append(one, record("a")._replace(values=[["N", "not a number", 0.1, True, None]]))
    append(one, record("b"))
    one.close()
    assert [s.rows for s in Shipper(tmp_path / "log", store.put, store.expire).ship()] == [0, 1]
    assert store.ids() == ["b"]
    assert "cannot be made Parquet of: ValueError" in caplog.text
    (kept,) = damaged(tmp_path / "log")
    assert parse(kept.read_bytes()).records[0][1].asked.request_id == "a"


def test_what_is_too_old_is_deleted_now_and_then_for_each_model_that_ships(writer, tmp_path):
    store, hours = Store(), [0.0]
    shipper = Shipper(tmp_path / "log", store.put, store.expire, clock=lambda: 3600 * hours[0])
    asked = []
    for hour in (0.0, 0.5, 1.0):
        hours[0] = hour
        one = writer()
        append(one, record("a"))
        one.close()
        list(shipper.ship())
        asked.append(len(store.expired))
    assert asked == [1, 1, 2]
    assert set(store.expired) == {("delays", timedelta(days=400))}


def test_two_shippers_of_one_folder_do_not_quarrel(writer, tmp_path):
    one, store = writer(segment_bytes=1), Store()
    for name in "abc":
        append(one, record(name))
    one.close()
    first, second = (Shipper(tmp_path / "log", store.put, store.expire).ship() for _ in range(2))
    next(first)
    assert len(list(second)) == 2
    assert list(first) == []
    assert sorted(store.ids()) == ["a", "b", "c"]


class Life(RuleBasedStateMachine):
    """Servers and shippers live and die in any order; the store comes and goes; the clock steps; the disk fills."""

    @initialize()
    def begin(self) -> None:
        self.root = Path(tempfile.mkdtemp())
        self.store = Store()
        self.acknowledged: list[str] = []
        self.writers: list[SegmentWriter] = []

    @precondition(lambda self: len(self.writers) < 2)
    @rule()
    def a_server_starts(self) -> None:
        def describe(name: str, number: int, day: date):
            return header(name, number, day)

        spec = PredictionLogSpec.model_validate({"limitMb": 0.004})
        self.writers.append(SegmentWriter(self.root, describe, spec, segment_bytes=700))

    @precondition(lambda self: self.writers)
    @rule(rows=st.integers(1, 3), seconds=st.sampled_from([0.0, 90_000.0, -5.0]), last=st.booleans())
    def a_request_is_answered(self, rows: int, seconds: float, last: bool) -> None:
        name = str(len(self.acknowledged))
        try:
            append(self.writers[-1 if last else 0], record(name, rows, seconds))
        except LogFull:
            return
        self.acknowledged += [name] * rows

    @precondition(lambda self: self.writers)
    @rule(orderly=st.booleans())
    def a_server_ends(self, orderly: bool) -> None:
        writer = self.writers.pop(0)
        writer.close() if orderly else kill(writer)

    @rule(away=st.booleans())
    def the_store_comes_or_goes(self, away: bool) -> None:
        self.store.away = away

    @rule(dies=st.sampled_from(["never", "before", "after"]), at=st.integers(0, 2))
    def a_shipper_works(self, dies: str, at: int) -> None:
        calls = 0

        def put(name: str, content: bytes) -> None:
            nonlocal calls
            calls += 1
            if dies == "before" and calls > at:
                raise Killed
            self.store.put(name, content)
            if dies == "after" and calls > at:
                raise Killed

        with contextlib.suppress(Killed, StoreError):
            list(Shipper(self.root, put, self.store.expire).ship())

    @invariant()
    def nothing_is_lost(self) -> None:
        here = [name for name, r in self._records() for _ in r.scores]
        assert set(self.acknowledged) <= set(self.store.ids()) | set(here)

    def _records(self):
        found = (parse(path.read_bytes()) for path in self.root.glob("*/*.*"))
        return [(r.asked.request_id, r) for segment in found for _, r in segment.records]

    def teardown(self) -> None:
        if not hasattr(self, "root"):
            return
        for writer in self.writers:
            kill(writer)
        self.store.away = False
        list(Shipper(self.root, self.store.put, self.store.expire).ship())
        assert sorted(self.store.ids()) == sorted(self.acknowledged), "each once"
        assert list(self.root.iterdir()) == []
        shutil.rmtree(self.root)


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
