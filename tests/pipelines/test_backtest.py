"""Backtests as users run them: on the toy model's own past, in a simulated world, and wrongly."""

import json
import re
from datetime import timedelta
from pathlib import Path

import pytest

from evergrow.backtest.past import Past
from evergrow.contracts import instant
from evergrow.integrations.pasts import own_past
from evergrow.spec import load
from tests.pipelines.conftest import new_world

TOY = "tests/toy_model/model.yaml"

POLICIES = """
choices:
  when:
    weekly: {retraining: {triggers: [{kind: schedule, cron: "0 0 * * 1"}]}}
    once: {retraining: {triggers: [{kind: asked}]}}
  window:
    all: {}
    20d: {training: {window: {kind: sliding, length: 20d}}}
"""
WORLD = "days: 110\nrows: 60\nfeatures: 3\nconcept: {course: {kind: sudden, at: 70}, angle: 120}\n"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Where nothing was trained yet."""
    return new_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def policies(tmp_path):
    (tmp_path / "policies.yaml").write_text(POLICIES)
    return str(tmp_path / "policies.yaml")


@pytest.fixture
def backtest(world, policies):
    def run(*more, output="json"):
        file = "tests/toy_model/model.yaml"
        return world.evergrow(
            "backtest", "-f", file, "--policies", policies, "--as-of", "2024-04-25", "-o", output, *more
        )

    return run


def test_a_models_own_past_is_replayed_and_the_work_is_kept(backtest):
    first = backtest("--workers", "1")
    assert first.code == 0, first.err
    assert "joining" in first.err
    found = first.value
    assert {one["policy"] for one in found["standings"]} == {"weekly/all", "weekly/20d", "once/all", "once/20d"}
    assert found["reference"] == "weekly/all"
    page = Path(found["page"]).read_text(encoding="utf-8")
    assert found["recommended"]["policy"] in page
    assert "EUR" in page
    results = (Path(found["results"]) / "results.json").read_bytes()
    again = backtest("--workers", "2")
    assert again.value["page"] == found["page"]
    assert (Path(found["results"]) / "results.json").read_bytes() == results
    assert again.value["spent"]["fit"]["cpu_seconds"] == first.value["spent"]["fit"]["cpu_seconds"]
    decisions = Path(found["results"]) / "decisions" / "weekly__20d.jsonl"
    assert all("schedule" in json.loads(line)["reason"] for line in decisions.read_text().splitlines())


def test_a_lake_that_has_gone_further_since_tells_nothing_of_later(tmp_path_factory):
    """Of an instant it gives the past that a lake gives which never went further."""
    document, early, late = load(TOY), instant("2024-04-25"), instant("2024-05-02")
    straight, further = (new_world(tmp_path_factory.mktemp(name)).environment for name in ("straight", "further"))

    def past(environment, as_of):
        folder = own_past(document, environment, as_of, timedelta(0), lambda _: None)
        return Past.open(folder / "past").digest

    assert past(further, late) != past(straight, early)
    assert past(further, early) == past(straight, early)


def test_the_text_names_what_is_recommended_and_what_to_paste(backtest):
    told = backtest(output="text")
    assert told.code == 0, told.err
    assert re.search(r"^recommended: (weekly|once)/", told.out, re.M)
    assert "merge this into the model's document" in told.out
    assert "trainings done for" in told.out


def test_labels_that_come_later_are_another_past_and_a_budget_is_in_what_to_merge(backtest):
    now, late = backtest(), backtest("--what-if", "labelDelay=10d", "--what-if", "retraining.budget.trainings=9")
    assert late.code == 0, late.err
    assert late.value["results"] != now.value["results"]
    assert late.value["days"][0] > now.value["days"][0] - 1
    assert late.value["standings"][0]["loss"] != now.value["standings"][0]["loss"]
    assert late.value["recommended"]["patch"]["retraining"]["budget"] == {"trainings": 9}
    assert "budget" not in now.value["recommended"]["patch"]["retraining"]


def test_a_simulated_world_takes_the_place_of_the_past(backtest, tmp_path):
    (tmp_path / "world.yaml").write_text(WORLD)
    told = backtest("--world", str(tmp_path / "world.yaml"))
    assert told.code == 0, told.err
    by_name = {one["policy"]: one for one in told.value["standings"]}
    assert by_name["weekly/20d"]["loss"] < by_name["once/all"]["loss"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--what-if", "labeldelay=3d"), "must be one of labelDelay, takes, cpuHoursPerMillionRows, or a key of spec"),
        (("--what-if", "retraining.budget.trainings=0"), "spec.retraining.budget.trainings"),
        (("--what-if", "labelDelay=soon"), 'whatIf.labelDelay: must be a duration such as "30d"'),
        (("--what-if", "cpuHoursPerMillionRows=-1"), "whatIf.cpuHoursPerMillionRows"),
        (("--world", "nowhere.yaml"), "nowhere.yaml: cannot be read"),
        (("--workers", "0"), "--workers"),
    ],
)
def test_what_is_wrong_with_a_call_is_said(world, refused, policies, arguments, message):
    told = refused(world, "backtest", "-f", TOY, "--policies", policies, "--as-of", "2024-04-25", *arguments)
    assert told.code == 2
    assert message in re.sub(r"\s+", " ", told.err)
    assert "Traceback" not in told.err


def test_as_a_pipeline_in_shares_it_comes_to_the_same_bytes(world, backtest, policies):
    alone = backtest()
    assert alone.code == 0, alone.err
    results = Path(alone.value["results"])
    before = {path.name: path.read_bytes() for path in (results / "results.json", results / "index.html")}
    for path in (*results.glob("*.json"), results / "index.html"):
        path.unlink()
    arguments = ("-f", "tests/toy_model/model.yaml", "--policies", policies, "--as-of", "2024-04-25", "-o", "json")
    shared = world.evergrow("run", "backtest", *arguments, "--shares", "3")
    assert shared.code == 0, shared.err
    assert shared.value["results"] == str(results)
    assert {name: (results / name).read_bytes() for name in before} == before
    assert len([*results.glob("share-*.json")]) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("backtest",), "--policies: a backtest needs it"),
        (("monitoring", "--policies", "policies.yaml"), "--policies: is for a backtest, found with monitoring"),
        (("monitoring", "--what-if", "takes=6h"), "--what-if: is for a backtest, found with monitoring"),
    ],
)
def test_policies_belong_to_a_backtest_and_to_nothing_else(world, refused, arguments, message):
    told = refused(world, "run", *arguments, "-f", TOY)
    assert told.code == 2
    assert message in told.err


def test_a_policy_that_is_none_is_named(world, refused, tmp_path):
    (tmp_path / "odd.yaml").write_text("choices: {when: {odd: {retraining: {needed: 0}}}}\n")
    told = refused(world, "backtest", "-f", TOY, "--policies", str(tmp_path / "odd.yaml"))
    assert told.code == 2
    assert "policy odd: spec.retraining.needed" in told.err
