"""What the pages show of what was seen."""

from components.watch import view
from evergrow.integrations.seen import Seen
from tests.unit.watch.builders import MODEL, at, look, observation, watch


def test_what_another_tool_says_of_a_week_is_no_day_of_a_columns_drift():
    theirs = observation(outcome="fail", effect=0.9, day=2).model_copy(update={"test": "ks by Evidently"})
    days = {at(day).date(): (observation(day=day),) for day in range(3)}
    shown = view.model(Seen(MODEL, looks=(look(3),), watch=watch(3, [observation(day=2), theirs]), days=days))

    (row,) = shown["drift"].rows
    assert (row.name, row.note, row.outcome) == ("wind", "feature-drift", "pass")
    assert "fail" not in row.plot
    assert shown["alarms"] == []
