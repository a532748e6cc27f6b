"""The step that looks at a model in service asks the tools that the document names, and goes on without them."""

import numpy as np

from components.observe.step import Look
from evergrow.environment import Environment
from evergrow.integrations import alibi_detect
from evergrow.spec import parse
from tests.unit.monitoring.builders import DAY, START, outcomes
from tests.unit.monitoring.test_days import baseline
from tests.unit.monitoring.test_outcomes import document


class Explained:
    """A model whose scores come from both of its features alike."""

    def columns(self, rows):
        return rows

    def explain(self, rows):
        return np.random.default_rng(0).normal(size=(len(rows), 2))


class Served(Look):
    """Version 1 answered for a week."""

    days = [(START + i * DAY).date() for i in range(7)]

    def bundle(self, version):
        return Explained()


def seen(tmp_path, **monitoring):
    environment = Environment.read({"EVERGROW_HOME": str(tmp_path)})
    look = Served(document(**monitoring), environment, START + 7 * DAY, tmp_path, {1: baseline(outcomes(days=20))})
    return look._recent(outcomes(days=7))


def test_a_named_tool_that_is_not_there_is_an_error_that_says_what_to_do_and_all_else_is_seen(tmp_path, monkeypatch):
    monkeypatch.delenv(alibi_detect.PYTHON, raising=False)
    *ours, theirs = seen(tmp_path, driftTools=["alibi-detect"])

    assert (theirs.kind, theirs.test, theirs.verdict.outcome) == ("feature-drift", "drift by Alibi Detect", "error")
    assert "on a cluster: images.steps must be evergrow/steps-drift-alibi-python" in theirs.verdict.reason
    assert not theirs.alarm
    assert [one.kind for one in ours] == ["multivariate-drift", "multivariate-drift", "explanation-drift"]
    assert theirs.since == ours[0].since


def test_no_other_tool_is_asked_unless_it_is_named(tmp_path):
    assert not any(" by " in one.test for one in seen(tmp_path))


def test_features_that_the_log_does_not_have_are_not_compared_and_explain_nothing(tmp_path):
    dumped = document().dump()
    dumped["spec"]["serving"]["log"]["hashed"] = ["carrier"]
    environment = Environment.read({"EVERGROW_HOME": str(tmp_path)})
    look = Served(parse(dumped), environment, START + 7 * DAY, tmp_path, {1: baseline(outcomes(days=20))})
    rows = outcomes(days=7)
    found = look._recent(rows.assign(carrier=[f"hash-{i}" for i in range(len(rows))]))

    assert {one.kind: one.verdict.outcome for one in found} == {
        "multivariate-drift": "pass",
        "explanation-drift": "inconclusive",
    }
    assert "without carrier, which the log does not have" in found[-1].verdict.reason
