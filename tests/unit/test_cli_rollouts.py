"""`evergrow rollout` and `rollback`: what is asked for, what is told, and what is refused."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from evergrow.cli import main
from evergrow.integrations.rollout_files import RolloutFiles
from evergrow.integrations.rollouts_local import Served, claimed
from evergrow.rollout.attempt import Attempt
from evergrow.spec.rollout import Finding, Rollout, RolloutStatus
from tests.builders import document

NOW = datetime.now(UTC)


class Told(NamedTuple):
    code: int
    out: str
    err: str


Evergrow = Callable[..., Told]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EVERGROW_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("EVERGROW_ACTOR", "ada")
    for version in (1, 2, 3):
        directory = tmp_path / "home" / "serving" / "delays" / "versions" / str(version)
        directory.mkdir(parents=True)
        (directory / "serving.json").write_text(json.dumps({"version": version}))
    return tmp_path / "home"


@pytest.fixture
def evergrow(capsys: pytest.CaptureFixture[str], home: Path) -> Evergrow:
    def run(*arguments: str) -> Told:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        return Told(int(ended.value.code or 0), *capsys.readouterr())

    return run


@pytest.fixture
def model_yaml(tmp_path: Path) -> str:
    path = tmp_path / "model.yaml"
    path.write_text(yaml.safe_dump(document().dump()))
    return str(path)


@pytest.fixture
def rollouts(home: Path) -> RolloutFiles:
    made = RolloutFiles(home)
    made.put_model(document())
    return made


def newest(rollouts: RolloutFiles) -> Attempt:
    return rollouts.attempts("delays")[-1]


def become(rollouts: RolloutFiles, **status: Any) -> None:
    rollouts.write(newest(rollouts), RolloutStatus(rollout=Rollout(), started=NOW, **status))


def promoted(rollouts: RolloutFiles, evergrow: Evergrow, version: int, stable: int | None, **more: Any) -> None:
    evergrow("rollout", "start", "delays", "--version", str(version))
    more = {"ended": NOW, "weights": {str(version): 100}, "reason": "loss: gains 0.2", **more}
    become(rollouts, phase="Promoted", winner=version, stable=stable, **more)


@pytest.mark.parametrize(
    "command",
    [
        ("rollout",),
        *(("rollout", c) for c in ("start", "list", "status", "pause", "resume", "promote", "abort", "rollback")),
        ("rollback",),
    ],
    ids=" ".join,
)
def test_every_command_explains_itself(evergrow: Evergrow, command: tuple[str, ...]) -> None:
    told = evergrow(*command, "--help")
    assert told.code == 0
    assert "Usage:" in told.out
    if command != ("rollout",):
        assert "Examples:" in told.out


# -- start --


def test_a_rollout_is_asked_for_and_who_carries_it_out_is_told(evergrow: Evergrow, rollouts: RolloutFiles) -> None:
    told = evergrow("rollout", "start", "delays", "--version", "2", "--reason", "new weather")
    found = newest(rollouts)
    spec = found.document.spec
    assert (told.code, told.err) == (0, "")
    assert told.out.startswith(f"{found.name}: version 2 of delays is to take over\n")
    assert "evergrow serve delays --rollout" in told.out
    assert (spec.candidates, spec.rollout, spec.reason, spec.requested_by) == ((2,), None, "new weather", "ada")
    assert found.name.startswith("delays-v2-")
    assert not found.begun


def test_where_somebody_carries_it_out_nobody_is_told_to(
    evergrow: Evergrow, rollouts: RolloutFiles, home: Path
) -> None:
    with claimed(home, "delays", Served(1, 8080, 0.0)):
        assert "hint" not in evergrow("rollout", "start", "delays", "--version", "2").out


def test_how_it_is_done_is_read_from_a_file(evergrow: Evergrow, rollouts: RolloutFiles, tmp_path: Path) -> None:
    path = tmp_path / "rollout.yaml"
    path.write_text("strategy: {kind: canary, steps: [{weight: 10, requests: 5, duration: 1s}]}\nsticky: [tailnum]\n")
    told = evergrow("rollout", "start", "delays", "--version", "2", "--strategy-file", str(path), "-o", "json")
    how = newest(rollouts).document.spec.rollout
    assert how is not None
    assert (how.strategy.kind, how.sticky) == ("canary", ("tailnum",))
    assert json.loads(told.out) == {"rollout": newest(rollouts).name, "model": "delays", "candidates": [2]}


def test_a_file_with_a_fault_is_told_with_its_path(evergrow: Evergrow, rollouts: RolloutFiles, tmp_path: Path) -> None:
    path = tmp_path / "rollout.yaml"
    path.write_text("strategy: {kind: canary, step: []}\n")
    told = evergrow("rollout", "start", "delays", "--version", "2", "--strategy-file", str(path))
    assert told.code == 2
    assert "did you mean `steps`?" in told.err
    assert list(rollouts.attempts("delays")) == []


def test_a_document_is_needed_once(evergrow: Evergrow, model_yaml: str, home: Path) -> None:
    told = evergrow("rollout", "start", "delays", "--version", "2")
    assert told.code == 11
    assert "delays: its document is not known here; none is known yet" in told.err
    assert "-f model.yaml" in told.err
    assert evergrow("rollout", "start", "delays", "--version", "2", "-f", model_yaml).code == 0
    assert RolloutFiles(home).model("delays") == document()
    assert evergrow("rollout", "start", "delays", "--version", "3").code == 0


def test_another_models_document_is_refused(evergrow: Evergrow, model_yaml: str, home: Path) -> None:
    told = evergrow("rollout", "start", "trams", "--version", "2", "-f", model_yaml)
    assert told.code == 2
    assert "metadata.name: must be trams, found delays" in told.err
    assert RolloutFiles(home).models() == []


def test_a_version_that_there_is_nothing_of_is_refused(evergrow: Evergrow, rollouts: RolloutFiles) -> None:
    told = evergrow("rollout", "start", "delays", "--version", "7")
    assert told.code == 11
    assert "delays: version 7 is not prepared on this machine" in told.err
    assert list(rollouts.attempts("delays")) == []


@pytest.mark.parametrize(("kind", "code"), [("bandit", 0), ("canary", 2)])
def test_several_versions_are_for_a_bandit(
    evergrow: Evergrow, rollouts: RolloutFiles, tmp_path: Path, kind: str, code: int
) -> None:
    path = tmp_path / "rollout.yaml"
    path.write_text(f"strategy: {{kind: {kind}}}\n")
    told = evergrow("rollout", "start", "delays", "--version", "2", "--version", "3", "--strategy-file", str(path))
    assert told.code == code
    assert len(rollouts.attempts("delays")) == (code == 0)


# -- looking --


def test_rollouts_are_listed_newest_first(evergrow: Evergrow, rollouts: RolloutFiles) -> None:
    assert evergrow("rollout", "list").out == "no rollouts yet; `evergrow rollout start` makes one\n"
    for version in (2, 3):
        evergrow("rollout", "start", "delays", "--version", str(version))
    listed = json.loads(evergrow("rollout", "list", "delays", "-o", "json").out)
    assert [one["spec"]["candidates"] for one in listed] == [[3], [2]]
    assert listed == json.loads(evergrow("rollout", "list", "-o", "json").out)
    assert "Pending" in evergrow("rollout", "list").out


def test_a_model_that_is_not_known_is_told_with_those_that_are(evergrow: Evergrow, rollouts: RolloutFiles) -> None:
    for command in (("list", "trams"), ("status", "trams"), ("pause", "trams"), ("rollback", "../delays")):
        told = evergrow("rollout", *command)
        assert told.code == 11
        assert "known: delays" in told.err


def test_a_model_without_rollouts_says_how_to_start_one(evergrow: Evergrow, rollouts: RolloutFiles) -> None:
    told = evergrow("rollout", "status", "delays")
    assert told.code == 11
    assert "evergrow rollout start delays" in told.err


def test_a_status_has_who_answers_why_each_finding_and_what_happened(
    evergrow: Evergrow, rollouts: RolloutFiles
) -> None:
    evergrow("rollout", "start", "delays", "--version", "2")
    found = Finding(check="errors", candidate=2, outcome="pass", reason="0 of 900 (0.00%) against 1.00%")
    lacking = Finding(check="loss", candidate=2, outcome="inconclusive", reason="12 % of the requests")
    become(
        rollouts, phase="Progressing", stable=1, weights={"1": 90, "2": 10}, split="v1 90 / v2 10",
        step_started=NOW, reason="waits: loss is inconclusive", findings=(found, lacking),
    )  # fmt: skip
    rollouts.tell(newest(rollouts), "Progressing", "v1 90 / v2 10: move 1 of 3")
    told = evergrow("rollout", "status", "delays").out
    for said in ("v1 90 / v2 10", "waits: loss is inconclusive", "move 1 of 3", "by ada"):
        assert said in told
    assert "v2 errors        pass          0 of 900 (0.00%) against 1.00%" in told
    assert "v2 loss          inconclusive  12 % of the requests" in told
    read = json.loads(evergrow("rollout", "status", newest(rollouts).name, "-o", "json").out)
    assert [one["check"] for one in read["status"]["findings"]] == ["errors", "loss"]
    assert [one["reason"] for one in read["events"]] == ["Progressing"]


def test_a_models_name_picks_the_newest_that_is_not_over(evergrow: Evergrow, rollouts: RolloutFiles) -> None:
    evergrow("rollout", "start", "delays", "--version", "2")
    first = newest(rollouts).name
    promoted(rollouts, evergrow, 3, 1)
    assert json.loads(evergrow("rollout", "status", "delays", "-o", "json").out)["metadata"]["name"] == first
    rollouts.write(rollouts.attempts("delays")[0], RolloutStatus(phase="Superseded"))
    assert json.loads(evergrow("rollout", "status", "delays", "-o", "json").out)["metadata"]["name"] != first


def test_watching_ends_with_the_rollout(evergrow: Evergrow, rollouts: RolloutFiles) -> None:
    evergrow("rollout", "start", "delays", "--version", "2")

    def later() -> None:
        time.sleep(0.5)
        become(rollouts, phase="Aborted", reason="aborted by bob", ended=NOW)

    other = threading.Thread(target=later)
    other.start()
    told = evergrow("rollout", "status", "delays", "--watch")
    other.join()
    assert told.code == 0
    assert told.out.index("Pending") < told.out.index("Aborted")


# -- orders --


@pytest.mark.parametrize("order", ["pause", "resume", "promote", "abort"])
def test_an_order_is_left_for_who_carries_it_out(evergrow: Evergrow, rollouts: RolloutFiles, order: str) -> None:
    evergrow("rollout", "start", "delays", "--version", "2")
    told = evergrow("rollout", order, "delays")
    assert (told.code, newest(rollouts).order, newest(rollouts).ordered_by) == (0, order, "ada")
    assert told.out.startswith(f"{newest(rollouts).name}: {order} is ordered; now Pending")
    assert f"ordered   {order}" in evergrow("rollout", "status", "delays").out


@pytest.mark.parametrize("order", ["pause", "resume", "promote", "abort"])
def test_one_that_is_over_takes_no_orders_and_says_how_it_ended(
    evergrow: Evergrow, rollouts: RolloutFiles, order: str
) -> None:
    promoted(rollouts, evergrow, 2, 1)
    told = evergrow("rollout", order, newest(rollouts).name)
    assert told.code == 11
    assert "is over: Promoted: loss: gains 0.2" in told.err
    assert "evergrow rollback delays" in told.err
    assert newest(rollouts).order is None


def test_one_that_was_aborted_is_tried_again_by_another(evergrow: Evergrow, rollouts: RolloutFiles) -> None:
    evergrow("rollout", "start", "delays", "--version", "2")
    become(rollouts, phase="Aborted", reason="errors: 9 of 100", ended=NOW)
    told = evergrow("rollout", "promote", "delays")
    assert "is over: Aborted: errors: 9 of 100" in told.err
    assert "evergrow rollout start delays --version 2" in told.err


# -- rollback --


@pytest.mark.parametrize("command", [("rollback",), ("rollout", "rollback")], ids=" ".join)
def test_after_a_promotion_what_served_before_takes_over_at_once(
    evergrow: Evergrow, rollouts: RolloutFiles, home: Path, command: tuple[str, ...]
) -> None:
    promoted(rollouts, evergrow, 2, 1)
    promoted(rollouts, evergrow, 3, 2)
    with claimed(home, "delays", Served(1, 8080, 0.0)):
        told = evergrow(*command, "delays")
    spec = newest(rollouts).document.spec
    assert spec.rollout is not None
    assert (told.code, spec.candidates, spec.rollout.strategy.kind) == (0, (2,), "single")
    assert "goes back to version 2, which is warm until" in told.out


@pytest.mark.parametrize("days", [0, 2])
def test_it_is_told_whether_the_version_is_warm(
    evergrow: Evergrow, rollouts: RolloutFiles, home: Path, days: int
) -> None:
    promoted(rollouts, evergrow, 2, 1, ended=NOW - timedelta(days=days))
    with claimed(home, "delays", Served(1, 8080, 0.0)):
        told = json.loads(evergrow("rollback", "delays", "-o", "json").out)
    assert told == {"rollout": newest(rollouts).name, "version": 1, "warm": days == 0}


def test_the_present_is_that_of_who_serves(evergrow: Evergrow, rollouts: RolloutFiles, home: Path) -> None:
    then = NOW - timedelta(days=4000)
    promoted(rollouts, evergrow, 2, 1, ended=then)
    with claimed(home, "delays", Served(1, 8080, -timedelta(days=4000).total_seconds())):
        assert json.loads(evergrow("rollback", "delays", "-o", "json").out)["warm"]


def test_without_a_server_nothing_is_warm(evergrow: Evergrow, rollouts: RolloutFiles) -> None:
    promoted(rollouts, evergrow, 2, 1)
    told = evergrow("rollback", "delays")
    assert "version 1, which is not warm: it is started first" in told.out
    assert "evergrow serve delays --rollout" in told.out


def test_any_version_can_be_gone_back_to(evergrow: Evergrow, rollouts: RolloutFiles) -> None:
    promoted(rollouts, evergrow, 2, 1)
    promoted(rollouts, evergrow, 3, 2)
    assert evergrow("rollback", "delays", "--to", "1", "--reason", "both are bad").code == 0
    spec = newest(rollouts).document.spec
    assert (spec.candidates, spec.reason) == ((1,), "both are bad")
    assert evergrow("rollback", "delays", "--to", "9").code == 11


def test_a_rollout_under_way_is_aborted(evergrow: Evergrow, rollouts: RolloutFiles) -> None:
    promoted(rollouts, evergrow, 2, 1)
    evergrow("rollout", "start", "delays", "--version", "3")
    assert evergrow("rollback", "delays").code == 0
    assert newest(rollouts).order == "abort"
    assert len(rollouts.attempts("delays")) == 2


@pytest.mark.parametrize(("stable", "why"), [(None, "nothing did before version 2"), (0, "no rollout promoted")])
def test_where_nothing_served_before_it_must_be_named(
    evergrow: Evergrow, rollouts: RolloutFiles, stable: int | None, why: str
) -> None:
    if stable is None:
        promoted(rollouts, evergrow, 2, None)
    else:
        evergrow("rollout", "start", "delays", "--version", "2")
        become(rollouts, phase="Aborted", stable=1, ended=NOW)
    told = evergrow("rollback", "delays")
    assert told.code == 11
    assert why in told.err
    assert "--to" in told.err


# -- serve --


def test_grpc_is_served_on_the_gateways_port_or_not_at_all(evergrow: Evergrow) -> None:
    told = evergrow("serve", "delays", "--rollout", "--port", "8080", "--grpc-port", "8081")
    assert told.code == 2
    assert "--grpc-port: must be 0 or --port with --rollout, found 8081" in told.err
