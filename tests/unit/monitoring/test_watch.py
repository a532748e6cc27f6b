"""What is decided about what was seen, and what the page says of it."""

import re

import pytest

from evergrow.contracts import Verdict
from evergrow.monitoring import page
from evergrow.monitoring.watch import DayTraffic, Watch, decide
from tests.unit.monitoring.builders import DAY, START, outcomes, scene
from tests.unit.monitoring.test_outcomes import document, judged


def observation(outcome, alarm, kind="nulls", subject="wind", effect=0.5, threshold=0.1):
    verdict = Verdict(outcome=outcome, reason=f"{subject}: 50.00% missing")
    return scene().observe(kind, subject, "share missing", effect, threshold, 900, verdict, alarm=alarm)


def watch(*observations, rows=None, model=None):
    found = judged(rows, model=model) if rows is not None else None
    traffic = [DayTraffic(day=START.date(), version=1, rows=900, latency_ms=(0.5, 2.0))]
    seen = [*observations, *(found.observations if found else ())]
    return Watch.of("delays", START + 40 * DAY, "log_loss", {1: 0.55}, traffic, found, seen, currency="EUR")


@pytest.mark.parametrize("outcome", ["fail", "error"])
def test_an_alarm_that_fails_or_cannot_be_checked_is_an_alert_with_its_reason(outcome):
    decision = decide(watch(observation(outcome, alarm=True), observation("pass", alarm=True)))

    assert (decision.action, decision.reasons) == ("alert", ("nulls: wind: 50.00% missing",))


@pytest.mark.parametrize(
    "seen", [("pass", True), ("inconclusive", True), ("fail", False)], ids=["passes", "cannot be told", "only explains"]
)
def test_what_is_no_harm_is_no_alert(seen):
    assert decide(watch(observation(*seen))).action == "none"


def test_what_was_seen_is_read_as_it_was_written(tmp_path):
    seen = watch(observation("fail", alarm=True), rows=outcomes(days=20))
    seen.save(tmp_path)

    assert Watch.load(tmp_path) == seen


def test_the_numbers_are_those_of_the_newest_matured_day():
    seen = watch(observation("fail", alarm=True), rows=outcomes(days=20, seed=1))
    newest = [p for p in seen.performance if p.state == "matured"][-1]

    assert seen.numbers()["log_loss"] == newest.metrics[0].value
    assert (seen.numbers()["alarms"], seen.numbers()["predictions"]) == (1.0, 900.0)


def text(html):
    """What is read: no style, no tags, single spaces."""
    html = re.sub(r"<style>.*?</style>", "", html, flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


def shown(seen, model=None):
    return text(page.render(seen, decide(seen), model or document()))


def test_an_alert_comes_first_with_its_reason():
    said = shown(watch(observation("fail", alarm=True), observation("pass", alarm=True, subject="temp")))

    assert said.index("Somebody needs to look") < said.index("wind: 50.00% missing") < said.index("temp")


def test_a_model_that_never_answered_has_a_page_too():
    empty = Watch.of("delays", START, "log_loss", {}, [], None, [])

    assert "Nothing was answered yet" in shown(empty)


def test_every_reader_finds_theirs():
    worth = {"currency": "EUR", "threshold": 0.4, "truePositive": 10, "falseNegative": -30}
    rows = outcomes(days=30)
    rows.loc[rows["carrier"] == "EV", "score"] = 0.6
    model = document(worth=worth)
    said = shown(watch(observation("pass", alarm=True), rows=rows, model=model), model)

    for part in (
        "99 % of answers within 2 ms",
        "without the model",
        "carrier=EV",
        "origin",
        "Labels",
        "a day is judged after",
    ):
        assert part in said


def test_the_same_sight_gives_the_same_page():
    seen = watch(observation("fail", alarm=True), rows=outcomes(days=20))

    assert page.render(seen, decide(seen), document()) == page.render(seen, decide(seen), document())


def test_names_are_shown_not_run():
    seen = watch(observation("fail", alarm=True, subject="<script>alert(1)</script>"))

    assert "<script" not in page.render(seen, decide(seen), document())
