"""What monitoring counted is counted once, whoever else counts and whenever it is killed."""

from datetime import date

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evergrow.contracts import Verdict
from evergrow.errors import ConflictError
from evergrow.integrations.object_store import ObjectStore
from evergrow.integrations.prediction_store import PredictionStore
from evergrow.integrations.watch_store import WatchStore
from tests.unit.monitoring.builders import outcomes, scene
from tests.unit.monitoring.test_days import BASE, segment

DAY = date(2024, 3, 1)


class Killed(BaseException):
    """As by the kernel: nothing after it runs."""


class Meddled(ObjectStore):
    """A store in which something happens before a write: a kill, or another one's write."""

    def before_write(self, happens, at=1):
        self.happens, self.at, self.writes = happens, at, 0

    def swap(self, name, content, seen):
        self.writes += 1
        if self.writes == self.at:
            self.happens(name)
        return super().swap(name, content, seen)


def put(log, number, rows, version=1):
    buffer = pa.BufferOutputStream()
    pq.write_table(segment(outcomes(days=1, per_day=rows, seed=number).assign(version=version)), buffer)
    log.put(f"delays/day={DAY}/w-{number:08d}.parquet", buffer.getvalue().to_pybytes())


@pytest.fixture
def log(tmp_path):
    return PredictionStore(ObjectStore.open(tmp_path.as_uri()))


def test_segments_are_counted_once_and_new_ones_are_added(log):
    put(log, 1, 10)
    store = WatchStore(log.store, "delays")
    assert store.count(log, DAY, lambda _: BASE)[1].rows == 10
    put(log, 2, 5)

    assert store.count(log, DAY, lambda _: BASE)[1].rows == 15
    assert store.count(log, DAY, lambda _: BASE)[1].rows == 15
    assert store.days(DAY)[1].rows == 15


def test_versions_are_counted_apart_each_on_its_own_baseline(log):
    put(log, 1, 10, version=1)
    put(log, 2, 5, version=2)
    asked = []
    counted = WatchStore(log.store, "delays").count(log, DAY, lambda version: asked.append(version) or BASE)

    assert {version: day.rows for version, day in counted.items()} == {1: 10, 2: 5}
    assert set(asked) == {1, 2}


@pytest.mark.parametrize("at", [1, 2])
def test_killed_at_any_write_nothing_is_lost_or_counted_twice(log, tmp_path, at):
    put(log, 1, 10, version=1)
    put(log, 2, 5, version=2)
    meddled = Meddled.open(tmp_path.as_uri())

    def kill(_):
        raise Killed

    meddled.before_write(kill, at)
    with pytest.raises(Killed):
        WatchStore(meddled, "delays").count(log, DAY, lambda _: BASE)

    counted = WatchStore(log.store, "delays").count(log, DAY, lambda _: BASE)
    assert {version: day.rows for version, day in counted.items()} == {1: 10, 2: 5}


@pytest.mark.parametrize("counted_before", [0, 1])
def test_two_that_count_at_once_count_each_segment_once(log, tmp_path, counted_before):
    put(log, 1, 10)
    other = WatchStore(log.store, "delays")
    if counted_before:
        other.count(log, DAY, lambda _: BASE)
    put(log, 2, 5)
    meddled = Meddled.open(tmp_path.as_uri())
    meddled.before_write(lambda _: other.count(log, DAY, lambda _: BASE))

    assert WatchStore(meddled, "delays").count(log, DAY, lambda _: BASE)[1].rows == 15


def test_who_is_always_too_late_is_told_to_run_again(log, tmp_path):
    put(log, 1, 10)

    class Late(ObjectStore):
        def swap(self, name, content, seen):
            return False

    with pytest.raises(ConflictError) as caught:
        WatchStore(Late.open(tmp_path.as_uri()), "delays").count(log, DAY, lambda _: BASE)
    assert caught.value.retriable


def test_observations_are_kept_by_day(log):
    store = WatchStore(log.store, "delays")
    seen = [scene().observe("volume", "predictions", "rows a day", 1.0, 2.0, 1, Verdict.when(True, "as ever"))]
    assert store.observations(DAY) is None
    store.keep(DAY, seen)

    assert store.observations(DAY) == seen
