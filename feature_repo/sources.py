"""Where feature values come from: the tables that ingest derives, and what is pushed between two ingests."""

from feast import Field, FileSource, PushSource, RequestSource
from feast.types import Float64, UnixTimestamp


def table(model: str, name: str) -> FileSource:
    """A derived table of a model's lake."""
    return FileSource(
        name=f"{model}.{name}".replace("-", "_"),
        path=f"data/{model}/tables/{name}.parquet",  # below EVERGROW_HOME
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
    )


carrier_delays = table("arrival-delay", "carrier_delays")
origin_delays = table("arrival-delay", "origin_delays")
route_delays = table("arrival-delay", "route_delays")
plane_delays = table("arrival-delay", "plane_delays")
weather = table("arrival-delay", "weather")
planes = table("arrival-delay", "planes")
airlines = table("arrival-delay", "airlines")

landings = PushSource(
    name="landings", batch_source=plane_delays, description="A plane's delays as soon as it has landed"
)

flight = RequestSource(
    name="flight",
    schema=[
        Field(name="scheduled_departure", dtype=UnixTimestamp, description='With offset: "2013-07-01T17:30-04:00"'),
        Field(name="scheduled_minutes", dtype=Float64, description="From scheduled departure to scheduled arrival"),
        Field(name="distance", dtype=Float64, description="Miles"),
    ],
)

region_demand = table("electricity-demand", "region_demand")
slot_demand = table("electricity-demand", "slot_demand")

demand_request = RequestSource(
    name="demand_request",
    schema=[Field(name="half_hour", dtype=UnixTimestamp, description="Begin of the half hour asked for")],
)
