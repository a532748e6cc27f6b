"""What a live loop decides is what a backtest of the same policy decides: every decision, to the byte."""

import json
from pathlib import Path

import pytest
import yaml

from tests.pipelines.conftest import ROOT, new_world

SINCE, UNTIL = "2024-03-04", "2024-03-25"
RETRAINING = {
    "triggers": [
        {"kind": "schedule", "cron": "0 0 * * 3", "timeZone": "Europe/Zurich"},
        {"kind": "data-volume", "rows": 400},
        {"kind": "model-age", "olderThan": "9d"},
    ],
    "needed": 2,
    "cooldown": "3d",
}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_loop_and_a_backtest_decide_alike(tmp_path):
    world = new_world(tmp_path / "home")
    document = yaml.safe_load((ROOT / "tests/toy_model/model.yaml").read_text())
    document["spec"]["retraining"] = RETRAINING
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(document))
    tried = {
        "choices": {"policy": {"own": {}}}, "since": f"{SINCE}T00:00:00Z", "until": f"{UNTIL}T00:00:00Z",
        "whatIf": {"takes": "0s"},
    }  # fmt: skip
    (tmp_path / "policies.yaml").write_text(yaml.safe_dump(tried))
    file = str(tmp_path / "model.yaml")
    ran = world.evergrow("loop", "run", "-f", file, "--since", SINCE, "--until", UNTIL, "--every", "1d")
    assert ran.code == 0, ran.err
    told = world.evergrow(
        "backtest", "-f", file, "--policies", str(tmp_path / "policies.yaml"), "--as-of", "2024-04-20", "-o", "json"
    )
    assert told.code == 0, told.err
    book = next((tmp_path / "home").rglob("book.jsonl")).read_text().splitlines()
    live = [json.loads(line)["decision"] for line in book if json.loads(line)["kind"] == "decided"]
    decisions = (Path(told.value["results"]) / "decisions" / "own.jsonl").read_text().splitlines()
    assert len(live) == 22
    assert sum(one["wanted"] for one in live) >= 4
    assert {bool(one["withheld"]) for one in live if one["wanted"]} == {True, False}
    assert live == [json.loads(line) for line in decisions]
    ended = [(json.loads(line)["at"], json.loads(line)["outcome"]) for line in book if '"kind":"ended"' in line]
    results = json.loads((Path(told.value["results"]) / "results.json").read_text())
    assert ended == [(one["ended"], one["outcome"]) for one in results["policies"][0]["trainings"]]
