"""Alerts fire when they should and are silent when they should be, judged by Prometheus' own `promtool test rules`."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.charts.rendering import CHARTS, ROOT, Object, render

RULES = {"observability": {"prometheusRules": {"enabled": True}}}
RUNBOOKS = ROOT / "docs/runbooks"
HOUR, DAY = 60, 24 * 60
STEP = 4
"""Minutes from one reading of metrics, and judging of rules, to the next."""


def rule(set: Mapping[str, Any] | None = None) -> Object:
    """The PrometheusRule."""
    over = {"observability": {"prometheusRules": {"enabled": True, **(set or {})}}}
    found = render("evergrow", [CHARTS / "evergrow/values-dev.yaml"], set=over, namespace="evergrow-dev")
    (one,) = (each for each in found if each["kind"] == "PrometheusRule")
    return one


def rules(one: Object) -> list[dict[str, Any]]:
    return [each for group in one["spec"]["groups"] for each in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    return [each for each in rules(rule()) if "alert" in each]


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run promtool; without it, skip the test."""
    binary = shutil.which("promtool")
    if binary is None:
        pytest.skip("promtool is not on PATH (Debian package prometheus)")
    return subprocess.run([binary, *map(str, arguments)], capture_output=True, text=True, check=False)


# -- what each alert has -----------------------------------------------------------------------------------------------


def test_promtool_finds_nothing_to_complain_about(tmp_path):
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rule()["spec"]))
    done = promtool("check", "rules", tmp_path / "rules.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_has_its_page_and_each_page_its_alert():
    pages = {page.stem for page in RUNBOOKS.glob("*.md")} - {"README"}
    assert {each["alert"] for each in alerts()} == pages


@pytest.mark.parametrize(
    "part", ["What it means", "Who is hurt", "How to look", "How to stop the harm", "How to mend it"]
)
def test_each_page_has_every_part(part):
    lacking = [page.name for page in RUNBOOKS.glob("Evergrow*.md") if f"\n## {part}\n" not in page.read_text()]
    assert lacking == []


def test_each_alert_says_how_bad_it_is_what_and_where_to_read_on():
    for each in alerts():
        assert each["labels"]["severity"] in ("critical", "warning")
        assert each["for"]
        assert "{{ $labels.model }}" in each["annotations"]["summary"]
        assert each["annotations"]["description"]
        assert (ROOT / each["annotations"]["runbook_url"]).exists()


def test_pages_are_where_the_values_say():
    found = rules(rule({"runbooks": "https://docs.example.com/runbooks/"}))
    urls = [each["annotations"]["runbook_url"] for each in found if "alert" in each]
    assert "https://docs.example.com/runbooks/EvergrowNoTraffic.md" in urls


def test_no_word_is_left_that_values_replace():
    text = yaml.safe_dump(rule()["spec"])
    for word in ("NAMESPACE", "ERROR_BUDGET", "LATENCY_BUDGET", "LATENCY_SECONDS", "STALE_SHARE", "RUNBOOKS"):
        assert word not in text


def test_objectives_become_budgets():
    text = "".join(
        each["expr"] for each in rules(rule({"availability": 99.5, "latencyObjective": 95, "latency": "0.25"}))
    )
    assert "> 14.4 * 0.005" in text
    assert "> 6 * 0.05" in text
    assert 'le="0.25"' in text


# -- when they fire ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Phase:
    """A counter that grows by so much each minute, for so many minutes."""

    minutes: int
    growth: float


def counter(*phases: Phase) -> str:
    """Values of a counter, as promtool writes them."""
    parts, value = [], 0.0
    for phase in phases:
        readings = phase.minutes // STEP
        parts.append(f"{value:g}+{STEP * phase.growth:g}x{readings - 1}")
        value += STEP * phase.growth * readings
    return " ".join(parts)


def gauge(*phases: tuple[int, float]) -> str:
    """Values of a gauge, each for so many minutes; None is no value."""
    readings = ((minutes // STEP, value) for minutes, value in phases)
    return " ".join(f"_x{count}" if value is None else f"{value:g}x{count - 1}" for count, value in readings)


@dataclass(frozen=True)
class Scene:
    """A model in service for so many minutes: what Prometheus read of it, and which alerts fire at the end."""

    series: Mapping[str, str]
    minutes: int
    fires: Iterable[tuple[str, str]] = ()
    namespace: str = "evergrow-dev"
    set: Mapping[str, Any] = field(default_factory=dict)


def served(ok: str, failed: str = "0x5000", **more: str) -> dict[str, str]:
    """A ready server that answers, some of it with 503."""
    return {
        'evergrow_requests_total{code="200",protocol="v1"}': ok,
        'evergrow_requests_total{code="503",protocol="v1"}': failed,
        "evergrow_ready": "1x5000",
        "up": "1x5000",
        **more,
    }


def timed(all: str, fast: str) -> dict[str, str]:
    return {
        'evergrow_request_seconds_count{part="total"}': all,
        'evergrow_request_seconds_bucket{part="total",le="0.1"}': fast,
    }


def share(bad: float, *, per_minute: float = 600, good_for: int = DAY, bad_for: int, then_good: int = 0):
    """Requests of which a share fails (or is slow) for a while: what was well, and what was not."""
    phases = [Phase(good_for, 0), Phase(bad_for, bad * per_minute)] + [Phase(then_good, 0)] * bool(then_good)
    well = [Phase(p.minutes, per_minute - p.growth) for p in phases]
    return counter(*well), counter(*phases), good_for + bad_for + then_good - STEP


def failing(bad: float, fires: Iterable[tuple[str, str]] = (), **how: Any) -> Scene:
    well, not_well, minutes = share(bad, **how)
    return Scene(served(well, not_well), minutes, fires)


def slow(bad: float, fires: Iterable[tuple[str, str]] = (), **how: Any) -> Scene:
    fast, _, minutes = share(bad, **how)
    total = counter(Phase(minutes + STEP, how.get("per_minute", 600)))
    return Scene(served(total) | timed(total, fast), minutes, fires)


def model(minutes: int = HOUR, fires: Iterable[tuple[str, str]] = (), **series: str) -> Scene:
    """A healthy model, but for these series."""
    return Scene(served(counter(Phase(5000, 600))) | series, minutes, fires)


def flagged(per_minute: float, minutes: int, fires: Iterable[tuple[str, str]] = ()) -> Scene:
    return model(
        minutes,
        fires,
        **{
            'evergrow_flags_total{kind="stale",name="weather"}': counter(Phase(minutes + 1, per_minute)),
            "evergrow_rows_total": counter(Phase(minutes + 1, 100)),
        },
    )


ERRORS, SLOW = "EvergrowErrorBudgetBurn", "EvergrowLatencyBudgetBurn"
SCENES: dict[str, Scene] = {
    "all is well": failing(0.0005, bad_for=DAY, good_for=HOUR),
    "2 % fail for an hour: in 1.5 days the budget would be gone": failing(
        0.02, [(ERRORS, "critical")], bad_for=76, good_for=36 * HOUR
    ),
    "1 % fail for half a day": failing(0.01, [(ERRORS, "critical"), (ERRORS, "warning")], bad_for=12 * HOUR),
    "0.5 % fail for a day: nobody is woken": failing(0.005, [(ERRORS, "warning")], bad_for=26 * HOUR),
    "0.15 % fail for long": failing(0.0015, [(ERRORS, "warning")], bad_for=DAY, good_for=HOUR),
    "an outage that is over wakes nobody": failing(0.05, bad_for=10, then_good=35),
    "one of few requests fails": failing(0.05, bad_for=65, per_minute=0.5),
    "several of few requests fail": failing(
        0.2, [(ERRORS, "critical"), (ERRORS, "warning")], bad_for=90, per_minute=0.5
    ),
    "20 % are slow for an hour": slow(0.2, [(SLOW, "critical")], bad_for=76, good_for=36 * HOUR),
    "8 % are slow for an hour: not yet": slow(0.08, bad_for=65),
    "5 % are slow for a day": slow(0.05, [(SLOW, "warning")], bad_for=26 * HOUR),
    "no pod is ready": model(fires=[("EvergrowModelNotReady", "critical")], evergrow_ready=gauge((30, 1), (40, 0))),
    "no pod is ready, for a moment": model(evergrow_ready=gauge((57, 1), (10, 0))),
    "one of two pods is not ready": model(**{'evergrow_ready{pod="two"}': gauge((100, 0)), 'up{pod="two"}': "1x100"}),
    "a pod never came to listen": Scene({"up": "0x100"}, HOUR, [("EvergrowModelNotReady", "critical")]),
    "all pods are gone": model(
        2 * HOUR,
        [("EvergrowModelNotReady", "critical")],
        evergrow_ready=gauge((90, 1), (60, None)),
        up=gauge((90, 1), (60, None)),
    ),
    "10 % without a view": flagged(10, HOUR, [("EvergrowFeaturesStale", "warning")]),
    "2 % without a view": flagged(2, HOUR),
    "10 % without a view, for ten minutes": flagged(10, 12),
    "nobody asks any more": Scene(
        served(counter(Phase(DAY, 1), Phase(80, 0))), DAY + 75, [("EvergrowNoTraffic", "warning")]
    ),
    "nobody asks, as yesterday": Scene(served(counter(Phase(60, 1), Phase(DAY + 100, 0))), DAY + 150),
    "few ask": Scene(served(counter(Phase(DAY, 1), Phase(80, 0.05))), DAY + 75),
    "records are dropped": model(
        fires=[("EvergrowPredictionsDropped", "critical")],
        evergrow_predictions_dropped_total=counter(Phase(50, 0), Phase(20, 1)),
    ),
    "records were dropped long ago": model(evergrow_predictions_dropped_total=counter(Phase(20, 1), Phase(60, 0))),
    "the log is down": model(
        fires=[("EvergrowPredictionLogDown", "critical")],
        **{
            'evergrow_prediction_log_up{pod="a"}': gauge((50, 1), (20, 0)),
            'evergrow_prediction_log_up{pod="b"}': "1x80",
        },
    ),
    "the log is up": model(**{'evergrow_prediction_log_up{pod="a"}': "1x80"}),
    "the log is nearly full": model(
        fires=[("EvergrowPredictionLogFilling", "warning")],
        evergrow_prediction_log_bytes="450e6x80",
        evergrow_prediction_log_limit_bytes="500e6x80",
    ),
    "the log is half full": model(
        evergrow_prediction_log_bytes="250e6x80", evergrow_prediction_log_limit_bytes="500e6x80"
    ),
    "nothing is shipped": model(
        fires=[("EvergrowPredictionsNotShipped", "warning")],
        evergrow_prediction_log_oldest_seconds=counter(Phase(80, 60)),
    ),
    "what is shipped waits a little": model(evergrow_prediction_log_oldest_seconds="300x80"),
    "an observation failed": model(
        fires=[("EvergrowObservationFailed", "warning")],
        **{'evergrow_observation_failed{kind="drift",subject="wind"}': "1x80"},
    ),
    "an observation passed": model(**{'evergrow_observation_failed{kind="drift",subject="wind"}': "0x80"}),
    "nobody has watched for two days": model(
        fires=[("EvergrowMonitoringStale", "warning")],
        evergrow_monitoring_last_success_timestamp_seconds="-172800x80",
    ),
    "a rollout waits for somebody": model(
        fires=[("EvergrowRolloutPaused", "warning")], evergrow_operator_leader="1x80", evergrow_rollout_paused="1x80"
    ),
    "a rollout was paused for a moment": model(
        evergrow_operator_leader="1x80", evergrow_rollout_paused=gauge((52, 0), (12, 1))
    ),
    "challengers keep failing": model(
        fires=[("EvergrowChallengersFail", "warning")], evergrow_operator_leader="1x80", evergrow_loop_fruitless="3x80"
    ),
    "two challengers have failed": model(evergrow_operator_leader="1x80", evergrow_loop_fruitless="2x80"),
    "the operator fails with a model": model(
        fires=[("EvergrowRolloutsFailing", "warning")],
        **{"evergrow_operator_leader": "1x80", "evergrow_operator_failing": "1x80"},
    ),
    "the operator goes on with a model": model(
        **{"evergrow_operator_leader": "1x80", "evergrow_operator_failing": gauge((32, 1), (32, 0))},
    ),
    "who failed and leads no more is no news": model(
        **{
            'evergrow_operator_leader{pod="two"}': "1x80",
            "evergrow_operator_leader": "0x80",
            "evergrow_operator_failing": "1x80",
        },
    ),
    "the operator is gone": model(
        fires=[("EvergrowOperatorDown", "critical")],
        **{
            "evergrow_operator_leader": gauge((20, 1), (44, None)),
            "evergrow_rollout_paused": gauge((20, 0), (44, None)),
        },
    ),
    "no operator leads": model(
        fires=[("EvergrowOperatorDown", "critical")], evergrow_operator_leader="0x80", evergrow_rollout_paused="0x80"
    ),
    "somebody watched yesterday": model(evergrow_monitoring_last_success_timestamp_seconds="-86400x80"),
}
OURS = "evergrow-dev"


def labelled(series: str, namespace: str) -> str:
    """With the labels that a PodMonitor gives, unless it has its own."""
    name, _, given = series.rstrip("}").partition("{")
    own = [each.partition("=")[0] for each in given.split(",")]
    labels = {"namespace": namespace, "model": "delays", "pod": "one", "job": f"{namespace}/evergrow-servers"}
    more = [f'{key}="{value}"' for key, value in labels.items() if key not in own]
    return f"{name}{{{','.join(filter(None, [given, *more]))}}}"


def promtools_test(scene: Scene, namespace: str, fires: Iterable[tuple[str, str]]) -> dict[str, Any]:
    expected = [
        {"labels": f'{{alertname="{name}", model="delays", severity="{severity}"}}', "value": 1}
        for name, severity in fires
    ]
    question = 'group by (alertname, model, severity) (ALERTS{alertstate="firing"})'
    return {
        "interval": f"{STEP}m",
        "input_series": [{"series": labelled(s, namespace), "values": v} for s, v in scene.series.items()],
        "promql_expr_test": [{"expr": question, "eval_time": f"{scene.minutes}m", "exp_samples": expected}],
    }


def judged(tmp_path: Path, scene: Scene, namespace: str, fires: Iterable[tuple[str, str]]) -> str:
    """What promtool finds wrong; empty if nothing."""
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rule()["spec"]))
    tests = {"rule_files": ["rules.yaml"], "evaluation_interval": f"{STEP}m"}
    tests["tests"] = [promtools_test(scene, namespace, fires)]
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(tests))
    done = promtool("test", "rules", tmp_path / "tests.yaml")
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.mark.parametrize("name", SCENES)
def test_these_alerts_fire_and_no_others(tmp_path, name):
    assert judged(tmp_path, SCENES[name], OURS, SCENES[name].fires) == ""


def test_an_alert_that_was_expected_and_does_not_fire_is_found(tmp_path):
    assert "EvergrowNoTraffic" in judged(tmp_path, SCENES["few ask"], OURS, [("EvergrowNoTraffic", "warning")])


def test_another_environments_troubles_are_not_ours(tmp_path):
    for name in ("no pod is ready", "the log is down", "an observation failed", "nothing is shipped"):
        assert judged(tmp_path, SCENES[name], "evergrow-staging", []) == ""


def test_every_alert_is_seen_to_fire():
    fired = {each for scene in SCENES.values() for each in scene.fires}
    assert fired == {(each["alert"], each["labels"]["severity"]) for each in alerts()}
