"""What dashboards, alerts and runbooks ask Prometheus for is there, and can be asked."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY, CollectorRegistry

from components.operator.health import State
from components.operator.loop import Loop
from components.operator.watch import FRUITLESS, PHASE
from components.operator.work_queue import WorkQueue
from components.server import metrics
from evergrow.integrations.labels import MODEL
from evergrow.prediction_log.segments import Counts
from evergrow.spec.model import PredictionLogSpec
from tests.charts.rendering import CHARTS, ROOT, render
from tests.charts.test_alerts import promtool, rule, rules
from tests.docs.blocks import blocks

DASHBOARDS = sorted((CHARTS / "evergrow/dashboards").glob("*.json"))
TARGET = frozenset({"namespace", "model", "version", "pod", "job"})
"""Labels that every series read through the PodMonitor has."""
PUBLISHED: Mapping[str, frozenset[str]] = {
    "evergrow_observation_failed": frozenset({"namespace", "model", "kind", "subject"}),
    "evergrow_monitoring_last_success_timestamp_seconds": frozenset({"namespace", "model"}),
    "evergrow_performance": frozenset({"namespace", "model", "version", "metric", "kind"}),
    "evergrow_label_coverage": frozenset({"namespace", "model"}),
}
"""Gauges of the pipeline `monitoring`, with their labels."""
PROMETHEUS: Mapping[str, frozenset[str]] = {
    "up": TARGET,
    "ALERTS": frozenset({"alertname", "alertstate", "severity", "kind", "subject", "name", *TARGET}),
}


@pytest.fixture(scope="module")
def known(tmp_path_factory) -> dict[str, frozenset[str]]:
    """Every series there is, with its labels."""
    root = tmp_path_factory.mktemp("log")
    log = metrics._Log(SimpleNamespace(counts=Counts(), settings=PredictionLogSpec(), root=root))
    model = metrics._Model(lambda: True, lambda: {"weather": 1.0})
    metrics.count_request("v1", 200)
    metrics.count_flags([("stale:weather",)])
    metrics.REFUSALS.labels("value")
    metrics.MODEL.labels("delays", "3", "onnx")
    families = itertools.chain(REGISTRY.collect(), log.collect(), model.collect(), operators().collect())
    found = {sample.name: TARGET.union(sample.labels) for family in families for sample in family.samples}
    recorded = {each["record"]: frozenset({"namespace", "model"}) for each in rules(rule()) if "record" in each}
    return {**found, **recorded, **PUBLISHED, **PROMETHEUS}


def operators() -> CollectorRegistry:
    """What an operator publishes that has looked at a model."""
    registry, queue = CollectorRegistry(), WorkQueue()
    labels = {MODEL: "delays", PHASE: "Paused", FRUITLESS: "0"}
    cache = SimpleNamespace(count=lambda *_: {"Paused": 1}, labels=lambda _: [labels])
    registry.register(State(queue, cache, lambda: True))
    loop = Loop(lambda _: None, lambda *_: None, queue, registry)
    loop.failing.labels("delays")
    loop.results.labels("ok")
    return registry


def panels(dashboard: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def dashboards() -> Iterator[tuple[Path, dict[str, Any]]]:
    yield from ((path, json.loads(path.read_text(encoding="utf-8"))) for path in DASHBOARDS)


def queries() -> dict[str, str]:
    """Everything that is asked, by where."""
    found = {}
    for path, dashboard in dashboards():
        for panel in panels(dashboard):
            for target in panel["targets"]:
                found[f"{path.stem}: {panel['title']} {target['refId']}"] = target["expr"]
    for number, each in enumerate(rules(rule())):
        found[f"rule {number} {each.get('alert', each.get('record'))}"] = each["expr"]
    for page in (ROOT / "docs").rglob("*.md"):
        lines = (line for block in blocks(page) if block.language == "promql" for line in block.text.splitlines())
        found |= {f"{page.name} {number}": line for number, line in enumerate(lines)}
    return {where: asked.replace("$__rate_interval", "5m") for where, asked in found.items()}


SELECTOR = re.compile(r"\b(evergrow[\w:]+|up|ALERTS)\b(?:\{([^}]*)\})?")
MATCHER = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"")
GROUPING = re.compile(r"\b(?:by|on)\s*\(([^)]*)\)")


def faults(query: str, known: Mapping[str, frozenset[str]]) -> list[str]:
    """Metrics that there are not, and labels that none of the query's metrics has."""
    said, labels = [], set()
    for name, matchers in SELECTOR.findall(query):
        if name not in known:
            said.append(f"no metric {name}")
            continue
        labels |= known[name]
        said += [f"{name} has no label {label}" for label in MATCHER.findall(matchers) if label not in known[name]]
    grouped = {label.strip() for found in GROUPING.findall(query) for label in found.split(",")}
    return said + [f"no metric has the label {label}" for label in sorted(grouped - labels - {"le", ""})]


def test_what_is_asked_for_is_there(known):
    assert {where: said for where, asked in queries().items() if (said := faults(asked, known))} == {}


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("rate(evergrow_request_total[5m])", "no metric evergrow_request_total"),
        ('evergrow_requests_total{status="200"}', "evergrow_requests_total has no label status"),
        ("sum by (modle) (evergrow_ready)", "no metric has the label modle"),
    ],
)
def test_what_is_asked_for_and_not_there_is_found(known, query, said):
    assert said in faults(query, known)


def test_every_series_of_ours_is_asked_for_somewhere(known):
    ours = {re.sub(r"_(count|sum|created)$", "_bucket", name) for name in known if name.startswith("evergrow")}
    asked = {name for query in queries().values() for name, _ in SELECTOR.findall(query)}
    assert {name for name in ours if name not in asked and not name.endswith("_bucket")} <= {
        "evergrow:request_errors:ratio_rate30m"
    }


def test_every_query_can_be_asked(tmp_path):
    asked = [{"record": f"q:{number}", "expr": query} for number, query in enumerate(queries().values())]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": asked}]}))
    done = promtool("check", "rules", tmp_path / "rules.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_query_that_cannot_be_asked_is_found(tmp_path):
    broken = {"groups": [{"name": "q", "rules": [{"record": "q:0", "expr": "sum by (model (evergrow_ready)"}]}]}
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(broken))
    assert promtool("check", "rules", tmp_path / "rules.yaml").returncode != 0


# -- the dashboards themselves -----------------------------------------------------------------------------------------


def test_each_dashboard_is_a_config_map_that_grafana_finds():
    found = render("evergrow", [CHARTS / "evergrow/values-dev.yaml"], set=shown(True), namespace="evergrow-dev")
    maps = {each["metadata"]["name"]: each for each in found if "dashboard" in each["metadata"]["name"]}
    assert set(maps) == {f"evergrow-dashboard-{path.stem}" for path in DASHBOARDS}
    for path, dashboard in dashboards():
        each = maps[f"evergrow-dashboard-{path.stem}"]
        assert each["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert json.loads(each["data"][path.name]) == dashboard


def test_without_being_asked_for_there_are_none():
    found = render("evergrow", [CHARTS / "evergrow/values-dev.yaml"], set=shown(False), namespace="evergrow-dev")
    assert not [each for each in found if "dashboard" in each["metadata"]["name"]]


def shown(enabled: bool) -> dict[str, Any]:
    return {"observability": {"dashboards": {"enabled": enabled}}}


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_each_panel_has_a_title_a_description_a_query_and_a_place_of_its_own(path):
    dashboard = json.loads(path.read_text(encoding="utf-8"))
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in panels(dashboard):
        assert panel["title"]
        assert panel["description"], panel["title"]
        assert panel["targets"], panel["title"]
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])
    taken = [cell for panel in dashboard["panels"] for cell in cells(**panel["gridPos"])]
    assert len(set(taken)) == len(taken)
    assert max(x for x, _ in taken) < 24


def cells(x: int, y: int, w: int, h: int) -> Iterator[tuple[int, int]]:
    return itertools.product(range(x, x + w), range(y, y + h))


def test_dashboards_have_titles_and_identifiers_of_their_own():
    found = {(dashboard["uid"], dashboard["title"]) for _, dashboard in dashboards()}
    assert found == {("evergrow-service", "Models: service"), ("evergrow-watching", "Models: watching")}
