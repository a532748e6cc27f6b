"""What is computed from the values of a request. The same functions run in training and in the server.

Feast keeps a function's source, not its module: what a function uses, it imports itself.
"""

from typing import Any


def schedule(inputs: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Hour, weekday and season of the scheduled departure, as clocks in New York show it.

    >>> from datetime import datetime, timezone
    >>> schedule({"scheduled_departure": [datetime(2013, 7, 1, 21, 30, tzinfo=timezone.utc)]})["departure_hour"]
    [17.5]
    """
    import math
    from zoneinfo import ZoneInfo

    new_york = ZoneInfo("America/New_York")
    times = [instant.astimezone(new_york) for instant in inputs["scheduled_departure"]]
    angles = [2 * math.pi * t.timetuple().tm_yday / 365.25 for t in times]
    return {
        "departure_hour": [t.hour + t.minute / 60 for t in times],
        "departure_weekday": [float(t.weekday()) for t in times],
        "season_sin": [math.sin(a) for a in angles],
        "season_cos": [math.cos(a) for a in angles],
    }


def speed(inputs: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Miles per scheduled hour: a schedule with slack is slow.

    >>> speed({"distance": [400.0], "scheduled_minutes": [120.0]})["scheduled_speed"]
    [200.0]
    """
    pairs = zip(inputs["distance"], inputs["scheduled_minutes"], strict=True)
    return {
        "flight_distance": list(inputs["distance"]),
        "flight_minutes": list(inputs["scheduled_minutes"]),
        "scheduled_speed": [60 * miles / minutes if minutes else None for miles, minutes in pairs],
    }
