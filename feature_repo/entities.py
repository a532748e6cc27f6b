"""What features are about."""

from feast import Entity, ValueType

carrier = Entity(name="carrier", join_keys=["carrier"], value_type=ValueType.STRING, description="Airline, two letters")
origin = Entity(name="origin", join_keys=["origin"], value_type=ValueType.STRING, description="Airport of departure")
route = Entity(name="route", join_keys=["route"], value_type=ValueType.STRING, description='"EWR-SFO"')
plane = Entity(name="plane", join_keys=["tailnum"], value_type=ValueType.STRING, description="Tail number")

region = Entity(
    name="region", join_keys=["region"], value_type=ValueType.STRING, description="Region of a power market"
)
slot = Entity(name="slot", join_keys=["slot"], value_type=ValueType.STRING, description='Half hour of the day: "17:30"')
