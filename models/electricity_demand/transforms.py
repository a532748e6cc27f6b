"""What is computed from a request: where its half hour lies in day, week and year."""

from typing import Any


def calendar(inputs: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Hour, weekday and season of a half hour in market time (UTC+10).

    >>> from datetime import datetime, timezone
    >>> calendar({"half_hour": [datetime(2014, 3, 3, 7, 30, tzinfo=timezone.utc)]})["hour"]
    [17.5]
    """
    import math
    from datetime import timedelta, timezone

    market = timezone(timedelta(hours=10))
    times = [instant.astimezone(market) for instant in inputs["half_hour"]]
    angles = [2 * math.pi * t.timetuple().tm_yday / 365.25 for t in times]
    return {
        "hour": [t.hour + t.minute / 60 for t in times],
        "weekday": [float(t.weekday()) for t in times],
        "year_sin": [math.sin(a) for a in angles],
        "year_cos": [math.cos(a) for a in angles],
    }
