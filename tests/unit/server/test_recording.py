"""What a real server process records of its answers, and what is left of that after kill -9."""

import asyncio
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta

import pytest

from benchmarks.serving_world import NOW, feature_store, row, server, serving_directory
from components.server.recording import Recorder
from components.server.refusal import Refusal
from components.server.serving_directory import ServingDirectory
from evergrow.integrations.feast_online import FeatureRow, OnlineReader, plan
from evergrow.prediction_log.records import Asked, Column, Header, Layout, header_line, parse
from evergrow.prediction_log.segments import Counts, LogFull
from evergrow.prediction_log.shipping import Shipper
from evergrow.prediction_log.tables import table
from evergrow.spec.model import PredictionLogSpec
from tests.unit.server.test_server import EXPLAIN, INFER, PREDICT, infer_over_grpc, v2


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    folder = tmp_path_factory.mktemp("features")
    return plan(feature_store(folder / "repo", {"type": "sqlite", "path": str(folder / "online.db")}), "flights_v1")


@pytest.fixture
def recorded(tmp_path):
    """What lies in the log's folder, as rows."""

    def read(root=tmp_path / "log"):
        found = (parse(path.read_bytes()) for path in sorted(root.glob("*/*.*")))
        return [line for segment in found if segment.header for line in table(segment).to_pylist()]

    return read


def serve(features, tmp_path, log=None, **env):
    """A server that records."""
    directory = serving_directory(tmp_path / "serving", features, log=log)
    return server(directory, "--log-dir", str(tmp_path / "log"), env=env)


def test_what_was_drawn_for_another_version_is_recorded_as_a_copy(features, tmp_path, recorded):
    with serve(features, tmp_path) as running:
        said = {"x_evergrow_route": "weights", "x_evergrow_propensity": "0.9"}
        for drawn in ("3", "2"):
            running.post(PREDICT, {"instances": [row()]}, **said, x_evergrow_drawn=drawn)
            infer_over_grpc(running, v2([row()]), x_evergrow_drawn=drawn, **said)
        lines = recorded()
    ways = [(line["route"], line["propensity"]) for line in lines]
    assert ways == [("weights", 0.9), ("weights", 0.9), ("shadow", None), ("shadow", None)]


def test_each_protocols_answers_are_recorded_with_what_was_asked_known_and_answered(features, tmp_path, recorded):
    with serve(features, tmp_path) as running:
        routed = {"x_request_id": "mine", "x_evergrow_route": "arm", "x_evergrow_propensity": "0.25"}
        _, answer = running.post(PREDICT, {"instances": [row(), row(carrier=99)]}, **routed)
        running.post(INFER, v2([row()], id="two"))
        infer_over_grpc(running, v2([row()], id="three"))
        running.post(EXPLAIN, {"instances": [row()]}, x_request_id="four")
        lines = recorded()
    assert [line["request_id"] for line in lines] == ["mine", "mine", "two", "three", "four"]
    assert [line["protocol"] for line in lines] == ["v1", "v1", "v2", "grpc", "explain"]
    assert [line["score"] for line in lines[:2]] == answer["predictions"]
    assert [line["flags"] for line in lines[:2]] == answer["flags"] == [[], ["unknown:carrier"]]
    assert [(line["route"], line["propensity"]) for line in lines[1:3]] == [("arm", 0.25), ("", None)]
    first = lines[0]
    assert (first["model"], first["version"], first["tailnum"], first["distance"]) == ("delays", 3, "N1", 2565.0)
    assert abs((first["event_timestamp"] - NOW).total_seconds()) < 60
    assert abs((first["created_timestamp"] - datetime.now(UTC)).total_seconds()) < 60
    assert 0 < first["latency_ms"] < 10_000


def test_the_values_and_their_event_times_are_those_that_the_model_was_given(features, tmp_path, recorded):
    with serve(features, tmp_path) as running:
        running.post(PREDICT, {"instances": [row()]})
        (line,) = recorded()
    served = ServingDirectory.load(tmp_path / "serving")
    (known,) = OnlineReader.open(features).read([row() | {"departs": line["departs"]}], NOW)
    assert served.bundle.predict(served.bundle.vector([line])).tolist() == [line["score"]]
    names = [view["name"] for group in features["groups"] for view in group["views"]]
    times = [line[f"{name}__event_timestamp"] for name in names]
    assert [at and at.timestamp() for at in times] == list(known.times)
    assert any(times)


def test_a_refused_request_is_not_recorded(features, tmp_path, recorded):
    with serve(features, tmp_path) as running:
        assert running.post(PREDICT, {"instances": [{}]})[0] == 400
        assert recorded() == []


def test_a_propensity_that_is_no_probability_says_nothing(features, tmp_path, recorded):
    with serve(features, tmp_path) as running:
        for said in ("1.5", "-1", "nan", "much"):
            assert running.post(PREDICT, {"instances": [row()]}, x_evergrow_propensity=said)[0] == 200
        assert [line["propensity"] for line in recorded()] == [None] * 4


def test_sigterm_leaves_everything_sealed(features, tmp_path, recorded):
    with serve(features, tmp_path) as running:
        running.post(PREDICT, {"instances": [row()]})
        running.process.terminate()
        assert running.process.wait(60) == 0
    assert [path.suffix for path in (tmp_path / "log").glob("*/0*")] == [".sealed"]
    assert len(recorded()) == 1


@pytest.mark.parametrize("durability", ["each", "group", "off"])
def test_killed_under_load_every_answered_request_is_shipped_once(features, tmp_path, durability):
    answered: list[str] = []
    for kill in range(3):
        with serve(features, tmp_path, {"durability": durability}) as running:
            threads = [threading.Thread(target=ask, args=(running, answered, f"{kill}-{n}")) for n in range(3)]
            for thread in threads:
                thread.start()
            enough = 30 * (kill + 1)
            running.wait_until(lambda enough=enough: len(answered) >= enough)
            running.process.kill()
            for thread in threads:
                thread.join()
    shipped: dict[str, bytes] = {}
    list(Shipper(tmp_path / "log", shipped.__setitem__, lambda *_: []).ship())
    found = [name for content in shipped.values() for name in ids(content)]
    assert set(answered) <= set(found)
    assert len(found) == len(set(found))
    assert len(set(found) - set(answered)) <= 9, "recorded, and killed before the answer was sent"


def ask(running, answered, name):
    """Ask until the server is gone; remember what was answered."""
    for n in range(100_000):
        try:
            status, answer = running.post(PREDICT, {"instances": [row()]}, x_request_id=f"{name}-{n}")
        except (OSError, ValueError, json.JSONDecodeError):
            return
        except Exception as error:
            assert type(error).__module__ == "http.client", error
            return
        if status == 200:
            answered.append(answer["id"])


def ids(content):
    import io

    import pyarrow.parquet as pq

    return pq.read_table(io.BytesIO(content))["request_id"].to_pylist()


def run(module, *arguments, home, wait=True):
    """Start a program of ours on a state of its own."""
    command = [sys.executable, "-m", module, *arguments]
    started = subprocess.Popen(
        command,
        env={**os.environ, "EVERGROW_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    return (*started.communicate(timeout=60), started.returncode) if wait else started


def test_what_is_shipped_while_the_server_ends_is_shown_by_the_command(features, tmp_path):
    home = tmp_path / "home"
    shipper = run("components.shipper", "--log-dir", str(tmp_path / "log"), home=home, wait=False)
    with serve(features, tmp_path) as running:
        _, answer = running.post(PREDICT, {"instances": [row(), row(carrier=99)]}, x_request_id="mine")
        shipper.terminate()
        with pytest.raises(subprocess.TimeoutExpired):
            shipper.wait(3)  # the server may record more
        running.process.terminate()
        running.process.wait(60)
        assert shipper.wait(60) == 0
    out, err, _ = run("evergrow", "predictions", "delays", "-o", "json", home=home)
    assert err == ""
    assert [line["score"] for line in json.loads(out)] == answer["predictions"]
    out, _, _ = run("evergrow", "predictions", "delays", home=home)
    assert "unknown:carrier" in out
    assert "mine" in out
    out, _, _ = run("evergrow", "predictions", "delays", "--to", str(tmp_path / "all.csv"), home=home)
    assert out == f"2 predictions written to {tmp_path / 'all.csv'}\n"
    assert (tmp_path / "all.csv").read_text().count("\n") == 3
    _, err, code = run("evergrow", "predictions", "delays", "--since", "yesterday", home=home)
    assert (code, "--since: must be a day, found 'yesterday'" in err) == (2, True)
    _, err, code = run("evergrow", "predictions", "delays", "--since", "2014-01-01", home=home)
    assert (code, "hint: there are predictions from 2013-07-01" in err) == (3, True)


def fill(running):
    """Ask until the log is full; the last answer's status."""
    statuses = [running.post(PREDICT, {"instances": [row()] * 50})[0] for _ in range(20)]
    return statuses[-1]


def test_a_full_log_refuses_where_the_document_says_so(features, tmp_path):
    with serve(features, tmp_path, {"limitMb": 0.05, "whenFull": "refuse"}) as running:
        assert fill(running) == 503
        status, answer = running.post(PREDICT, {"instances": [row()] * 50})
        assert status == 503
        assert "the prediction log is full: 50,000 bytes wait to be shipped" in answer["error"]
        assert running.ready(), "another replica's log is as full: traffic must not move from one to the next"


def test_a_full_log_is_answered_through_and_counted_where_the_document_says_so(features, tmp_path):
    with serve(features, tmp_path, {"limitMb": 0.05, "whenFull": "drop"}) as running:
        assert fill(running) == 200
        metrics = running.ask("GET", "/metrics")[2].decode()
    counts = dict(line.split() for line in metrics.splitlines() if line.startswith("evergrow_prediction"))
    assert float(counts["evergrow_predictions_dropped_total"]) > 0
    assert (
        float(counts["evergrow_predictions_recorded_total"]) + float(counts["evergrow_predictions_dropped_total"])
        == 20 * 50
    )
    assert counts["evergrow_prediction_log_up"] == "0.0"


def test_personal_data_is_nowhere_in_the_log(features, tmp_path, recorded):
    log = {"hashed": ["tailnum"], "leftOut": ["dest"]}
    with serve(features, tmp_path, log, EVERGROW_HASH_KEY="secret") as running:
        running.post(PREDICT, {"instances": [row(dest="PLANTED"), row(tailnum="PLANTED")]})
        first, second = recorded()
    assert "dest" not in first
    assert len(first["tailnum"]) == 32
    assert first["tailnum"] != second["tailnum"]
    everything = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"PLANTED" not in everything


def test_a_server_that_must_hash_and_cannot_does_not_start(features, tmp_path):
    directory = serving_directory(tmp_path / "serving", features, log={"hashed": ["tailnum"]})
    with server(directory, "--log-dir", str(tmp_path / "log"), ready=False) as running:
        assert running.process.wait(60) == 7
        assert "EVERGROW_HASH_KEY" in running.log.read_text()


class Disk:
    """A `SegmentWriter` that keeps what it is given, call by call."""

    def __init__(self, when_full="drop", fails: Exception | None = None, waits: bool = False) -> None:
        self.settings = PredictionLogSpec(when_full=when_full, durability="each" if waits else "group")
        self.counts = Counts()
        self.fails, self.synced = fails, Future() if waits else None
        self.calls: list[tuple[list[str], float, int]] = []

    def append(self, lines: bytes, event: float, rows: int):
        if self.fails:
            raise self.fails
        header = header_line(HEADER)
        self.calls.append(([r.asked.request_id for _, r in parse(header + lines).records], event, rows))
        return self.synced


HEADER = Header(
    writer="w", number=1, model="m", version=1, day=NOW.date(), columns=(), views=(), retention=timedelta(1)
)
MIDNIGHT = 15_000 * 86_400.0


def keep(recorder, name, event=MIDNIGHT, rows=1, **how):
    found = [FeatureRow({"x": 1.0, "y": 2.0}, (), ())] * rows
    return recorder.keep(Asked(name, "v1"), event, 0.001, found, [0.5] * rows, **how)


def recorder_on(disk):
    return Recorder(disk, Layout([Column(name="x", type="DOUBLE"), Column(name="y", type="DOUBLE")]))


async def settled(*waiting):
    return await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 10)


def test_what_is_answered_in_one_iteration_of_the_loop_is_written_in_one_go_before_anyone_is_answered():
    async def scenario():
        disk = Disk()
        recorder = recorder_on(disk)
        kept = [keep(recorder, "a"), keep(recorder, "b", rows=2), keep(recorder, "c")]
        assert disk.calls == []
        assert not any(one.done() for one in kept)
        assert await settled(*kept) == [None] * 3
        await settled(keep(recorder, "d"))
        return disk.calls

    assert asyncio.run(scenario()) == [(["a", "b", "c"], MIDNIGHT, 4), (["d"], MIDNIGHT, 1)]


def test_a_request_that_is_alone_is_written_at_once():
    async def scenario():
        disk = Disk()
        waiting = keep(recorder_on(disk), "a", alone=True)
        return disk.calls, waiting

    assert asyncio.run(scenario()) == ([(["a"], MIDNIGHT, 1)], None)


def test_answers_of_two_days_are_two_writes():
    async def scenario():
        disk = Disk()
        recorder = recorder_on(disk)
        await settled(
            *(keep(recorder, name, MIDNIGHT + at) for name, at in (("a", -2), ("b", -1), ("c", 0), ("d", -1)))
        )
        return [(names, event - MIDNIGHT) for names, event, _ in disk.calls]

    assert asyncio.run(scenario()) == [(["a", "b"], -2), (["c"], 0), (["d"], -1)]


def test_a_caller_who_hangs_up_takes_nobody_with_him():
    async def scenario():
        disk = Disk()
        recorder = recorder_on(disk)
        gone, other = keep(recorder, "gone"), keep(recorder, "other")
        gone.cancel()
        assert await settled(other) == [None]
        return disk.calls

    assert asyncio.run(scenario()) == [(["gone", "other"], MIDNIGHT, 2)]


def test_a_full_disk_is_refused_to_all_or_counted_for_all_as_the_document_says():
    async def scenario(when_full):
        disk = Disk(when_full, fails=LogFull("the prediction log is full"))
        recorder = recorder_on(disk)
        told = await settled(keep(recorder, "a", rows=3), keep(recorder, "b"))
        return told, disk.counts.dropped

    assert asyncio.run(scenario("drop")) == ([None] * 2, 4)
    told, dropped = asyncio.run(scenario("refuse"))
    assert [(one.status, one.message) for one in told] == [(503, "the prediction log is full; try again")] * 2
    assert dropped == 0


def test_a_full_disk_is_refused_to_one_who_is_alone_or_counted():
    disk = Disk(fails=LogFull("the prediction log is full"))
    assert keep(recorder_on(disk), "a", rows=3, alone=True) is None
    assert disk.counts.dropped == 3
    disk = Disk("refuse", fails=LogFull("the prediction log is full"))
    with pytest.raises(Refusal, match="the prediction log is full; try again"):
        keep(recorder_on(disk), "a", alone=True)
    assert disk.counts.dropped == 0


def test_what_nobody_foresaw_is_told_to_who_waits():
    async def scenario():
        return await settled(keep(recorder_on(Disk(fails=ZeroDivisionError("a bug"))), "a"))

    (told,) = asyncio.run(scenario())
    assert repr(told) == "ZeroDivisionError('a bug')"


@pytest.mark.parametrize("alone", [True, False])
def test_where_the_disk_is_waited_for_nobody_is_answered_before(alone):
    async def scenario(outcome):
        disk = Disk("refuse", waits=True)
        kept = keep(recorder_on(disk), "a", alone=alone)
        await asyncio.sleep(0.01)
        assert disk.calls
        assert not kept.done()
        outcome(disk.synced)
        return await settled(kept)

    assert asyncio.run(scenario(lambda synced: synced.set_result(None))) == [None]
    (told,) = asyncio.run(scenario(lambda synced: synced.set_exception(LogFull("cannot be synced"))))
    assert told.status == 503
