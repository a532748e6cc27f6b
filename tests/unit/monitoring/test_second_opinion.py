"""What other tools say is told beside our own, by their numbers and limits; what they cannot say is told, too."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2_contingency, chisquare

from evergrow.contracts import Comparison, Feature, Observation, Verdict
from evergrow.errors import DataError, EvergrowError, SpecError
from evergrow.learning.losses import log_loss
from evergrow.monitoring import page, second_opinion
from evergrow.monitoring.baseline import SAMPLED, Baseline
from evergrow.monitoring.drift import ProfileDrift
from evergrow.monitoring.second_opinion import ASSOCIATED, limit
from evergrow.monitoring.watch import Watch, decide
from tests.unit.monitoring.builders import DAY, START, outcomes, scene
from tests.unit.monitoring.test_days import baseline
from tests.unit.monitoring.test_outcomes import document

BASE = baseline(outcomes(days=20))


def week(days=7, per_day=300, seed=5, **changed):
    return outcomes(days, per_day, seed).assign(**changed)


class Says:
    """A tool that finds this, whatever it is asked, and keeps what it was asked."""

    def __init__(self, *found):
        self.found, self.asked = found, []

    def compare(self, reference, current, features):
        self.asked.append((reference, current, [feature.name for feature in features]))
        return list(self.found)


class FailsOn(ProfileDrift):
    """Our own, which fails on some columns."""

    def __init__(self, error, *columns):
        self.error, self.columns, self.asked = error, columns, []

    def compare(self, reference, current, features):
        self.asked.append([feature.name for feature in features])
        if {feature.name for feature in features} & set(self.columns):
            raise self.error
        return super().compare(reference, current, features)


def found(test="ks", effect=0.2, p=1e-9, rows=2000, column="wind", reference_rows=5000):
    return Comparison(column=column, test=test, effect=effect, p_value=p, rows=rows, reference_rows=reference_rows)


def opinions(tool, rows=None, alpha=0.02, base=BASE):
    return second_opinion.observe(scene(alpha), week() if rows is None else rows, base, {"Peer": lambda: tool})


def verdicts(seen):
    return {(one.subject, one.test): one.verdict.outcome for one in seen}


# -- drift, and none ---------------------------------------------------------------------------------------------------


def test_a_column_that_moved_has_drifted_by_each_test_and_no_other_has():
    moved = week()
    moved["wind"] += 10
    seen = opinions(ProfileDrift(), moved)

    assert {column for (column, _), outcome in verdicts(seen).items() if outcome == "fail"} == {"wind"}
    assert verdicts(seen)["wind", "psi by Peer"] == verdicts(seen)["wind", "wasserstein by Peer"] == "fail"
    assert set(verdicts(opinions(ProfileDrift())).values()) == {"pass"}


def test_a_category_whose_share_changed_has_drifted():
    rows = week()
    rows.loc[rows.index % 2 == 0, "carrier"] = "EV"

    assert verdicts(opinions(ProfileDrift(), rows))["carrier", "chi2 by Peer"] == "fail"
    assert verdicts(opinions(ProfileDrift(), rows))["wind", "ks by Peer"] == "pass"


@pytest.mark.parametrize(
    ("one", "outcome"),
    [
        (found(effect=0.2, p=1e-9), "fail"),
        (found(effect=0.1, p=0.02), "fail"),
        (found(effect=0.09, p=1e-9), "pass"),
        (found(effect=0.2, p=0.03), "pass"),
        (found("wasserstein", 0.2, None), "fail"),
        (found("wasserstein", 0.09, None), "pass"),
        (found("hellinger", 0.14, None), "pass"),
        (found("chi2-fit", np.inf, 0.0), "fail"),
    ],
)
def test_drift_is_large_and_where_that_can_be_told_unusual(one, outcome):
    (seen,) = opinions(Says(one))

    assert seen.verdict.outcome == outcome
    assert (seen.kind, seen.subject, seen.test, seen.alarm) == ("feature-drift", "wind", f"{one.test} by Peer", False)
    assert (seen.effect, seen.p_value, seen.rows) == (one.effect, one.p_value, 2000)
    assert Observation.model_validate_json(seen.model_dump_json()) == seen


def test_all_that_a_tool_finds_shares_the_scenes_alpha_and_another_tool_has_it_again():
    usual = [found(p=0.5, column=f"x{i}") for i in range(9)]
    seen = second_opinion.observe(
        scene(0.02), week(), BASE, {"A": lambda: Says(found(p=0.015), *usual), "B": lambda: Says(found(p=0.015))}
    )

    assert verdicts(seen)["wind", "ks by A"] == "pass"
    assert verdicts(seen)["wind", "ks by B"] == "fail"


def test_the_reason_shows_both_numbers_of_effect_and_chance():
    told, silent = opinions(Says(found(effect=0.234, p=0.0001), found("wasserstein", 0.05, None)))

    assert told.verdict.reason == (
        "wind: ks by Peer 0.234 to holdout of version 1, drift at 0.1; p 0.0001, unusual at 0.01"
    )
    assert silent.verdict.reason.endswith("wasserstein by Peer 0.05 to holdout of version 1, drift at 0.1; no p-value")


COUNTS = st.lists(st.tuples(st.integers(1, 900), st.integers(1, 900)), min_size=2, max_size=6)


@given(COUNTS)
def test_pearsons_limit_is_where_the_shares_of_both_differ_by_a_medium_effect(counts):
    before, now = np.array(counts, dtype=float).T
    n, m = now.sum(), before.sum()
    pooled = (now + before) / (n + m)
    tested = chi2_contingency(np.array([before, now]), correction=False).statistic
    fitted = chisquare(now, before / m * n).statistic
    for test, statistic, expected in (("chi2", tested, pooled), ("chi2-fit", fitted, before / m)):
        w = np.sqrt(np.sum((now / n - before / m) ** 2 / expected))
        far = limit(found(test, statistic, rows=int(n), reference_rows=int(m)))
        assert statistic / far == pytest.approx((w / ASSOCIATED) ** 2, rel=1e-6, abs=1e-9)


# -- too little --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "outcome"),
    [
        (found(rows=199), "inconclusive"),
        (found(rows=200), "fail"),
        (found(reference_rows=199), "inconclusive"),
        (found("wasserstein", 0.2, None, rows=999), "inconclusive"),
        (found("wasserstein", 0.2, None, rows=1000), "fail"),
        (found(effect=np.nan), "inconclusive"),
        (found(p=np.nan), "inconclusive"),
    ],
)
def test_few_values_and_what_is_no_number_tell_nothing(one, outcome):
    (seen,) = opinions(Says(one))

    assert seen.verdict.outcome == outcome
    assert (outcome == "fail") or re.search(r"\d+ values to compare, needs \d|finds no number", seen.verdict.reason)


def test_a_few_days_are_not_asked_about():
    tool = Says(found())
    (seen,) = opinions(tool, week(days=4))

    assert (seen.subject, seen.verdict.outcome, tool.asked) == ("all features", "inconclusive", [])
    assert "4 days to compare, needs 5" in seen.verdict.reason
    assert verdicts(opinions(tool, week(days=5))) == {("wind", "ks by Peer"): "fail"}


def test_a_tool_is_given_the_names_of_the_log_and_as_many_rows_as_the_sample_has():
    rows = outcomes(days=10)
    features = [Feature(name="route", kind="categorical"), Feature(name="wind", kind="numeric")]
    renamed = rows.assign(route=rows["carrier"])
    y, scores = rows["label"].to_numpy(), rows["score"].to_numpy()
    tool = Says()
    base = Baseline.of(features, [], renamed, scores, y, log_loss(y, scores))
    opinions(tool, week(per_day=3000, value_route="EV"), base=base)
    ((reference, current, names),) = tool.asked

    assert names == ["value_route", "wind"]
    assert set(names) <= set(reference)
    assert len(current) == SAMPLED
    assert current["event_timestamp"].dt.day.value_counts().max() < SAMPLED / 6


@pytest.mark.parametrize(("per_day", "most"), [(100, 1000), (200, SAMPLED)])
def test_few_rows_are_held_against_few_so_that_tools_take_tests_in_the_place_of_distances(per_day, most):
    tool = Says()
    base = baseline(outcomes(days=20, per_day=400))
    opinions(tool, week(per_day=per_day), base=base)
    ((reference, current, _),) = tool.asked

    assert (len(reference), len(current)) == (min(most, len(base.sample)), 7 * per_day)


def test_a_feature_that_is_not_logged_is_not_asked_about():
    tool = Says()
    opinions(tool, week().drop(columns="wind"))

    assert [names for *_, names in tool.asked] == [["carrier"]]


# -- errors ------------------------------------------------------------------------------------------------------------


def test_a_tool_that_fails_on_one_column_tells_the_others_and_why():
    seen = opinions(FailsOn(DataError("`current`: 'wind' must hold numbers"), "wind"))
    (failed,) = [one for one in seen if one.verdict.outcome == "error"]

    assert (failed.subject, failed.test, failed.alarm) == ("wind", "drift by Peer", False)
    assert failed.verdict.reason == "wind, by Peer: `current`: 'wind' must hold numbers"
    assert verdicts(seen)["carrier", "psi by Peer"] == "pass"


def test_a_tool_that_fails_on_every_column_says_so_once_and_the_next_is_asked():
    error = EvergrowError("Peer cannot be imported", hint="pip install peer")
    seen = second_opinion.observe(
        scene(), week(), BASE, {"Peer": lambda: FailsOn(error, "wind", "carrier"), "B": lambda: Says(found())}
    )

    assert verdicts(seen) == {("all features", "drift by Peer"): "error", ("wind", "ks by B"): "fail"}
    assert seen[0].verdict.reason == "all features, by Peer: Peer cannot be imported; pip install peer"


def test_a_tool_that_takes_too_long_is_not_asked_again():
    tool = FailsOn(EvergrowError("Peer took longer than 600 s", retriable=True), "wind")

    assert verdicts(opinions(tool)) == {("all features", "drift by Peer"): "error"}
    assert len(tool.asked) == 1


def test_a_tool_that_cannot_be_made_is_told_with_what_to_do():
    def absent():
        raise SpecError("`monitoring.driftTools`: no Peer here", hint="on one machine: a\non a cluster: b")

    (seen,) = second_opinion.observe(scene(), week(), BASE, {"Peer": absent})

    assert (seen.verdict.outcome, seen.alarm) == ("error", False)
    assert seen.verdict.reason.endswith("no Peer here; on one machine: a; on a cluster: b")


def test_without_tools_nothing_is_said():
    assert second_opinion.observe(scene(), week(), BASE, {}) == []


# -- where it is shown -------------------------------------------------------------------------------------------------


def look(*observations):
    return Watch.of("delays", START + 40 * DAY, "log_loss", {1: 0.55}, [], None, observations)


def ours(outcome):
    verdict = Verdict(outcome=outcome, reason="wind: stability index 0.310")
    return scene().observe("feature-drift", "wind", "psi", 0.31, 0.2, 900, verdict)


def test_a_report_tells_both_opinions_of_a_column_apart():
    seen, model = look(ours("pass"), *opinions(Says(found(effect=0.4)))), document(driftTools=["whylogs"])
    html = re.sub(r"\s+", " ", page.render(seen, decide(seen), model))

    assert "wind<small>psi</small>" in html
    assert "wind<small>ks by Peer</small>" in html
    assert "by” another tool is of the newest week" in html
    assert "another tool" not in page.render(look(ours("pass")), decide(seen), document())


def test_a_column_that_all_call_drifted_is_counted_once_and_a_tools_error_is_no_drift():
    failed = FailsOn(EvergrowError("no Peer"), "wind", "carrier")
    both = look(ours("fail"), *opinions(Says(found(), found("hellinger", 0.3, None))))
    broken = look(ours("pass"), *opinions(failed))

    assert (both.numbers()["drifted"], broken.numbers()["drifted"]) == (1.0, 0.0)
    assert decide(both).reasons == ("none of 0 alarms; 1 columns or slices drifted",)
    assert decide(broken).action == "none"
