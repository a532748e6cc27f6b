"""Predictions served from a materialized store and recomputed: skew told from lag, and both by looking at every row."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from benchmarks import skew_replay
from benchmarks.serving_world import redis_server
from evergrow.contracts import instant
from evergrow.environment import Environment
from evergrow.errors import FeatureStoreError
from evergrow.integrations.feast import FeastStore
from evergrow.integrations.feast_online import OnlineReader, plan
from evergrow.integrations.prediction_store import PredictionStore
from evergrow.integrations.skew import check, recompute
from evergrow.monitoring.skew import FeatureSkew, Skew, ViewLag
from evergrow.prediction_log.records import Asked, Header, Layout, header_line, parse, record_line, views
from evergrow.prediction_log.tables import table
from evergrow.spec.model import PredictionLogSpec
from models.arrival_delay.data import Flights
from tests.unit.integrations.test_feast import DECLARATIONS, START, new_repository, write_data

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
NOON = datetime(2013, 3, 9, 12, tzinfo=UTC)
KEY = b"secret"
SERVICE = "flights"


class World:
    """A feature store with a server's reader of the plan that was deployed."""

    def __init__(self, environment: Environment, **log: Any) -> None:
        self.store = FeastStore(environment)
        self.settings = PredictionLogSpec.model_validate(log)
        self.plan = json.loads(json.dumps(plan(self.store.feast, SERVICE)))
        self.reader = OnlineReader.open(self.plan)

    @classmethod
    def new(cls, environment: Environment, **log: Any) -> World:
        """Of a repository that is not applied yet."""
        FeastStore(environment).apply()
        return cls(environment, **log)

    def materialize(self, until: datetime) -> None:
        self.store.materialize(SERVICE, until, allow_earlier=True)

    def serve(self, asked: Iterable[tuple[datetime, dict[str, Any]]]) -> pa.Table:
        """Answer rows, each at its instant, and give the log of that."""
        fields = {**self.plan["keys"], **self.plan["request"]}
        layout = Layout.of(self.plan, fields, self.settings.hashed, self.settings.left_out, KEY)
        header = Header(
            writer="w", number=1, model="delays", version=3, day=NOON.date(), columns=layout.columns,
            views=views(self.plan), retention=timedelta(days=1),
        )  # fmt: skip
        lines = [header_line(header)]
        for now, row in asked:
            (found,) = self.reader.read([dict.fromkeys(fields) | row], now)
            values = [layout.values(found.values)]
            lines.append(record_line(Asked("r", "v1"), now.timestamp(), 0.001, values, [found.times], [0.5], [()]))
        return table(parse(b"".join(lines)))

    def check(self, log: pa.Table, **options: Any) -> Skew:
        return check(self.store, SERVICE, log, self.settings, **options)

    def changed(self, folder: Path, declarations: str = DECLARATIONS, ttl: str = "hours=6") -> World:
        """The same data and online store with other declarations applied; what is deployed stays."""
        folder.mkdir()
        repository = new_repository(folder, ttl, declarations).feature_repo
        changed = World.new(self.store.environment.model_copy(update={"feature_repo": repository}))
        changed.settings, changed.plan, changed.reader = self.settings, self.plan, self.reader
        return changed


def rows(
    environment: Environment, name: str, *, created: Sequence[str] | None = None, event: Sequence[str], **columns: Any
) -> None:
    """Write a feature table; times are of 2013-03-09."""
    stamps = {"event_timestamp": event, "created_timestamp": created or event}
    times = {
        key: pd.to_datetime([f"2013-03-09T{text}Z" for text in texts], format="ISO8601")
        for key, texts in stamps.items()
    }
    (environment.home / "data").mkdir(parents=True, exist_ok=True)
    pd.DataFrame(columns | times).to_parquet(environment.home / "data" / f"{name}.parquet", index=False)


@pytest.fixture(scope="module")
def applied(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An applied repository with tables of one row each: applying takes a second, copying nothing."""
    environment = new_repository(tmp_path_factory.mktemp("applied"))
    write_rows(environment)
    FeastStore(environment).apply()
    return environment


def write_rows(environment: Environment, **delays: Any) -> None:
    """The rows of one carrier, at 8:00 and 11:30 unless told otherwise, and those of one plane."""
    known: dict[str, Any] = {"mean": [1.5, 2.5], "delay_rows": [1, 2], "event": ["08:00", "11:30"]}
    rows(environment, "delays", carrier=["UA", "UA"], **known | delays)
    rows(environment, "planes", tailnum=["N1"], seats=[150], engine=["Turbo-fan"], event=["01:00"])


@pytest.fixture
def home(applied: Environment, tmp_path: Path) -> Environment:
    """The applied repository in a home of its own."""
    shutil.copytree(applied.home, tmp_path / "home")
    return applied.model_copy(update={"home": tmp_path / "home"})


@pytest.fixture
def world(home: Environment) -> Callable[..., World]:
    """A store of one carrier and one plane."""

    def make(delays: dict[str, Any] | None = None, **log: Any) -> World:
        write_rows(home, **delays or {})
        return World(home, **log)

    return make


ROW = {"carrier": "UA", "tailnum": "N1", "scheduled": 10.0}


def feature(skew: Skew, name: str) -> FeatureSkew:
    (one,) = [f for f in skew.features if f.feature == name]
    return one


def lag(skew: Skew, name: str) -> ViewLag:
    (one,) = [v for v in skew.views if v.view == name]
    return one


def kinds(skew: Skew) -> dict[str, str]:
    """Of a single prediction, what each feature is."""
    return {f.feature: next(k for k in ("equal", "skewed", "stale", "ahead") if getattr(f, k)) for f in skew.features}


ALL_EQUAL = dict.fromkeys(("engine", "seats", "gap", "delay_mean", "delay_rows"), "equal")
OF_DELAYS = ("gap", "delay_mean", "delay_rows")


# -- both directions ---------------------------------------------------------------------------------------------------


def test_what_is_served_from_a_fresh_online_store_is_equal(world):
    served = world()
    served.materialize(NOON)
    skew = served.check(served.serve([(NOON, ROW)]))
    assert kinds(skew) == ALL_EQUAL
    assert (skew.rows, skew.compared, skew.skewed, skew.skipped) == (1, 5, 0, {})
    assert {view.stale for view in skew.views} == {0}


def test_a_value_altered_online_is_skew_and_nothing_else_is(world):
    served = world()
    served.materialize(NOON)
    altered = {"tailnum": ["N1"], "seats": [151], "engine": ["Turbo-fan"], "event_timestamp": [NOON.replace(hour=1)]}
    served.store.feast.write_to_online_store("planes", pd.DataFrame(altered | {"created_timestamp": [NOON]}))
    skew = served.check(served.serve([(NOON, ROW)]))
    assert kinds(skew) == ALL_EQUAL | {"seats": "skewed"}
    (example,) = feature(skew, "seats").examples
    assert (example.prediction_id, example.served, example.recomputed) == ("w-00000001-0-0", 151, 150)


def test_a_changed_transform_is_skew_of_its_features_alone(world, tmp_path):
    served = world()
    served.materialize(NOON)
    log = served.serve([(NOON, ROW)])
    skew = served.changed(tmp_path / "new", DECLARATIONS.replace("else a - b for", "else b - a for")).check(log)
    assert kinds(skew) == ALL_EQUAL | {"gap": "skewed"}
    (example,) = feature(skew, "gap").examples
    assert (example.served, example.recomputed) == (7.5, -7.5)


def test_a_ttl_that_training_and_serving_do_not_share_is_skew(world, tmp_path):
    served = world()
    served.materialize(NOON)
    log = served.serve([(NOON + 5 * HOUR, ROW)])
    assert kinds(served.check(log)) == ALL_EQUAL
    skew = served.changed(tmp_path / "shorter", ttl="hours=4").check(log)
    assert kinds(skew) == ALL_EQUAL | dict.fromkeys(OF_DELAYS, "skewed")


def test_a_materialization_that_lags_is_stale_and_no_skew(world):
    served = world()
    served.materialize(NOON - HOUR)
    skew = served.check(served.serve([(NOON, ROW), (NOON + HOUR, ROW)]))
    assert {f.feature: (f.skewed, f.stale) for f in skew.features} == {
        "engine": (0, 0), "seats": (0, 0), "gap": (0, 2), "delay_mean": (0, 2), "delay_rows": (0, 2)
    }  # fmt: skip
    delays = lag(skew, "delays")
    assert (delays.stale, delays.p50, delays.longest) == (2, 30 * MINUTE, 90 * MINUTE)
    assert lag(skew, "planes").stale == 0


def test_skew_is_told_on_a_row_that_lags(world):
    served = world()
    served.materialize(NOON - HOUR)
    altered = {"carrier": ["UA"], "delay_mean": [9.0], "delay_rows": [1], "event_timestamp": [NOON.replace(hour=8)]}
    served.store.feast.write_to_online_store("delays", pd.DataFrame(altered | {"created_timestamp": [NOON]}))
    skew = served.check(served.serve([(NOON, ROW)]))
    assert kinds(skew) == ALL_EQUAL | {"delay_mean": "skewed", "delay_rows": "stale", "gap": "skewed"}
    assert feature(skew, "delay_mean").examples[0].recomputed == 1.5


def test_a_correction_that_is_not_online_yet_is_stale_since_it_was_made(world):
    served = world({"event": ["11:00"] * 2, "created": ["11:00", "11:50"], "delay_rows": [1, 1]})
    served.materialize(NOON - 30 * MINUTE)
    skew = served.check(served.serve([(NOON, ROW)]))
    assert kinds(skew) == ALL_EQUAL | {"delay_mean": "stale", "gap": "stale"}
    assert lag(skew, "delays").longest == 10 * MINUTE


def test_a_row_pushed_online_alone_is_ahead(world):
    served = world()
    served.materialize(NOON)
    pushed = {"carrier": ["UA"], "delay_mean": [9.0], "delay_rows": [2], "event_timestamp": [NOON - 10 * MINUTE]}
    served.store.feast.write_to_online_store("delays", pd.DataFrame(pushed | {"created_timestamp": [NOON]}))
    skew = served.check(served.serve([(NOON, ROW)]))
    assert kinds(skew) == ALL_EQUAL | {"delay_mean": "ahead", "gap": "ahead"}
    (example,) = lag(skew, "delays").examples
    assert (example.found, example.known) == (NOON - 10 * MINUTE, NOON - 30 * MINUTE)
    assert [(e.served, e.recomputed) for e in feature(skew, "delay_mean").ahead_examples] == [(9.0, 2.5)]


def test_a_row_that_was_not_created_yet_when_it_was_served_is_ahead(world):
    served = world({"created": ["08:00", "12:30"]})
    served.materialize(NOON + HOUR)
    skew = served.check(served.serve([(NOON, ROW), (NOON + HOUR, ROW)]))
    assert {name: feature(skew, name).ahead for name in ALL_EQUAL} == dict.fromkeys(ALL_EQUAL, 0) | dict.fromkeys(
        OF_DELAYS, 1
    )
    assert skew.skewed == 0


def test_nothing_was_found_where_a_row_expired_and_was_taken_off(world):
    served = world()
    served.materialize(NOON)
    served.materialize(NOON + 6 * HOUR)
    log = served.serve([(NOON + 6 * HOUR, ROW), (NOON, ROW)])
    assert log["delays__event_timestamp"].to_pylist() == [datetime(1970, 1, 1, tzinfo=UTC)] * 2
    skew = served.check(log)
    assert {name: (feature(skew, name).equal, feature(skew, name).stale) for name in OF_DELAYS} == dict.fromkeys(
        OF_DELAYS, (1, 1)
    )
    assert skew.skewed == 0
    assert lag(skew, "delays").longest == 4 * HOUR


def test_a_row_of_1970_is_a_row(world):
    served = world()
    path = served.store.environment.home / "data/planes.parquet"
    epoch = pd.Timestamp(0, tz="UTC")
    pd.read_parquet(path).assign(event_timestamp=epoch, created_timestamp=epoch).to_parquet(path)
    served.materialize(NOON)
    assert kinds(served.check(served.serve([(NOON, ROW)]))) == ALL_EQUAL


def test_unknown_and_missing_keys_find_nothing_on_either_side(world):
    served = world()
    served.materialize(NOON)
    skew = served.check(served.serve([(NOON, ROW | {"carrier": "??"}), (NOON, ROW | {"tailnum": None})]))
    assert all(f.equal == 2 for f in skew.features)


# -- what cannot be compared -------------------------------------------------------------------------------------------


def test_a_key_that_is_hashed_cannot_be_looked_up_and_that_is_said(world):
    served = world(hashed=["tailnum"])
    served.materialize(NOON)
    skew = served.check(served.serve([(NOON, ROW)]), key=KEY)
    assert set(skew.skipped) == {"seats", "engine"}
    assert skew.skipped["seats"] == "its entity's key 'tailnum' is hashed in the prediction log"
    assert kinds(skew) == dict.fromkeys(OF_DELAYS, "equal")


def test_what_is_left_out_is_skipped_and_so_is_what_is_computed_from_it(world):
    served = world(leftOut=["scheduled", "engine"])
    served.materialize(NOON)
    skew = served.check(served.serve([(NOON, ROW)]))
    assert set(skew.skipped) == {"gap", "engine"}
    assert skew.skipped["gap"] == "it is computed from what 'scheduled' is left out of the prediction log"
    assert kinds(skew) == dict.fromkeys(("seats", "delay_mean", "delay_rows"), "equal")


def test_a_hashed_feature_is_compared_by_its_hash(world, tmp_path):
    served = world(hashed=["engine", "delay_mean"])
    served.materialize(NOON)
    log = served.serve([(NOON, ROW)])
    skew = served.check(log, key=KEY)
    assert kinds(skew) == {name: "equal" for name in ALL_EQUAL if name != "gap"}
    assert set(skew.skipped) == {"gap"}
    rows(served.store.environment, "planes", tailnum=["N1"], seats=[150], engine=["Turbo-jet"], event=["01:00"])
    assert kinds(served.check(log, key=KEY))["engine"] == "skewed"
    without = served.check(log)
    assert without.skipped["engine"] == "'engine' is hashed in the prediction log, and the secret is not known here"


def test_a_feature_that_was_not_served_yet_is_skipped(world):
    served = world()
    served.materialize(NOON)
    log = served.serve([(NOON, ROW)])
    assert set(served.check(log.drop_columns(["seats"])).skipped) == {"seats"}
    assert set(served.check(log.drop_columns(["planes__event_timestamp"])).skipped) == {"seats", "engine"}


def test_an_unknown_service_is_refused(world):
    served = world()
    with pytest.raises(FeatureStoreError, match="nothing_such"):
        check(served.store, "nothing_such", served.serve([(NOON, ROW)]))


def test_so_many_predictions_are_looked_at_as_are_asked_for(world):
    served = world()
    served.materialize(NOON)
    log = served.serve([(NOON + n * MINUTE, ROW) for n in range(10)])
    assert served.check(log, rows=4).rows == 4
    assert served.check(log).rows == 10


# -- every type, in both online stores ---------------------------------------------------------------------------------

EVERY_TYPE = """
from datetime import timedelta
from feast import Entity, FeatureService, FeatureView, Field, FileSource, RequestSource, ValueType
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Bool, Float32, Float64, Int32, Int64, String, UnixTimestamp

number = Entity(name="number", join_keys=["number"], value_type=ValueType.INT64)
everything = FeatureView(
    name="everything", entities=[number], ttl=timedelta({ttl}),
    schema=[Field(name="single", dtype=Float32), Field(name="double", dtype=Float64), Field(name="small", dtype=Int32),
            Field(name="large", dtype=Int64), Field(name="flag", dtype=Bool), Field(name="score", dtype=String),
            Field(name="built", dtype=UnixTimestamp)],
    source=FileSource(name="everything", path="data/everything.parquet", timestamp_field="event_timestamp",
                      created_timestamp_column="created_timestamp"),
)
asked = RequestSource(name="asked", schema=[Field(name="departs", dtype=UnixTimestamp)])

@on_demand_feature_view(sources=[asked, everything], schema=[Field(name="years", dtype=Float64)], mode="python")
def age(inputs):
    from datetime import datetime
    pairs = zip(inputs["departs"], inputs["built"])
    return {{"years": [(a - b).total_seconds() / 31557600 if isinstance(a, datetime) and b is not None else None
                       for a, b in pairs]}}

service = FeatureService(name="flights", features=[everything, age])
"""


@pytest.fixture(params=["sqlite", "redis"])
def every_type(request, tmp_path):
    environment = new_repository(tmp_path, declarations=EVERY_TYPE)
    built = pd.to_datetime(["1999-05-04T03:02:01.999999Z", None, "1969-12-31T23:00:00.5Z"], format="ISO8601")
    rows(
        environment, "everything", number=[1, 2, 2**40], single=[0.1, None, 1e30], double=[0.1, None, -0.0],
        small=pd.array([-7, None, 2**31 - 1], "Int32"), large=pd.array([2**53 - 1, None, -(2**63)], "Int64"),
        flag=[True, None, False], score=["Zürich", None, ""], built=built,
        event=["11:00:00.250001", "11:59:59.999999", "10:00"],
    )  # fmt: skip
    if request.param == "sqlite":
        yield World.new(environment)
        return
    with redis_server(tmp_path / "redis") as port:
        path = environment.feature_store_yaml
        online = f"online_store:\n  type: redis\n  connection_string: 127.0.0.1:{port}\n"
        text = path.read_text()
        before, rest = text.split("online_store:\n")
        after = rest[rest.index("#") :]
        path.write_text(f"{before}{online}{after}")
        yield World.new(environment)


def test_every_type_is_equal_to_the_last_bit_and_event_times_may_have_fractions(every_type):
    every_type.materialize(NOON)
    departs = instant("2013-03-09T13:00:00.123456")
    asked = [(NOON, {"number": number, "departs": departs}) for number in (1, 2, 2**40)]
    skew = every_type.check(every_type.serve(asked))
    assert skew.skipped == {}
    assert {f.feature: f.equal for f in skew.features} == dict.fromkeys(
        ("single", "double", "small", "large", "flag", "score", "built", "years"), 3
    )
    assert (lag(skew, "everything").stale, lag(skew, "everything").ahead) == (0, 0)


def test_an_instant_that_differs_is_shown_as_one(every_type):
    every_type.materialize(NOON)
    log = every_type.serve([(NOON, {"number": 1, "departs": NOON})])
    path = every_type.store.environment.home / "data/everything.parquet"
    later = pd.read_parquet(path).assign(built=pd.Timestamp("2000-01-01", tz="UTC"))
    later.to_parquet(path, index=False)
    skew = every_type.check(log)
    assert {f.feature for f in skew.features if f.skewed} == {"built", "years"}
    (example,) = feature(skew, "built").examples
    assert (example.served, example.recomputed) == ("1999-05-04T03:02:01+00:00", "2000-01-01T00:00:00+00:00")


# -- the oracle --------------------------------------------------------------------------------------------------------

TTL = 6 * HOUR


class Oracle:
    """What was known of each key at any instant, by looking at every row."""

    def __init__(self, table: pd.DataFrame, key: str, ttl: timedelta | None) -> None:
        self.rows = {name: list(group.itertuples()) for name, group in table.groupby(key)}
        self.ttl = ttl

    def best(self, key: str, at: datetime) -> Any:
        """The best row known at an instant, expired or not."""
        known = [r for r in self.rows.get(key, []) if max(r.event_timestamp, r.created_timestamp) <= at]
        return max(known, key=lambda r: (r.event_timestamp, r.created_timestamp, r.Index), default=None)

    def valid(self, row: Any, at: datetime) -> Any:
        """The row, or nothing if it is expired."""
        return None if row is None or (self.ttl and at - row.event_timestamp > self.ttl) else row

    def lag(self, key: str, written: datetime, at: datetime) -> timedelta | None:
        """How long before `at` what was online since `written` ceased to be right, by half minutes; None if it is."""
        online = self.valid(self.best(key, written), written)
        right = at

        def is_right(then: datetime) -> bool:
            now = self.best(key, then)
            if online is not None and now is not None and now.Index == online.Index:
                return True
            return self.valid(now, then) is None and self.valid(online, then) is None and (online is None or then == at)

        while not is_right(right):
            right -= MINUTE / 2
        return at - right - MINUTE / 2 if right < at else None


def test_a_week_with_late_and_corrected_rows_is_told_as_by_looking_at_every_row(home):
    data = write_data(home)
    served, random = World(home), np.random.default_rng(0)
    oracles = {
        "delays": (Oracle(data["delays"], "carrier", TTL), "carrier"),
        "planes": (Oracle(data["planes"], "tailnum", None), "tailnum"),
    }
    expected: dict[str, list[timedelta]] = {"delays": [], "planes": []}
    stale = dict.fromkeys(("delay_mean", "delay_rows", "seats", "engine"), 0)
    logs = []
    for day in (1, 3, 5):
        written = START.to_pydatetime() + timedelta(days=day)
        served.materialize(written)
        asked = []
        for _ in range(30):
            now = written + int(random.integers(0, 12 * 60)) * MINUTE
            row = {
                "carrier": str(random.choice(["AA", "UA", "ΔΛ", "9E"])),
                "tailnum": f"N{random.integers(0, 61)}",
                "scheduled": 1.0,
            }
            asked.append((now, row))
            for view, (oracle, key) in oracles.items():
                late = oracle.lag(row[key], written, now)
                expected[view] += [] if late is None else [late]
                then = oracle.valid(oracle.best(row[key], now), now)
                online = oracle.valid(oracle.valid(oracle.best(row[key], written), written), now)
                for name, column in (
                    ("delay_mean", "mean"),
                    ("delay_rows", "delay_rows"),
                    ("seats", "seats"),
                    ("engine", "engine"),
                ):
                    if column in data[view].columns:
                        a, b = (
                            None if r is None or pd.isna(getattr(r, column)) else getattr(r, column)
                            for r in (then, online)
                        )
                        stale[name] += a != b
        logs.append(served.serve(asked))
    ids = pa.array([f"p{i}" for i in range(90)])
    log = pa.concat_tables(logs).set_column(0, "prediction_id", ids)
    skew = served.check(log)
    assert skew.skewed == sum(f.ahead for f in skew.features) == 0
    assert {name: feature(skew, name).stale for name in stale} == stale
    assert all(stale.values())
    for view, lags in expected.items():
        found = lag(skew, view)
        assert (found.rows, found.stale, found.longest) == (90, len(lags), max(lags))
        assert found.p50 == sorted(lags)[(len(lags) - 1) // 2]


def test_what_is_recomputed_is_what_a_training_set_would_have(home):
    write_data(home)
    served, random = World(home), np.random.default_rng(2)
    served.materialize(START.to_pydatetime() + timedelta(days=3))
    asked = [
        (START.to_pydatetime() + timedelta(days=3) + int(n) * MINUTE, {"carrier": c, "tailnum": t, "scheduled": s})
        for n, c, t, s in zip(
            random.integers(0, 4 * 24 * 60, 200), random.choice(["AA", "UA", "??"], 200).tolist(),
            [f"N{i}" for i in random.integers(0, 62, 200)], random.normal(size=200).tolist(), strict=True,
        )
    ]  # fmt: skip
    recomputed = recompute(served.store, SERVICE, served.serve(asked))
    entities = pd.DataFrame([row | {"event_timestamp": now} for now, row in asked])
    history = served.store.history(SERVICE, entities)
    for rows in (*recomputed.stored, *recomputed.computed):
        for name in rows.recomputed.schema.names:
            mine = rows.recomputed[name].to_pandas().astype(object)
            theirs = history[name].astype(object)
            assert mine.where(mine.notna(), None).tolist() == theirs.where(theirs.notna(), None).tolist(), name


# -- real flights ------------------------------------------------------------------------------------------------------


class Recent(Flights):
    """The flights of the last days only, and all that does not change."""

    def read(self, table: str, after: datetime | None, until: datetime) -> pd.DataFrame:
        since = None if table in ("planes", "airlines") else instant("2013-09-28")
        return super().read(table, after or since, until)


@pytest.mark.slow
def test_real_flights_are_served_as_they_are_recomputed(tmp_path):
    since = instant("2013-10-01T14:00")
    store = skew_replay.new_world(tmp_path, Recent(), since + 2 * HOUR)
    answered = skew_replay.replay(store, since, since + 2 * HOUR)
    log = PredictionStore.of(store.environment).read(skew_replay.MODEL, since.date(), since.date())
    skew = check(store, skew_replay.SERVICE, log)
    assert skew.rows == answered > 50
    assert skew.skipped == {}
    assert len(skew.features) == 34
    assert skew.skewed == sum(f.ahead for f in skew.features) == 0
    assert timedelta() < lag(skew, "origin_delays").longest < HOUR
