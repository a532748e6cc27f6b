"""The story of a model: every event once, in its order, with its reason; and who served when, without gaps."""

import random

from hypothesis import given
from hypothesis import strategies as st

from evergrow.monitoring.timeline import periods, standing, timeline
from tests.unit.watch.builders import DAY, START, at, look, observation, promotion, rollout, version


def told(events):
    return [(e.kind, e.title) for e in events]


def judged(*by_day):
    """Days from START on; of each, what failed."""
    subjects = sorted({name for names in by_day for name in names} | {"wind"})
    return {
        (START + i * DAY).date(): [
            observation(name, outcome="fail" if name in names else "pass", day=i) for name in subjects
        ]
        for i, names in enumerate(by_day)
    }


def test_a_model_of_which_nothing_is_known_has_no_events():
    assert timeline([], [], [], {}) == ()
    assert periods([]) == ()
    assert standing([]) is None


def test_events_are_newest_first_and_each_has_its_reason_and_its_page():
    events = timeline([version(1, 0, against="prior")], [promotion(1, 0)], [look(3)], {})

    assert told(events) == [
        ("decided", "Nothing to do"),
        ("promoted", "Version 1 promoted by ada: the first champion"),
        ("registered", "Version 1 registered"),
    ]
    assert [e.reason for e in events] == [
        "none of 9 alarms; 0 columns or slices drifted",
        "log_loss 0.41 vs 0.45",
        "verdict of the gate: pass, against the prior",
    ]
    assert [e.link for e in events] == [
        "reports/delays/watch=2024-03-04T000000Z/report.html",
        "reports/delays/version=1/report.html",
        "reports/delays/version=1/report.html",
    ]


def test_a_rollouts_beginning_is_told_and_its_end_unless_the_promotion_tells_it():
    going = rollout(4, 3, requested_by="training", reason="")
    back = rollout(3, 1, "Aborted", 2, reason="errors: 8 of 171 against 1.00%").model_copy(
        update={"spec": rollout(3, reason="").spec.model_copy(update={"reason": "verdict pass"})}
    )
    events = timeline([], [promotion(2, 1, replaced=1)], [], {}, [rollout(2, 0, "Promoted", 1), going, back])

    assert [(e.kind, e.at, e.title, e.reason, e.version) for e in events if e.kind == "rollout"] == [
        ("rollout", at(3), "Rollout of version 4 by canary begun, asked for by training", "", 4),
        ("rollout", at(2), "Rollout of version 3 aborted", "errors: 8 of 171 against 1.00%", 3),
        ("rollout", at(1), "Rollout of version 3 by canary begun", "verdict pass", 3),
        ("rollout", at(0), "Rollout of version 2 by canary begun", "", 2),
    ]
    assert [e.kind for e in events].count("promoted") == 1


def test_a_version_that_was_never_judged_has_no_report():
    (event,) = timeline([version(1, verdict="")], [], [], {})
    assert (event.link, event.reason) == ("", "verdict of the gate: none")


def test_a_version_that_failed_its_gate_is_told_with_its_rival():
    (event,) = timeline([version(4, verdict="fail", against="3")], [], [], {})
    assert event.reason == "verdict of the gate: fail, against version 3"


def test_looks_that_decide_the_same_are_one_event_at_the_first_of_them():
    events = timeline([], [], [look(1), look(2), look(3)], {})
    assert [(e.at, e.link) for e in events] == [(at(1), "reports/delays/watch=2024-03-02T000000Z/report.html")]
    assert events[0].reason.endswith("so in 3 looks, the last of 2024-03-04 00:00")


def test_an_alarm_its_end_and_another_alarm_are_events_of_their_own():
    looks = [look(1), look(2, "nulls: wind"), look(3, "nulls: wind again"), look(4, "performance: worse"), look(5)]
    events = timeline([], [], looks, {})
    assert [(e.at, e.kind) for e in events] == [
        (at(5), "decided"),
        (at(4), "alarm"),
        (at(2), "alarm"),
        (at(1), "decided"),
    ]
    assert events[2].reason == "nulls: wind; so in 2 looks, the last of 2024-03-04 00:00"


def test_what_stands_is_since_the_first_look_that_decided_what_the_newest_did():
    looks = [look(1, "a: b"), look(2), look(3, "a: b"), look(4, "c: d")]
    assert standing(looks) == looks[2]
    assert standing([*looks, look(5)]).decision.as_of == at(5)


def test_drift_is_told_when_it_begins_and_when_none_is_left():
    events = timeline([], [], [], judged([], ["wind"], ["wind"], ["wind", "rain"], ["rain"], *[[]] * 9))
    assert [(e.at, e.title) for e in events] == [
        (at(12), "Nothing has drifted for 7 days"),
        (at(4), "rain began to drift"),
        (at(2), "wind began to drift"),
    ]


def test_what_comes_and_goes_has_begun_once_until_it_was_away_for_long():
    flickering = timeline([], [], [], judged(*[["wind"], []] * 10))
    assert [(e.at, e.title) for e in flickering] == [(at(1), "wind began to drift")]
    again = timeline([], [], [], judged(["wind"], *[["rain"]] * 7, ["wind"]))
    assert [e.at for e in again if "wind" in e.title] == [at(9), at(1)]
    too_soon = timeline([], [], [], judged(["wind"], *[["rain"]] * 6, ["wind"]))
    assert [e.at for e in too_soon if "wind" in e.title] == [at(1)]


def test_what_drifts_on_the_first_of_days_that_were_cut_off_did_not_begin_there():
    days = judged(["wind"], ["wind", "rain"])
    assert [e.title for e in timeline([], [], [], days, cut=True)] == ["rain began to drift"]
    assert len(timeline([], [], [], days)) == 2


def test_a_day_that_was_not_judged_neither_ends_nor_begins_drift():
    days = judged(["wind"], ["wind"], ["wind"])
    del days[(START + DAY).date()]
    assert [e.title for e in timeline([], [], [], days)] == ["wind began to drift"]


def test_of_many_columns_their_number_is_told():
    (event,) = timeline([], [], [], judged([f"x{i}" for i in range(30)]))
    assert event.title == "30 columns began to drift"
    assert event.reason.endswith("and 25 more")


def test_alarms_are_no_drift_and_those_of_a_day_that_no_look_saw_are_told():
    broken = observation("wind", "nulls", "fail", day=3, alarm=True)
    days = {(START + 3 * DAY).date(): [broken]}
    assert [e.kind for e in timeline([], [], [], days)] == ["alarm"]
    seen = timeline([], [], [look(4, "nulls: wind")], days)
    assert [(e.kind, e.title) for e in seen] == [("alarm", "Somebody needs to look")]


def test_periods_follow_each_other_without_gaps_and_the_newest_lasts():
    served = periods([promotion(2, 20, replaced=1), promotion(1, 0), promotion(1, 30, replaced=2)])
    assert [(p.promotion.version, p.since, p.until) for p in served] == [
        (1, at(30, 1), None),
        (2, at(20, 1), at(30, 1)),
        (1, at(0, 1), at(20, 1)),
    ]


@given(st.integers(0, 2**32), st.lists(st.integers(0, 20), max_size=8), st.lists(st.booleans(), max_size=10))
def test_the_same_story_whatever_the_order_it_is_told_in(seed, promoted, alerts):
    versions = [version(i + 1, day) for i, day in enumerate(promoted)]
    promotions = [promotion(i + 1, day) for i, day in enumerate(promoted)]
    looks = [look(i, *(["nulls: x"] if alert else [])) for i, alert in enumerate(alerts)]
    days = judged(*([f"x{i}"] for i in range(len(alerts))))
    first = timeline(versions, promotions, looks, days)

    shuffled = random.Random(seed)
    for part in (versions, promotions, looks):
        shuffled.shuffle(part)
    again = timeline(versions, promotions, looks, dict(shuffled.sample(list(days.items()), len(days))))

    assert again == first
    assert [e.at for e in first] == sorted((e.at for e in first), reverse=True)
    assert sum(e.kind in ("registered", "promoted") for e in first) == 2 * len(promoted)
    changes = sum(a != b for a, b in zip([None, *alerts], alerts, strict=False))
    assert sum(e.kind in ("alarm", "decided") for e in first) == changes
