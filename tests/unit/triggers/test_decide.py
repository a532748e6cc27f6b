"""Each trigger in both directions; what they come to; and that nothing later than now counts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from evergrow.contracts import Observation, Verdict
from evergrow.spec.retraining import Asked, Retraining, Trigger
from evergrow.triggers.decide import JUDGES, decide
from evergrow.triggers.history import Champion, History, Look, Request, Trained

NOW = datetime(2024, 3, 20, 12, tzinfo=UTC)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
CHAMPION = Champion(version=3, cut=NOW - 20 * DAY, since=NOW - 19 * DAY)
READ = TypeAdapter(Trigger)
KINDS = {one.model_fields["kind"].default for one in get_args(get_args(Trigger)[0])}


def saw(kind, outcome, subject="wind", version: int | None = 3, alarm=True) -> Observation:
    return Observation(
        model="delays", version=version, kind=kind, subject=subject, since=NOW - DAY, until=NOW, rows=100,
        reference="holdout of version 3", test="psi", effect=0.3, threshold=0.2, alarm=alarm,
        verdict=Verdict(outcome=outcome, reason=f"{kind} of {subject}: 0.3 against 0.2"),
    )  # fmt: skip


def history(*seen: Observation, looked=NOW - HOUR, labels=(), **more) -> History:
    known = np.array([int(at.timestamp() * 1e6) for at in sorted(labels)], dtype="datetime64[us]")
    looks = [Look(looked, seen)] if seen else []
    return History(**{"champions": [CHAMPION], "known": known, "looks": looks, **more})


def judged(trigger: dict, known: History) -> tuple[str, str]:
    made = READ.validate_python(trigger)
    verdict = JUDGES[made.kind](made, known, NOW)
    return verdict.outcome, verdict.reason


def test_every_trigger_of_the_document_has_a_judge():
    assert set(JUDGES) == KINDS


def test_labels_that_came_since_the_champions_data_was_cut_are_counted():
    labels = [CHAMPION.cut, *(CHAMPION.cut + n * HOUR for n in range(1, 51)), NOW + HOUR]
    assert judged({"kind": "data-volume", "rows": 50}, history(labels=labels)) == (
        "pass",
        "50 newly labelled rows against 50",
    )
    assert judged({"kind": "data-volume", "rows": 51}, history(labels=labels))[0] == "fail"
    assert judged({"kind": "data-volume", "rows": 1}, History(champions=[CHAMPION]))[0] == "error"


def test_a_champion_is_old_from_the_instant_on_at_which_its_data_is():
    assert judged({"kind": "model-age", "olderThan": "20d"}, history()) == (
        "pass",
        "data of version 3 is 20.0 days old against 20d",
    )
    assert judged({"kind": "model-age", "olderThan": "20d1s"}, history())[0] == "fail"


def test_harm_to_the_version_that_serves_fires_and_harm_of_others_does_not():
    harmed = saw("performance", "fail")
    assert judged({"kind": "performance"}, history(harmed)) == ("pass", "performance of wind: 0.3 against 0.2")
    assert judged({"kind": "performance"}, history(saw("performance", "pass")))[0] == "fail"
    assert judged({"kind": "performance"}, history(saw("performance", "fail", version=2)))[0] == "error"
    assert judged({"kind": "performance"}, history(saw("performance", "inconclusive")))[0] == "inconclusive"
    assert judged({"kind": "performance"}, history(harmed, saw("performance", "error")))[0] == "pass"


def test_an_estimate_fires_only_where_it_is_asked_for():
    seen = (saw("estimated-performance", "fail"), saw("performance", "pass"))
    assert judged({"kind": "performance"}, history(*seen))[0] == "fail"
    assert judged({"kind": "performance", "by": ["realised", "estimated"]}, history(*seen))[0] == "pass"


def test_columns_that_changed_are_counted_once_and_only_those_that_are_wanted():
    seen = [saw("feature-drift", "fail", name, alarm=False) for name in ("wind", "wind", "rain", "heat")]
    seen += [saw("nulls", "fail", "snow"), saw("feature-drift", "pass", "sun", alarm=False)]
    assert judged({"kind": "data-change", "atLeast": 3}, history(*seen)) == (
        "pass",
        "3 of 4 columns have changed against 3: heat, rain, wind",
    )
    assert judged({"kind": "data-change", "atLeast": 4}, history(*seen))[0] == "fail"
    assert judged({"kind": "data-change", "columns": ["sun"]}, history(*seen))[0] == "fail"
    assert judged({"kind": "data-change", "of": ["nulls"]}, history(*seen))[0] == "pass"
    assert judged({"kind": "data-change", "of": ["schema"]}, history(*seen))[0] == "error"


@pytest.mark.parametrize("kind", ["performance", "data-change"])
def test_a_look_that_is_missing_old_or_of_another_version_says_nothing(kind):
    seen = [saw("performance", "fail"), saw("feature-drift", "fail")]
    assert judged({"kind": kind}, history()) == ("error", "monitoring has never looked")
    assert judged({"kind": kind}, history(*seen, looked=NOW - 2 * DAY))[0] == "pass"
    assert judged({"kind": kind}, history(*seen, looked=NOW - 2 * DAY - HOUR))[0] == "error"
    assert judged({"kind": kind}, history(*seen, looked=CHAMPION.since - HOUR))[0] == "inconclusive"


def test_a_request_counts_until_a_training_is_begun_after_it():
    asked = [Request(NOW - HOUR, "ada", "new features")]
    assert judged({"kind": "asked"}, history(requests=asked)) == (
        "pass",
        "asked for by ada at 2024-03-20 11:00: new features",
    )
    begun = [Trained(NOW - HOUR / 2, NOW, "rejected")]
    assert judged({"kind": "asked"}, history(requests=asked, trained=begun)) == ("fail", "nobody asks for it")


# -- what they come to --


OLD, MANY, CHANGED, DAILY = (
    {"kind": "model-age", "olderThan": "5d"},
    {"kind": "data-volume", "rows": 9},
    {"kind": "data-change"},
    {"kind": "schedule", "cron": "0 3 * * *", "timeZone": "Europe/Zurich"},
)


def policy(*triggers, **more) -> Retraining:
    return Retraining.model_validate({"triggers": triggers, **more})


def test_as_many_as_are_needed_have_to_fire():
    known = history(saw("feature-drift", "pass"), labels=[NOW - HOUR] * 9)
    for needed, wanted in ((1, True), (2, True), (3, False)):
        found = decide("delays", policy(OLD, MANY, CHANGED, needed=needed), known, NOW)
        assert (found.wanted, found.train) == (wanted, wanted)
        assert found.reason.startswith(f"2 of 3 triggers fire, {needed} needed: model-age: data of version 3")
        assert [one.verdict.outcome for one in found.judged] == ["pass", "pass", "fail"]


def test_being_asked_is_enough_whatever_else_is_needed():
    known = history(requests=[Request(NOW - HOUR, "ada")])
    assert decide("delays", policy({"kind": "asked"}, MANY, needed=2), known, NOW).train
    assert not decide("delays", policy(MANY), known, NOW).wanted


def test_a_model_that_nobody_serves_yet_is_trained_if_it_is_to_be_at_all():
    assert decide("delays", policy(MANY), History(), NOW).train
    assert not decide("delays", policy(), History(), NOW).wanted
    rejected = History(trained=[Trained(NOW - 2 * HOUR, NOW - HOUR, "rejected")])
    assert "cooldown" in decide("delays", policy(MANY), rejected, NOW).withheld


def test_what_is_wanted_and_withheld_says_why_and_is_not_begun():
    known = history(trained=[Trained(NOW - 2 * HOUR, NOW - HOUR, "promoted")])
    found = decide("delays", policy(OLD, cooldown="1d"), known, NOW)
    assert (found.wanted, found.train) == (True, False)
    assert found.withheld == "the last training ended at 2024-03-20 11:00, the cooldown is 1d"
    assert found.reason.endswith(f"; withheld: {found.withheld}")


def test_more_triggers_than_there_are_cannot_be_needed():
    with pytest.raises(ValidationError, match="`needed` must be at most the number of triggers, found 2 of 1"):
        policy(OLD, needed=2)


instants = st.integers(-40, 40).map(lambda hours: NOW + hours * HOUR)
seen = st.lists(st.builds(saw, st.sampled_from(["performance", "feature-drift"]), st.sampled_from(["pass", "fail"])))
parts = st.fixed_dictionaries(
    {
        "champions": st.lists(instants, max_size=3).map(
            lambda ats: [Champion(i, at - 10 * DAY, at) for i, at in enumerate(sorted(ats), 1)]
        ),
        "labels": st.lists(instants, max_size=20),
        "looks": st.lists(st.tuples(instants, seen), max_size=3).map(
            lambda looks: [Look(at, tuple(some)) for at, some in sorted(looks, key=lambda look: look[0])]
        ),
        "trained": st.lists(
            st.tuples(instants, st.integers(1, 30), st.sampled_from(["promoted", "rejected"])), max_size=3
        ).map(lambda all_: [Trained(at, at + n * HOUR, how, 1.0) for at, n, how in sorted(all_)]),
        "requests": st.lists(instants, max_size=3).map(lambda ats: [Request(at, "ada") for at in sorted(ats)]),
    }
)
policies = st.lists(
    st.sampled_from([OLD, MANY, CHANGED, DAILY, {"kind": "performance"}, {"kind": "asked"}]), min_size=1
).map(lambda triggers: policy(*triggers, cooldown="5h", budget={"per": "2d", "trainings": 3}))


@given(parts, parts, policies)
def test_whatever_comes_later_changes_no_decision(past, future, how):
    """The future is put in the place of all that is later than now."""

    when = {"champions": "since", "looks": "at", "trained": "began", "requests": "at"}

    def joined(later: dict) -> History:
        both = {
            name: [one for one in past[name] if getattr(one, at) <= NOW]
            + [one for one in later[name] if getattr(one, at) > NOW]
            for name, at in when.items()
        }
        labels = [at for at in past["labels"] if at <= NOW] + [at for at in later["labels"] if at > NOW]
        return history(labels=labels, **both)

    nothing = {name: [] for name in past}
    assert decide("delays", how, joined(future), NOW) == decide("delays", how, joined(nothing), NOW)


@given(parts, policies)
def test_how_a_training_that_is_under_way_will_end_changes_no_decision(past, how):
    other = {"promoted": "rejected", "rejected": "promoted"}
    turned = [
        t if t.ended is not None and t.ended <= NOW else Trained(t.began, t.ended, other[str(t.outcome)], 99.0)
        for t in past["trained"]
    ]
    labels = past.pop("labels")
    known = history(labels=labels, **past)
    assert decide("delays", how, known, NOW) == decide(
        "delays", how, history(labels=labels, **{**past, "trained": turned}), NOW
    )


def test_asked_is_a_trigger_without_settings():
    assert Asked().dump() == {"kind": "asked"}
