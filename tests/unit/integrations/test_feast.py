"""FeastStore on a repository of its own: applied, joined, described and materialized."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import feast.errors
import numpy as np
import pandas as pd
import pytest

from benchmarks.serving_world import redis_server
from evergrow.environment import Environment
from evergrow.errors import EvergrowError, FeatureStoreError
from evergrow.integrations.feast import FeastStore, translated

ROOT = Path(__file__).parents[3]
START = pd.Timestamp("2013-03-08", tz="UTC")
WEEK = timedelta(days=7)

DECLARATIONS = """
from datetime import timedelta
from feast import Entity, FeatureService, FeatureView, Field, FileSource, RequestSource, ValueType
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64, String, UnixTimestamp

carrier = Entity(name="carrier", join_keys=["carrier"], value_type=ValueType.STRING)
plane = Entity(name="plane", join_keys=["tailnum"], value_type=ValueType.STRING)

def source(name, **options):
    return FileSource(name=name, path=f"data/{{name}}.parquet", timestamp_field="event_timestamp",
                      created_timestamp_column="created_timestamp", **options)

delays = FeatureView(
    name="delays", entities=[carrier], ttl=timedelta({ttl}),
    schema=[Field(name="delay_mean", dtype=Float64), Field(name="delay_rows", dtype=Int64)],
    source=source("delays", field_mapping={{"mean": "delay_mean"}}),
)
planes = FeatureView(
    name="planes", entities=[plane], ttl=timedelta(0),
    schema=[Field(name="seats", dtype=Int64), Field(name="engine", dtype=String)],
    source=source("planes"),
)
asked = RequestSource(name="asked", schema=[Field(name="scheduled", dtype=Float64)])

@on_demand_feature_view(sources=[asked, delays], schema=[Field(name="gap", dtype=Float64)], mode="python")
def gaps(inputs):
    # Scheduled minus mean delay; nothing where there is none.
    pairs = zip(inputs["scheduled"], inputs["delay_mean"])
    return {{"gap": [None if a is None or b is None else a - b for a, b in pairs]}}

service = FeatureService(name="flights", features=[planes[["engine", "seats"]], gaps, delays])
"""
PACKAGES = iter(range(10_000))


def new_repository(folder: Path, ttl: str = "hours=6", declarations: str = DECLARATIONS) -> Environment:
    """A feature repository with the project's own configuration, as a package of a name of its own."""
    package = f"declared_{next(PACKAGES)}_{folder.name.replace('-', '_')}"
    repository = folder / package
    repository.mkdir()
    shutil.copy(ROOT / "feature_repo/feature_store.local.yaml", repository)
    (repository / "declared.py").write_text(declarations.format(package=package, ttl=ttl))
    return Environment(home=folder / "home", feature_repo=repository, tracking_uri="")


def write_data(environment: Environment, seed: int = 0, rows: int = 400) -> dict[str, pd.DataFrame]:
    """A week of feature rows; a quarter of them were created up to a day late, some corrected."""
    random = np.random.default_rng(seed)
    (environment.home / "data").mkdir(parents=True, exist_ok=True)

    def stamps(count: int) -> dict[str, pd.Series]:
        event = START + pd.to_timedelta(random.integers(0, 7 * 24 * 4, count) * 15, unit="min")
        late = random.integers(0, 24 * 60, count) * (random.random(count) < 0.25)
        return {"event_timestamp": event, "created_timestamp": event + pd.to_timedelta(late, unit="min")}

    delays = pd.DataFrame(
        {
            "carrier": random.choice(["AA", "UA", "ΔΛ", "9E"], rows),
            "mean": np.where(random.random(rows) < 0.1, np.nan, random.normal(10, 20, rows)),
            "delay_rows": random.integers(0, 100, rows),
            **stamps(rows),
        }
    )
    planes = pd.DataFrame(
        {
            "tailnum": random.choice([f"N{i}" for i in range(60)], rows),
            "seats": random.integers(2, 400, rows),
            "engine": random.choice(["Turbo-fan", "Turbo-jet", None], rows),
            **stamps(rows),
        }
    )
    tables = {"delays": delays, "planes": planes}
    for name, table in tables.items():
        table.to_parquet(environment.home / "data" / f"{name}.parquet", index=False)
    return tables


def entities(count: int, seed: int = 1) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "label": random.integers(0, 2, count),
            "tailnum": random.choice([*(f"N{i}" for i in range(62)), None], count),
            "carrier": random.choice(["AA", "UA", "ΔΛ", "9E", "never seen"], count),
            "event_timestamp": START + pd.to_timedelta(random.integers(0, 7 * 24 * 60, count), unit="min"),
            "scheduled": random.normal(0, 5, count),
        },
        index=random.permutation(count) + 100,
    )


@pytest.fixture
def store(tmp_path: Path) -> FeastStore:
    """An applied repository with a week of data."""
    environment = new_repository(tmp_path)
    write_data(environment)
    store = FeastStore(environment)
    store.apply()
    return store


def online(store: FeastStore, keys: pd.DataFrame) -> pd.DataFrame:
    """What Feast's own online reader says."""
    rows = keys.drop(columns="event_timestamp").to_dict("records")
    service = store.feast.get_feature_service("flights")
    return store.feast.get_online_features(service, rows).to_df()[store.feature_names("flights")]


def all_keys(at: datetime) -> pd.DataFrame:
    tails, carriers = [f"N{i}" for i in range(62)], ["AA", "UA", "ΔΛ", "9E", "never seen"]
    return pd.DataFrame(
        {
            "tailnum": tails,
            "carrier": [carriers[i % 5] for i in range(62)],
            "scheduled": np.linspace(-3, 3, 62),
            "event_timestamp": at,
        }
    )


def assert_online_is_offline(store: FeastStore, at: datetime) -> None:
    keys = all_keys(at)
    offline = store.history("flights", keys)[store.feature_names("flights")]
    same = offline.astype(object).where(offline.notna(), None)
    found = online(store, keys).astype(object)
    pd.testing.assert_frame_equal(found.where(found.notna(), None), same, check_dtype=False)


def test_history_keeps_rows_order_index_and_columns_and_adds_the_features_in_the_services_order(
    store: FeastStore,
) -> None:
    frame = entities(300)
    joined = store.history("flights", frame)
    pd.testing.assert_frame_equal(joined[frame.columns], frame)
    assert list(joined.columns) == [*frame.columns, "engine", "seats", "gap", "delay_mean", "delay_rows"]


def test_an_on_demand_feature_is_computed_from_request_time_values_and_joined_ones(store: FeastStore) -> None:
    joined = store.history("flights", entities(300))
    assert joined["gap"].notna().any()
    assert joined["gap"].isna().any()
    np.testing.assert_allclose(joined["gap"], joined["scheduled"] - joined["delay_mean"])


def test_a_missing_column_is_named(store: FeastStore) -> None:
    for column in ("tailnum", "carrier", "scheduled", "event_timestamp"):
        with pytest.raises(FeatureStoreError, match=column):
            store.history("flights", entities(3).drop(columns=column))


def test_an_entity_column_named_like_a_feature_is_refused(store: FeastStore) -> None:
    with pytest.raises(FeatureStoreError, match="seats"):
        store.history("flights", entities(3).assign(seats=1))


def test_an_unknown_service_is_an_error_with_a_hint(store: FeastStore) -> None:
    with pytest.raises(FeatureStoreError, match="no_such") as caught:
        store.history("no_such", entities(3))
    assert "feature_repo" in caught.value.hint


def test_a_missing_feature_table_is_an_error_that_names_the_file(store: FeastStore) -> None:
    (store.environment.home / "data/planes.parquet").unlink()
    with pytest.raises(FeatureStoreError, match=r"planes\.parquet"):
        store.history("flights", entities(3))


def test_what_feast_read_of_one_registry_is_never_taken_for_what_another_has(store: FeastStore) -> None:
    registry = store.feast.registry
    copies = [registry.cached_registry_proto]
    for _ in range(3):
        registry.refresh()
        copies.append(registry.cached_registry_proto)
    versions = {copy.version_id for copy in copies}
    assert len(versions) == len(copies)
    assert all(versions)


def test_applying_twice_changes_nothing_and_what_is_no_longer_declared_goes(tmp_path: Path) -> None:
    environment = new_repository(tmp_path)
    write_data(environment)
    store = FeastStore(environment)
    store.apply()
    before = store.digest("flights")
    store.apply()
    assert store.digest("flights") == before
    smaller = DECLARATIONS.replace('features=[planes[["engine", "seats"]], gaps, delays]', "features=[planes]")
    smaller = smaller.replace('name="flights"', 'name="fewer"')
    changed = new_repository(tmp_path, declarations=smaller)
    other = FeastStore(changed)
    other.apply()
    assert [s.name for s in other.feast.list_feature_services()] == ["fewer"]


def test_an_on_demand_function_that_feast_could_not_run_is_refused_when_applied(tmp_path: Path) -> None:
    uses_module = "def minus(a, b):\n    return a - b\n" + DECLARATIONS.replace("else a - b", "else minus(a, b)")
    environment = new_repository(tmp_path, declarations=uses_module)
    write_data(environment)
    with pytest.raises(FeatureStoreError, match=r"'gaps'.*minus") as caught:
        FeastStore(environment).apply()
    assert "inside the function" in caught.value.hint


def digest_of(folder: Path, name: str, declarations: str = DECLARATIONS) -> str:
    (folder / name).mkdir()
    environment = new_repository(folder / name, declarations=declarations)
    write_data(environment, seed=len(name))
    store = FeastStore(environment)
    store.apply()
    return store.digest("flights")


def test_the_digest_depends_on_the_definition_and_not_on_where_or_when(tmp_path: Path) -> None:
    first = digest_of(tmp_path, "first")
    assert digest_of(tmp_path, "elsewhere") == first
    commented = DECLARATIONS.replace("    pairs = zip", "    # the same\n    pairs  =  zip")
    assert digest_of(tmp_path, "commented", commented) == first


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("a - b for", "b - a for"),
        ('Field(name="seats", dtype=Int64)', 'Field(name="seats", dtype=Float64)'),
        ("timedelta(0)", "timedelta(days=9)"),
        ('planes[["engine", "seats"]], gaps', 'planes[["seats", "engine"]], gaps'),
        ('schema=[Field(name="scheduled", dtype=Float64)]', 'schema=[Field(name="scheduled", dtype=Int64)]'),
    ],
)
def test_the_digest_changes_with_the_definition(tmp_path: Path, old: str, new: str) -> None:
    assert old in DECLARATIONS
    assert digest_of(tmp_path, "before") != digest_of(tmp_path, "after", DECLARATIONS.replace(old, new))


def test_online_is_offline_at_every_instant_of_a_week(store: FeastStore) -> None:
    for day in range(1, 9):
        until = (START + timedelta(days=day, hours=day)).to_pydatetime()
        store.materialize("flights", until)
        assert_online_is_offline(store, until)


def test_redis_is_materialized_again_and_again_as_sqlite_is(tmp_path: Path) -> None:
    environment = new_repository(tmp_path)
    write_data(environment)
    with redis_server(tmp_path / "redis") as port:
        file = environment.feature_store_yaml
        redis = f"type: redis\n  connection_string: 127.0.0.1:{port}\n"
        text, changed = re.subn(r"type: sqlite\n.*\n", redis, file.read_text(encoding="utf-8"))
        assert changed == 1
        file.write_text(text, encoding="utf-8")
        store = FeastStore(environment)
        store.apply()
        for day in (3, 5, 7):
            until = (START + timedelta(days=day)).to_pydatetime()
            store.materialize("flights", until)
            assert_online_is_offline(store, until)


def test_only_rows_that_changed_are_written(store: FeastStore) -> None:
    until = (START + WEEK).to_pydatetime()
    first = store.materialize("flights", until)
    assert first["planes"] > 50
    assert set(store.materialize("flights", until).values()) == {0}
    later = store.materialize("flights", until + timedelta(minutes=1))
    assert sum(later.values()) < sum(first.values()) / 2


MATERIALIZED = """
import sys
from pathlib import Path
from evergrow.contracts import instant
from evergrow.environment import Environment
from evergrow.integrations.feast import FeastStore

store = FeastStore(Environment(home=Path(sys.argv[1]), feature_repo=Path(sys.argv[2]), tracking_uri=""))
store.apply()
print(sum(store.materialize("flights", instant(sys.argv[3]), allow_earlier=True).values()))
"""


def test_another_process_remembers_what_was_written(store: FeastStore) -> None:
    until = (START + WEEK).to_pydatetime()
    places = [str(store.environment.home), str(store.environment.feature_repo)]
    written = []
    for seed in range(4):
        # Sets have another order in every process; what is remembered must not depend on it.
        done = subprocess.run(
            [sys.executable, "-c", MATERIALIZED, *places, until.isoformat()],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        written.append(int(done.stdout.split()[-1]))
    assert written[0] > 50
    assert written[1:] == [0, 0, 0]


def test_going_back_is_refused_unless_asked_for(store: FeastStore) -> None:
    until = (START + WEEK).to_pydatetime()
    earlier = until - timedelta(days=4)
    store.materialize("flights", until)
    with pytest.raises(FeatureStoreError, match="must not be before") as caught:
        store.materialize("flights", earlier)
    assert "allow_earlier" in caught.value.hint
    assert_online_is_offline(store, until)
    store.materialize("flights", earlier, allow_earlier=True)
    assert_online_is_offline(store, earlier)
    store.materialize("flights", until)
    assert_online_is_offline(store, until)


def test_feature_tables_that_were_rewritten_are_written_online(store: FeastStore) -> None:
    until = (START + WEEK).to_pydatetime()
    store.materialize("flights", until)
    write_data(store.environment, seed=9)
    store.materialize("flights", until)
    assert_online_is_offline(store, until)


def test_an_emptied_online_store_is_filled_again(store: FeastStore) -> None:
    until = (START + WEEK).to_pydatetime()
    store.materialize("flights", until)
    (store.environment.home / "features/online.db").unlink()
    again = FeastStore(store.environment)
    again.apply()
    views = again.feast.list_feature_views()
    again.feast._get_provider().update_infra("evergrow", [], views, [], [], partial=True)
    again.materialize("flights", until)
    assert_online_is_offline(again, until)


def test_a_newer_pushed_value_is_not_overwritten_by_an_older_one(store: FeastStore) -> None:
    until = (START + WEEK).to_pydatetime()
    store.materialize("flights", until)
    pushed = until + timedelta(hours=2)
    row = {
        "carrier": ["AA"],
        "delay_mean": [77.0],
        "delay_rows": [7],
        "event_timestamp": [pushed],
        "created_timestamp": [pushed],
    }
    store.feast.write_to_online_store("delays", pd.DataFrame(row))
    write_data(store.environment, seed=9)
    store.materialize("flights", until + timedelta(hours=1))
    assert online(store, all_keys(until))["delay_mean"][0] == 77.0


@pytest.mark.slow
def test_a_materialization_killed_at_any_point_is_finished_by_the_next(store: FeastStore) -> None:
    script = Path(__file__).with_name("kill_materialization.py")
    run = subprocess.run(
        [sys.executable, script, store.environment.home.parent],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )
    assert run.returncode == 0, run.stderr[-3000:]
    points, half_way = map(int, re.findall(r"\d+", run.stdout.splitlines()[-1]))
    assert points > 30
    assert half_way > 5


def test_a_naive_instant_is_refused(store: FeastStore) -> None:
    with pytest.raises(FeatureStoreError, match="time zone"):
        store.materialize("flights", datetime(2013, 3, 9))


def test_progress_counts_up_to_all_rows_of_each_view(store: FeastStore) -> None:
    told: list[tuple[str, int, int]] = []
    written = store.materialize("flights", datetime(2013, 3, 12, tzinfo=UTC), lambda *step: told.append(step))
    assert {view: (done, of) for view, done, of in told} == {view: (n, n) for view, n in written.items()}


def test_an_unset_variable_of_the_cluster_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEAST_REDIS", raising=False)
    monkeypatch.setenv("FEAST_REGISTRY_URL", "sqlite://")
    environment = Environment(name="cluster", home=tmp_path, feature_repo=ROOT / "feature_repo", tracking_uri="")
    with pytest.raises(FeatureStoreError, match="FEAST_REDIS"):
        _ = FeastStore(environment).feast


def test_an_unknown_environment_names_those_that_are(tmp_path: Path) -> None:
    environment = Environment(name="moon", home=tmp_path, feature_repo=ROOT / "feature_repo", tracking_uri="")
    with pytest.raises(FeatureStoreError, match=r"feature_store\.moon\.yaml") as caught:
        _ = FeastStore(environment).feast
    assert "cluster" in caught.value.hint
    assert "local" in caught.value.hint


def every_error() -> list[type[Exception]]:
    named = vars(feast.errors).values()
    return [e for e in named if isinstance(e, type) and issubclass(e, Exception) and e.__module__ == "feast.errors"]


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_every_error_of_feast_is_translated(kind: type[Exception]) -> None:
    error = kind.__new__(kind)
    Exception.__init__(error, "what went wrong")
    with pytest.raises(FeatureStoreError, match="trying: ") as caught, translated("trying"):
        raise error
    assert caught.value.__cause__ is error


def test_our_own_errors_and_mistakes_in_code_pass_untranslated() -> None:
    for error in (EvergrowError("ours"), ZeroDivisionError("a bug")):
        with pytest.raises(type(error)) as caught, translated("trying"):
            raise error
        assert caught.value is error
