"""What every FeatureStore does, whatever is behind it: Feast's and the in-memory one give the same answers."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from evergrow.environment import Environment
from evergrow.errors import FeatureStoreError
from evergrow.integrations.feast import FeastStore
from evergrow.integrations.memory import MemoryFeatureStore, MemoryView
from evergrow.ports import FeatureStore

ROOT = Path(__file__).parents[3]
START = pd.Timestamp("2013-11-03", tz="UTC")
DECLARATIONS = """
from datetime import timedelta
from feast import Entity, FeatureService, FeatureView, Field, FileSource, RequestSource, ValueType
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64

origin = Entity(name="origin", join_keys=["origin"], value_type=ValueType.STRING)
weather = FeatureView(
    name="weather", entities=[origin], ttl=timedelta(hours=3),
    schema=[Field(name="wind", dtype=Float64), Field(name="gusts", dtype=Int64)],
    source=FileSource(path="weather.parquet", timestamp_field="event_timestamp",
                      created_timestamp_column="created_timestamp"),
)
asked = RequestSource(name="asked", schema=[Field(name="limit", dtype=Float64)])

@on_demand_feature_view(sources=[asked, weather], schema=[Field(name="over", dtype=Float64)], mode="python")
def over(inputs):
    pairs = zip(inputs["wind"], inputs["limit"])
    return {"over": [None if wind is None else wind - limit for wind, limit in pairs]}

service = FeatureService(name="windy", features=[weather, over])
"""


def over(inputs: dict[str, list[float | None]]) -> dict[str, list[float | None]]:
    pairs = zip(inputs["wind"], inputs["limit"], strict=True)
    return {"over": [None if wind is None else wind - limit for wind, limit in pairs]}


def weather() -> pd.DataFrame:
    random = np.random.default_rng(3)
    event = START + pd.to_timedelta(random.integers(0, 48 * 4, 200) * 15, unit="min")
    return pd.DataFrame(
        {
            "origin": random.choice(["JFK", "EWR"], 200),
            "wind": np.where(random.random(200) < 0.1, np.nan, random.normal(10, 3, 200)),
            "gusts": random.integers(0, 9, 200),
            "event_timestamp": event,
            "created_timestamp": event + pd.to_timedelta(random.integers(0, 4, 200) * 30, unit="min"),
        }
    )


def in_memory(folder: Path, ttl: timedelta = timedelta(hours=3)) -> FeatureStore:
    view = MemoryView(weather(), ("origin",), ("wind", "gusts"), ttl)
    return MemoryFeatureStore({"windy": [view, over]})


def feast(folder: Path, ttl: timedelta = timedelta(hours=3)) -> FeatureStore:
    repository = folder / f"laws_{folder.name}_{int(ttl.total_seconds())}".replace("-", "_")
    repository.mkdir()
    (repository / "declared.py").write_text(DECLARATIONS.replace("hours=3", f"seconds={ttl.total_seconds()}"))
    (repository / "feature_store.local.yaml").write_text((ROOT / "feature_repo/feature_store.local.yaml").read_text())
    environment = Environment(home=folder / repository.name / "home", feature_repo=repository, tracking_uri="")
    environment.home.mkdir()
    weather().to_parquet(environment.home / "weather.parquet", index=False)
    store = FeastStore(environment)
    store.apply()
    return store


Make = Callable[..., FeatureStore]


@pytest.fixture(params=[in_memory, feast], ids=["memory", "feast"])
def make(request: pytest.FixtureRequest) -> Make:
    return request.param


def asked(rows: int = 200) -> pd.DataFrame:
    random = np.random.default_rng(4)
    return pd.DataFrame(
        {
            "origin": random.choice(["JFK", "EWR", "LGA", None], rows),
            "event_timestamp": START + pd.to_timedelta(random.integers(0, 60 * 60, rows), unit="min"),
            "limit": random.normal(12, 1, rows),
        },
        index=random.permutation(rows),
    )


def test_rows_order_index_and_columns_are_kept(make: Make, tmp_path: Path) -> None:
    frame = asked()
    joined = make(tmp_path).history("windy", frame)
    pd.testing.assert_frame_equal(joined[frame.columns], frame)
    assert list(joined.columns) == [*frame.columns, "wind", "gusts", "over"]


def test_no_rows_give_no_rows_with_the_same_columns(make: Make, tmp_path: Path) -> None:
    joined = make(tmp_path).history("windy", asked().head(0))
    assert list(joined.columns) == ["origin", "event_timestamp", "limit", "wind", "gusts", "over"]
    assert joined.empty


def test_both_give_the_same_answers(tmp_path: Path) -> None:
    frame = asked()
    plain, real = in_memory(tmp_path).history("windy", frame), feast(tmp_path).history("windy", frame)
    assert plain["gusts"].notna().any()
    assert plain["gusts"].isna().any()
    pd.testing.assert_frame_equal(real, plain, check_dtype=False)


def test_an_unknown_service_is_an_error(make: Make, tmp_path: Path) -> None:
    store = make(tmp_path)
    for ask in (lambda: store.history("calm", asked()), lambda: store.digest("calm")):
        with pytest.raises(FeatureStoreError, match="calm"):
            ask()


def test_the_digest_is_stable_and_depends_on_the_definition(make: Make, tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    first = make(tmp_path).digest("windy")
    assert make(tmp_path / "again").digest("windy") == first
    assert make(tmp_path, ttl=timedelta(hours=4)).digest("windy") != first
    assert len(first) == 64
