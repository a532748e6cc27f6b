"""Features by entity, and how long a value counts."""

from collections.abc import Mapping
from datetime import timedelta

from feast import Entity, FeatureView, Field, FileSource, PushSource
from feast.types import Float64, Int64, PrimitiveFeastType, String

from feature_repo import entities, sources

DAY, FOR_EVER = timedelta(days=1), timedelta(0)


def view(
    name: str,
    entity: Entity,
    source: FileSource | PushSource,
    ttl: timedelta,
    features: Mapping[str, PrimitiveFeastType],
) -> FeatureView:
    """A feature view of one entity, whose key is a string."""
    schema = [Field(name=entity.join_key, dtype=String), *(Field(name=n, dtype=t) for n, t in features.items())]
    return FeatureView(name=name, entities=[entity], source=source, ttl=ttl, schema=schema)


def floats(*names: str) -> Mapping[str, PrimitiveFeastType]:
    """Features that are all numbers."""
    return dict.fromkeys(names, Float64)


carrier_delays = view(
    "carrier_delays", entities.carrier, sources.carrier_delays, 2 * DAY,
    floats("carrier_late_3h", "carrier_late_1d", "carrier_late_7d", "carrier_delay_1d"),
)  # fmt: skip
origin_delays = view(
    "origin_delays", entities.origin, sources.origin_delays, DAY,
    floats("origin_late_1h", "origin_late_3h", "origin_delay_3h", "origin_late_1d"),
)  # fmt: skip
route_delays = view(
    "route_delays", entities.route, sources.route_delays, 30 * DAY,
    floats("route_late_3h", "route_late_7d", "route_late_30d", "route_delay_30d"),
)  # fmt: skip
plane_delays = view(
    "plane_delays", entities.plane, sources.landings, 30 * DAY,
    floats("plane_last_delay", "plane_late_1d", "plane_late_30d", "plane_delay_7d"),
)  # fmt: skip
weather = view(
    "weather", entities.origin, sources.weather, timedelta(hours=6),
    floats("temp", "humid", "wind_speed", "wind_gust", "precip", "pressure", "visib"),
)  # fmt: skip
planes = view(
    "planes", entities.plane, sources.planes, FOR_EVER, {"plane_year": Float64, "seats": Int64, "engine": String}
)
airlines = view("airlines", entities.carrier, sources.airlines, FOR_EVER, {"airline": String})

region_demand = view(
    "region_demand", entities.region, sources.region_demand, DAY,
    floats("demand_last", "demand_mean_1d", "demand_mean_7d", "temperature_last"),
)  # fmt: skip
slot_demand = view(
    "slot_demand", entities.slot, sources.slot_demand, 3 * DAY,
    floats("slot_demand_last", "slot_demand_week_ago", "slot_demand_mean_7d"),
)  # fmt: skip
