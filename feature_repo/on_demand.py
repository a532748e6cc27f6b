"""Features computed from the request itself."""

from feast import Field
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64

from feature_repo import sources
from models.arrival_delay import transforms
from models.electricity_demand.transforms import calendar as demand_calendar


def floats(*names: str) -> list[Field]:
    """Outputs that are all numbers."""
    return [Field(name=name, dtype=Float64) for name in names]


schedule = on_demand_feature_view(
    sources=[sources.flight],
    schema=floats("departure_hour", "departure_weekday", "season_sin", "season_cos"),
    mode="python",
)(transforms.schedule)

speed = on_demand_feature_view(
    sources=[sources.flight],
    schema=floats("flight_distance", "flight_minutes", "scheduled_speed"),
    mode="python",
)(transforms.speed)

calendar = on_demand_feature_view(
    sources=[sources.demand_request],
    schema=floats("hour", "weekday", "year_sin", "year_cos"),
    mode="python",
)(demand_calendar)
