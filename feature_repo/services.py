"""What each model sees, in one list."""

from feast import FeatureService

from feature_repo import on_demand, views

arrival_delay = FeatureService(
    name="arrival_delay",
    features=[
        views.carrier_delays,
        views.origin_delays,
        views.route_delays,
        views.plane_delays,
        views.weather,
        views.planes,
        views.airlines,
        on_demand.schedule,
        on_demand.speed,
    ],
)

electricity_demand = FeatureService(
    name="electricity_demand", features=[views.region_demand, views.slot_demand, on_demand.calendar]
)
