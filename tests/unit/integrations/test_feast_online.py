import asyncio
import json
import math
import socket
import struct
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.serving_world import NOW, feature_store, redis_server, row
from evergrow.errors import FeatureStoreError, RequestError
from evergrow.integrations import feast_layout, online_stores
from evergrow.integrations.feast_online import OnlineReader, plan
from evergrow.integrations.online_stores import StoreUnavailable, parse_url

KEYS = ("origin", "dest", "tailnum", "carrier")


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def store(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "sqlite":
        yield feature_store(folder, {"type": "sqlite", "path": str(folder / "online.db")})
    else:
        with redis_server(folder) as port:
            yield feature_store(folder, {"type": "redis", "connection_string": f"127.0.0.1:{port}"})


@pytest.fixture(scope="module")
def planned(store):
    return json.loads(json.dumps(plan(store, "flights_v1")))


@pytest.fixture(scope="module")
def reader(planned):
    return OnlineReader.open(planned)


def by_feast(store, rows):
    """What Feast's own SDK answers, per row."""
    service = store.get_feature_service("flights_v1")
    answer = store.get_online_features(features=service, entity_rows=rows).to_dict()
    return [{name: column[i] for name, column in answer.items()} for i in range(len(rows))]


def test_values_are_those_of_feasts_own_sdk_for_every_type_of_value(store, planned, reader):
    rows = [row(), row(origin="Zürich"), row(tailnum="N2", carrier=-1), row(origin="JFK", dest="LAX")]
    ours = reader.read(rows, NOW)
    for expected, found in zip(by_feast(store, rows), ours, strict=True):
        fresh = [
            name
            for group in planned["groups"]
            for view in group["views"]
            if not {f"stale:{view['name']}", f"future:{view['name']}"} & set(found.flags)
            for name in (feature["name"] for feature in view["features"])
        ]
        assert {n: found.values[n] for n in fresh} == {n: expected[n] for n in fresh}
        if "stale:weather" not in found.flags:
            assert {n: found.values[n] for n in ("hour", "km", "celsius")} == {
                n: expected[n] for n in ("hour", "km", "celsius")
            }


def test_a_row_with_everything_known_has_no_flag_and_every_feature_of_the_service(planned, reader):
    (found,) = reader.read([row()], NOW)
    assert found.flags == ()
    assert set(planned["features"]) <= set(found.values)
    assert found.values["mean_delay"] == 12.5
    assert found.values["built"] == datetime(1999, 5, 4, tzinfo=UTC)
    assert found.values["holiday"] is False


def test_an_entity_that_no_view_knows_is_unknown_and_its_features_are_none(store, reader):
    asked = [row(origin="XXX", tailnum="N99", carrier=12345)]
    (found,) = reader.read(asked, NOW)
    assert set(found.flags) == {"unknown:origin", "unknown:dest+origin", "unknown:tailnum", "unknown:carrier"}
    names = ("mean_delay", "temperature", "seats", "p90", "rating", "celsius")
    assert {n: found.values[n] for n in names} == dict.fromkeys(names)
    assert {n: by_feast(store, asked)[0][n] for n in names} == dict.fromkeys(names)


def test_an_entity_that_only_some_views_know_lacks_the_others(reader):
    (found,) = reader.read([row(origin="LGA")], NOW)
    assert set(found.flags) == {"missing:weather", "unknown:dest+origin"}
    assert (found.values["flights"], found.values["temperature"]) == (-7, None)


def test_a_row_without_a_key_lacks_its_views(reader):
    (found,) = reader.read([row(tailnum=None)], NOW)
    assert found.flags == ("missing:tailnum",)
    assert found.values["seats"] is None
    assert found.values["mean_delay"] == 12.5


def test_a_value_stored_as_null_is_no_flag(reader):
    (found,) = reader.read([row(origin="Zürich", dest="SFO")], NOW)
    assert found.values["temperature"] is None
    assert found.values["sky"] is None
    assert found.flags == ("unknown:dest+origin",)


@pytest.mark.parametrize(("past_ttl", "flags"), [(0, ()), (1, ("stale:origin_delays",))])
def test_a_value_is_used_up_to_its_ttl_and_not_longer(reader, past_ttl, flags):
    # EWR's delays are an hour old at NOW and live for six.
    (found,) = reader.read([row(carrier=None)], NOW + timedelta(hours=5, seconds=past_ttl))
    assert [f for f in found.flags if "origin_delays" in f] == list(flags)
    assert found.values["flights"] == (None if flags else 100)


def test_a_view_without_ttl_never_grows_stale(reader):
    (found,) = reader.read([row()], NOW + timedelta(days=4000))
    assert found.values["seats"] == 189
    assert "stale:planes" not in found.flags


def test_a_value_that_is_not_known_yet_at_a_replayed_instant_is_not_used(reader):
    (found,) = reader.read([row(origin="JFK", dest="LAX")], NOW)
    assert "future:route_delays" in found.flags
    assert found.values["p90"] is None
    (later,) = reader.read([row(origin="JFK", dest="LAX")], NOW + timedelta(hours=2))
    assert later.values["p90"] == 55.5


def test_a_clock_that_is_slightly_behind_still_sees_the_newest_values(reader):
    (found,) = reader.read([row(origin="JFK", dest="LAX")], NOW + timedelta(hours=2, seconds=-59))
    assert found.values["p90"] == 55.5


def test_many_rows_are_read_at_once_and_answered_in_order(reader):
    rows = [row(tailnum=t, carrier=c) for t in ("N1", "N2", "N3", None) for c in (7, -1, 0)]
    together = reader.read(rows, NOW)
    assert together == [reader.read([r], NOW)[0] for r in rows]
    assert asyncio.run(reader.read_async(rows, NOW)) == together


def test_equal_keys_are_looked_up_once(planned):
    class Counting:
        where = "nowhere"

        def fetch(self, lookups):
            self.lookups = list(lookups)
            sizes = [sum(len(v["features"]) + 1 for v in group["views"]) for group in planned["groups"]]
            return [[None] * sizes[group] for group, _ in lookups]

    counting = Counting()
    OnlineReader(planned, counting).read([row(tailnum=None)] * 50, NOW)
    assert len(counting.lookups) == len(planned["groups"]) - 1


def test_an_on_demand_function_that_refuses_a_row_names_that_row(reader):
    with pytest.raises(RequestError, match=r"instances\[1\]: departure of .*'half past nine'.*Invalid isoformat"):
        reader.read([row(), row(departs="half past nine")], NOW)


def test_the_plan_is_json_without_secrets_and_names_types_of_keys_and_request_fields(planned):
    assert planned["keys"] == {"carrier": "INT64", "dest": "STRING", "origin": "STRING", "tailnum": "STRING"}
    assert planned["request"] == {"departs": "STRING", "distance": "DOUBLE"}
    assert planned["on_demand"][0]["source"].startswith("def since_departure(inputs):")
    assert {view["name"]: view["ttl_seconds"] for group in planned["groups"] for view in group["views"]} == {
        "holidays": 86400,
        "origin_delays": 21600,
        "planes": None,
        "ratings": 86400,
        "route_delays": 86400,
        "weather": 10800,
    }


def test_decorators_stay_out_of_the_source_of_an_on_demand_function():
    from types import SimpleNamespace

    from evergrow.integrations.feast_online import _compiled, _source

    text = "@decorated(\n    mode='python')\ndef double(inputs):\n    return {'b': [2 * a for a in inputs['a']]}\n"
    view = SimpleNamespace(name="v", feature_transformation=SimpleNamespace(udf_string=text))
    assert _compiled("v", _source(view))({"a": [1, 2]}) == {"b": [2, 4]}
    for wrong in ("lambda inputs: inputs", "a function", ""):
        view.feature_transformation.udf_string = wrong
        with pytest.raises(FeatureStoreError, match="its source must be one function"):
            _source(view)


def test_secrets_of_the_online_store_stay_out_of_the_plan(tmp_path):
    from types import SimpleNamespace

    from evergrow.integrations.feast_online import _store

    kind = SimpleNamespace(value="redis")
    secret = SimpleNamespace(type="redis", redis_type=kind, connection_string="h:6380,db=2,ssl=true,password=hunter2")
    found = _store(SimpleNamespace(config=SimpleNamespace(online_store=secret)))
    assert found == {"type": "redis", "host": "h", "port": 6380, "db": 2, "tls": True}


def test_a_service_that_does_not_exist_is_refused_with_those_that_do(store):
    with pytest.raises(FeatureStoreError, match=r"'flights_v2' does not exist; there are: flights_v1, origins"):
        plan(store, "flights_v2")


def test_a_plan_of_another_format_is_refused(planned):
    with pytest.raises(FeatureStoreError, match="must be 1, found 0"):
        OnlineReader.open({**planned, "format": 0})


def test_reading_does_not_import_feast_or_pandas(planned, tmp_path):
    (tmp_path / "plan.json").write_text(json.dumps({**planned, "on_demand": []}))
    script = f"""
import json, sys
from datetime import datetime, UTC
from evergrow.integrations.feast_online import OnlineReader
reader = OnlineReader.open(json.load(open({str(tmp_path / "plan.json")!r})))
assert reader.read([{row()!r}], datetime(2013, 7, 1, 12, tzinfo=UTC))[0].values["flights"] == 100
print([m for m in ("feast", "pandas", "numpy", "pyarrow") if m in sys.modules])
"""
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "[]\n"


# -- bytes, against Feast's own serializers ----------------------------------------------------------------------------

scalars = {
    "STRING": st.text(),
    "INT32": st.integers(-(2**31), 2**31 - 1),
    "INT64": st.integers(-(2**63), 2**63 - 1),
    "DOUBLE": st.floats(allow_nan=False),
    "FLOAT": st.floats(width=32, allow_nan=False),
    "BOOL": st.booleans(),
    "UNIX_TIMESTAMP": st.integers(-(2**40), 2**35),
}


@given(st.sampled_from(sorted(scalars)).flatmap(lambda kind: st.tuples(st.just(kind), scalars[kind])))
def test_every_scalar_decodes_to_what_feast_encoded(case):
    from feast.protos.feast.types.Value_pb2 import Value

    kind, value = case
    field = {"UNIX_TIMESTAMP": "unix_timestamp_val"}.get(kind, f"{kind.lower()}_val")
    data = Value(**{field: value}).SerializeToString()
    if kind == "UNIX_TIMESTAMP" and not -62135596800 <= value <= 253402300799:
        with pytest.raises(ValueError, match="must be a scalar"):
            feast_layout.decode_value(data)
    else:
        decoded = feast_layout.decode_value(data)
        assert (decoded.timestamp() if kind == "UNIX_TIMESTAMP" else decoded) == value


def test_nan_decodes_to_nan_and_nothing_to_none():
    from feast.protos.feast.types.Value_pb2 import Value

    assert math.isnan(feast_layout.decode_value(Value(double_val=math.nan).SerializeToString()))
    assert feast_layout.decode_value(Value().SerializeToString()) is None
    assert feast_layout.decode_value(Value(null_val=0).SerializeToString()) is None


def test_an_instant_that_is_missing_decodes_to_none_and_one_that_no_clock_shows_is_refused():
    from feast.type_map import python_values_to_proto_values
    from feast.value_type import ValueType

    (missing,) = python_values_to_proto_values([np.datetime64("NaT")], ValueType.UNIX_TIMESTAMP)
    assert feast_layout.decode_value(missing.SerializeToString()) is None
    missing.unix_timestamp_val += 1
    with pytest.raises(ValueError, match="must be a scalar"):
        feast_layout.decode_value(missing.SerializeToString())


@given(st.binary(max_size=40))
def test_bytes_that_are_no_scalar_are_refused_and_never_hang(data):
    try:
        feast_layout.decode_value(data)
    except ValueError as error:
        assert "must be a scalar" in str(error)


@given(st.lists(st.tuples(st.text(min_size=1), st.one_of(scalars["STRING"], scalars["INT64"])), min_size=1, max_size=4))
def test_entity_keys_are_those_of_feasts_serializer(parts):
    from feast.infra.key_encoding_utils import serialize_entity_key
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    parts = sorted(dict(parts).items())
    values = [Value(string_val=v) if isinstance(v, str) else Value(int64_val=v) for _, v in parts]
    expected = serialize_entity_key(EntityKey(join_keys=[k for k, _ in parts], entity_values=values), 3)
    encoders = [feast_layout.KEY_ENCODERS["STRING" if isinstance(v, str) else "INT64"] for _, v in parts]
    ours = feast_layout.key_prefix([k for k, _ in parts])
    ours += b"".join(encode(v) for encode, (_, v) in zip(encoders, parts, strict=True))
    assert ours == expected


@given(st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)))
def test_timestamps_decode_to_what_protobuf_encoded(instant):
    from google.protobuf.timestamp_pb2 import Timestamp

    stamp = Timestamp()
    stamp.FromDatetime(instant)
    assert feast_layout.decode_timestamp(stamp.SerializeToString()) == pytest.approx(instant.timestamp(), abs=1e-5)


# -- the store away, slow or broken ------------------------------------------------------------------------------------


def test_a_missing_sqlite_file_is_unavailable_and_comes_back(tmp_path):
    source = feature_store(tmp_path / "repo", {"type": "sqlite", "path": str(tmp_path / "online.db")})
    reader = OnlineReader.open(plan(source, "origins"))
    (tmp_path / "online.db").rename(tmp_path / "away.db")
    with pytest.raises(StoreUnavailable, match=r"sqlite at .*online.db.*unable to open"):
        reader.read([{"origin": "EWR"}], NOW)
    (tmp_path / "away.db").rename(tmp_path / "online.db")
    assert reader.read([{"origin": "EWR"}], NOW)[0].values["flights"] == 100


def test_a_replaced_sqlite_file_is_read_from_the_next_ping_on(tmp_path):
    source = feature_store(tmp_path / "repo", {"type": "sqlite", "path": str(tmp_path / "online.db")})
    reader = OnlineReader.open(plan(source, "origins"))
    assert reader.read([{"origin": "EWR"}], NOW)[0].values["flights"] == 100
    (tmp_path / "online.db").unlink()
    with pytest.raises(StoreUnavailable):
        asyncio.run(reader.store.ping())
    with pytest.raises(StoreUnavailable):
        reader.read([{"origin": "EWR"}], NOW)


def test_redis_away_is_unavailable_in_bounded_time_and_comes_back(tmp_path):
    with redis_server(tmp_path / "first") as port:
        source = feature_store(tmp_path, {"type": "redis", "connection_string": f"127.0.0.1:{port}"})
        reader = OnlineReader.open(plan(source, "origins"))

        async def scenario():
            return await reader.read_async([{"origin": "EWR"}], NOW)

        async def all_of_it():
            assert (await scenario())[0].values["flights"] == 100
            subprocess.run(["redis-cli", "-p", str(port), "shutdown", "nosave"], check=False, capture_output=True)
            for _ in range(3):
                with pytest.raises(StoreUnavailable, match=f"redis at 127.0.0.1:{port}/0"):
                    await scenario()
            with redis_server(tmp_path / "second", port):
                feature_store(tmp_path, {"type": "redis", "connection_string": f"127.0.0.1:{port}"})
                await asyncio.sleep(online_stores.BACKOFF_SECONDS)
                assert (await scenario())[0].values["flights"] == 100

        asyncio.run(all_of_it())


@pytest.fixture
def impostor():
    """A server that answers every connection with the given bytes and then nothing more."""
    listening = socket.create_server(("127.0.0.1", 0))
    state = {"answer": b"", "open": []}

    def serve():
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            state["open"].append(connection)
            connection.sendall(state["answer"])

    threading.Thread(target=serve, daemon=True).start()
    yield listening.getsockname()[1], state
    listening.close()


@pytest.mark.parametrize(
    ("answer", "message"),
    [(b"", "no answer within"), (b"HTTP/1.1 200 OK\r\n\r\n", "not a Redis server"), (b"-NOAUTH who?\r\n", "NOAUTH")],
)
def test_a_server_that_hangs_or_is_no_redis_is_unavailable(impostor, monkeypatch, answer, message):
    port, state = impostor
    state["answer"] = answer
    monkeypatch.setattr(online_stores, "REPLY_SECONDS", 0.2)
    store = online_stores.connect({"type": "redis", "host": "127.0.0.1", "port": port, "db": 0}, "p", [])
    with pytest.raises(StoreUnavailable, match=message):
        asyncio.run(store.ping())


def test_concurrent_requests_over_one_connection_get_their_own_answers(tmp_path):
    with redis_server(tmp_path / "redis") as port:
        source = feature_store(tmp_path, {"type": "redis", "connection_string": f"127.0.0.1:{port}"})
        reader = OnlineReader.open(plan(source, "origins"))
        expected = {"EWR": 100, "Zürich": 2**40, "XXX": None}

        async def ask(origin):
            return (await reader.read_async([{"origin": origin}], NOW))[0].values["flights"]

        async def all_at_once():
            asked = [origin for _ in range(200) for origin in expected]
            return asked, await asyncio.gather(*(ask(origin) for origin in asked))

        asked, found = asyncio.run(all_at_once())
        assert found == [expected[origin] for origin in asked]


def test_a_request_that_is_given_up_does_not_shift_the_answers_of_others(tmp_path):
    with redis_server(tmp_path / "redis") as port:
        source = feature_store(tmp_path, {"type": "redis", "connection_string": f"127.0.0.1:{port}"})
        reader = OnlineReader.open(plan(source, "origins"))

        async def scenario():
            await reader.store.ping()
            given_up = asyncio.ensure_future(reader.read_async([{"origin": "Zürich"}], NOW))
            await asyncio.sleep(0)
            given_up.cancel()
            return (await reader.read_async([{"origin": "EWR"}], NOW))[0].values["flights"]

        assert asyncio.run(scenario()) == 100


@pytest.mark.parametrize("url", ["localhost:6379", "mysql://h/1", "redis://h/one", "sqlite://", ""])
def test_an_online_store_that_is_no_known_url_is_refused_without_repeating_it(url):
    with pytest.raises(FeatureStoreError, match="must be sqlite:///<path> or redis://"):
        parse_url(url)


def test_a_password_in_the_url_is_used_and_never_shown():
    place = parse_url("rediss://ada:s%40crt@cache:6380/3")
    assert (place["username"], place["password"], place["tls"], place["db"]) == ("ada", "s@crt", True, 3)
    store = online_stores.connect(place, "p", [])
    assert store.where == "redis at cache:6380/3"
    assert store._greeting()[0] == b"*3\r\n$4\r\nAUTH\r\n$3\r\nada\r\n$5\r\ns@crt\r\n"


def test_sqlite_times_read_as_feast_reads_them_in_any_timezone(tmp_path):
    # Feast writes naive UTC through the machine's local time; reading must undo exactly that.
    script = f"""
import os, time
os.environ["TZ"] = "America/New_York"
time.tzset()
from pathlib import Path
from benchmarks.serving_world import NOW, feature_store
from evergrow.integrations.feast_online import OnlineReader, plan
store = feature_store(Path({str(tmp_path)!r}), {{"type": "sqlite", "path": {str(tmp_path / "online.db")!r}}})
from datetime import timedelta
reader = OnlineReader.open(plan(store, "origins"))
print([reader.read([{{"origin": "EWR"}}], NOW + timedelta(hours=h))[0].flags for h in (0, 5, 5.01)])
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.stdout.splitlines()[-1:] == ["[(), (), ('stale:origin_delays',)]"], run.stderr


def test_struct_packs_keys_in_little_endian_whatever_the_machine():
    assert feast_layout.KEY_ENCODERS["INT64"](1) == struct.pack("<IIq", 4, 8, 1)
