"""The names of a model's document stand for tools, and for a tool that is not there the error says what to do."""

import sys
from typing import get_args

import pytest

from evergrow.contracts import Comparison
from evergrow.errors import SpecError
from evergrow.integrations import alibi_detect, drift_tools, evidently, whylogs
from evergrow.integrations.drift_tools import TOOLS, drift_tool, second_opinions
from evergrow.monitoring import second_opinion
from evergrow.monitoring.second_opinion import limit
from evergrow.spec.model import Monitoring
from tests.unit.integrations.test_drift_tools import needs_alibi_detect, needs_evidently, needs_whylogs
from tests.unit.monitoring.builders import outcomes, scene
from tests.unit.monitoring.test_days import baseline

every_tool = pytest.mark.parametrize(
    "name",
    [
        pytest.param("evidently", marks=needs_evidently),
        pytest.param("whylogs", marks=needs_whylogs),
        pytest.param("alibi-detect", marks=needs_alibi_detect),
    ],
)


def test_the_names_are_those_that_a_document_may_have():
    (names, _) = get_args(Monitoring.model_fields["drift_tools"].annotation)

    assert get_args(names) == tuple(TOOLS)


def test_a_name_that_no_tool_has_is_refused_with_those_that_one_has():
    with pytest.raises(
        SpecError, match=r"`monitoring.driftTools` must be of evidently, whylogs, alibi-detect, found 'deepchecks'"
    ):
        drift_tool("deepchecks")


@pytest.mark.parametrize("name", TOOLS)
def test_a_tool_that_is_not_installed_is_told_with_the_field_and_the_fix_for_machine_and_cluster(name, monkeypatch):
    monkeypatch.setattr(drift_tools, "find_spec", lambda package: None)
    monkeypatch.setenv(alibi_detect.PYTHON, sys.executable + "-that-is-not-there")
    with pytest.raises(SpecError, match=f"`monitoring.driftTools` must name .* found '{name}'") as raised:
        drift_tool(name)
    machine, cluster = raised.value.hint.splitlines()

    assert machine.startswith("on one machine: ")
    assert "pip install" in machine
    assert cluster == f"on a cluster: images.steps must be {TOOLS[name].image}"


def test_whylogs_without_ipython_is_not_installed(monkeypatch):
    monkeypatch.setattr(drift_tools, "find_spec", lambda package: None if package == "IPython" else package)

    with pytest.raises(SpecError, match="no whylogs here"):
        drift_tool("whylogs")


@pytest.mark.parametrize("python", ["", sys.executable])
def test_alibi_detect_is_looked_for_where_its_variable_points(python, monkeypatch):
    monkeypatch.setenv(alibi_detect.PYTHON, python)

    with pytest.raises(SpecError, match="no Alibi Detect here"):
        drift_tool("alibi-detect")


@every_tool
def test_a_tool_that_is_installed_is_made_by_its_name(name):
    assert hasattr(drift_tool(name), "compare")


def test_every_test_that_a_tool_may_answer_with_has_a_limit():
    tests = {
        *evidently.CHOSEN.values(),
        *get_args(evidently.Test),
        *whylogs.KINDS,
        *alibi_detect.AlibiDetectDrift("x").tests,
    }

    for test in tests - {"chisquare"} | {"chi2-fit"}:
        assert limit(Comparison(column="x", test=test, effect=0.1, rows=900, reference_rows=900)) > 0


@every_tool
def test_each_tool_sees_a_feature_that_moved_and_none_that_did_not(name):
    now = outcomes(days=7, per_day=300, seed=5)
    seen = [
        second_opinion.observe(scene(), rows, baseline(outcomes(days=20)), second_opinions([name]))
        for rows in (now, now.assign(wind=now["wind"] + 10))
    ]

    quiet, moved = ({one.subject: one.verdict.outcome for one in found} for found in seen)
    assert quiet == {"wind": "pass", "carrier": "pass"}
    assert moved == {"wind": "fail", "carrier": "pass"}
    assert all(one.test.endswith(f" by {TOOLS[name].title}") for found in seen for one in found)


@needs_whylogs
def test_a_column_that_holds_no_numbers_is_an_error_and_the_others_are_told():
    rows = outcomes(days=7, per_day=300).astype({"wind": object}).assign(wind="calm")
    seen = second_opinion.observe(scene(), rows, baseline(outcomes(days=20)), second_opinions(["whylogs"]))

    assert {one.subject: one.verdict.outcome for one in seen} == {"carrier": "pass", "wind": "error"}
    assert "'wind' must hold numbers" in seen[-1].verdict.reason
