"""The declarations of this project on real flights: what is served is what was trained on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from feast.data_source import PushMode

from evergrow.data.ingest import ingest
from evergrow.data.lake import Lake
from evergrow.environment import Environment
from evergrow.importing import load_object
from evergrow.integrations.feast import FeastStore
from evergrow.spec import load

ROOT = Path(__file__).parents[2]
UNTIL = datetime(2013, 1, 22, tzinfo=UTC)
SERVICE = "arrival_delay"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeastStore:
    """Three weeks of flights, ingested and applied."""
    home = tmp_path_factory.mktemp("flights")
    environment = Environment(home=home, feature_repo=ROOT / "feature_repo", tracking_uri="")
    document = load(ROOT / "models/arrival_delay/model.yaml")
    source = load_object(document.spec.source.entrypoint)(**document.spec.source.options)
    ingest(source, Lake(environment.data(document.name)), UNTIL)
    store = FeastStore(environment)
    store.apply()
    return store


def week(store: FeastStore) -> pd.DataFrame:
    """All rows of the last week whose keys are known: Feast's online reader takes no missing key."""
    examples = pd.read_parquet(store.environment.data("arrival-delay") / "tables/examples.parquet")
    rows = examples[examples["event_timestamp"] >= UNTIL - timedelta(days=7)]
    return rows.dropna(subset=store.entity_columns(SERVICE)).reset_index(drop=True)


def online(store: FeastStore, rows: pd.DataFrame) -> pd.DataFrame:
    """The service's features as Feast's own online reader answers, in batches that SQLite takes."""
    service = store.feast.get_feature_service(SERVICE)
    asked = rows[store.entity_columns(SERVICE)].to_dict("records")
    batches = [asked[i : i + 500] for i in range(0, len(asked), 500)]
    frames = [store.feast.get_online_features(service, batch).to_df() for batch in batches]
    return pd.concat(frames, ignore_index=True)[store.feature_names(SERVICE)]


@pytest.mark.parametrize("hours", [100, 130, 168])
def test_every_feature_of_every_flight_of_a_week_is_online_what_it_is_offline(store: FeastStore, hours: int) -> None:
    at = UNTIL - timedelta(hours=168 - hours)
    rows = week(store)
    assert len(rows) > 3000
    store.materialize(SERVICE, at, allow_earlier=True)
    offline = store.history(SERVICE, rows.assign(event_timestamp=at))[store.feature_names(SERVICE)]
    # Gusts are not always reported; everything else has values to compare.
    assert set(offline.columns[offline.isna().all()]) <= {"wind_gust"}
    found = online(store, rows).astype(object)
    expected = offline.astype(object)
    pd.testing.assert_frame_equal(
        found.where(found.notna(), None), expected.where(expected.notna(), None), check_dtype=False
    )


def test_a_landing_that_is_pushed_is_known_online_and_offline_at_once(store: FeastStore) -> None:
    landed = pd.Timestamp(UNTIL) + timedelta(minutes=5)
    stamps = {"event_timestamp": [landed], "created_timestamp": [landed]}
    delays = {"plane_last_delay": 77.0, "plane_late_1d": 1.0, "plane_late_30d": 0.5, "plane_delay_7d": 12.0}
    pushed = pd.DataFrame({"tailnum": ["N14228"], **stamps, **{name: [value] for name, value in delays.items()}})
    store.feast.push("landings", pushed, to=PushMode.ONLINE_AND_OFFLINE)
    references = [f"plane_delays:{name}" for name in delays]
    answered = store.feast.get_online_features(references, [{"tailnum": "N14228"}]).to_dict()
    assert {name: answered[name] for name in delays} == {name: [value] for name, value in delays.items()}
    for minutes, knows in ((4, False), (6, True)):
        asked = pd.DataFrame({"tailnum": ["N14228"], "event_timestamp": [UNTIL + timedelta(minutes=minutes)]})
        joined = store.feast.get_historical_features(asked, references).to_df()
        assert (joined.loc[0, list(delays)].to_dict() == delays) is knows
