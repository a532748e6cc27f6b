"""One view, one service."""

from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Float64

station = Entity(name="station", join_keys=["station"], value_type=ValueType.STRING)

station_demand = FeatureView(
    name="station_demand",
    entities=[station],
    ttl=timedelta(days=2),
    schema=[Field(name="last_count", dtype=Float64), Field(name="mean_24h", dtype=Float64)],
    source=FileSource(
        name="station_demand",
        path="data/toy-demand/tables/station_demand.parquet",
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
    ),
)

toy_demand = FeatureService(name="toy_demand", features=[station_demand])
