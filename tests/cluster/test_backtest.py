"""A backtest on a cluster: dealt into shares, with a step killed, it comes to what this machine comes to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evergrow.integrations.kubernetes import POD
from tests.cluster.conftest import DEV, ROOT, Dev, command, eventually, evergrow

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900, func_only=True)]

ELECTRICITY = str(ROOT / "models/electricity_demand/model.yaml")
POLICIES = """
since: 2014-08-01T00:00:00Z
every: 7d
choices:
  when:
    monthly: {retraining: {triggers: [{kind: model-age, olderThan: 28d}]}}
    once: {retraining: {triggers: [{kind: asked}]}}
  window:
    all: {}
    90d: {training: {window: {kind: sliding, length: 90d}}}
"""


def test_shares_of_a_backtest_come_to_the_bytes_of_this_machine_though_one_is_killed(dev: Dev, tmp_path: Path):
    policies = tmp_path / "policies.yaml"
    policies.write_text(POLICIES, encoding="utf-8")
    asked = ("-f", ELECTRICITY, "--policies", str(policies), "--as-of", "2014-11-01", "-o", "json")
    run = json.loads(evergrow("submit", "backtest", *asked, "--env", "dev", "--shares", "2"))
    victim = eventually(lambda: replaying(dev), 420)[0]
    command("kubectl", "-n", DEV, "delete", "pod", victim, "--grace-period=0", "--force")
    here = json.loads(evergrow("backtest", *asked, EVERGROW_HOME=str(tmp_path / "home")))
    evergrow("follow", run["id"], "--env", "dev")

    store, folder = dev.store(), "backtests/electricity-demand"
    names = store.names(folder)
    (results,) = [name for name in names if name.endswith("results.json")]
    there = store.read(f"{folder}/{results}")
    assert there is not None
    assert there[0] == (Path(here["results"]) / "results.json").read_bytes()
    pages = {Path(name).name for name in names if name.startswith(str(Path(results).parent))}
    assert {"index.html", "share-00000.json", "share-00001.json"} <= pages
    trained = {Path(name).name for name in names if "/done/fit/" in name}
    assert len(trained) == here["spent"]["fit"]["done"], "no training has two names"
    again = json.loads(evergrow("submit", "backtest", *asked, "--env", "dev", "--shares", "2"))
    assert again["existing"]


def replaying(dev: Dev) -> list[str]:
    found = dev.kubernetes.search(POD, {"evergrow.dev/step": "replay"})
    return [pod["metadata"]["name"] for pod in found if pod.get("status", {}).get("phase") == "Running"]
