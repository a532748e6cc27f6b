"""What callers notice of upgrades: requests at a steady rate while a chart and a version are rolled out and back.

The chart's upgrade changes the pods of the version that serves, so KServe replaces them; the version that is rolled out
is the same by another number. Everything is undone, under the same load, and the environment is left as it was.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.measure import Result, Skipped
from benchmarks.on_cluster import BODY, PATH, Installed, until
from benchmarks.on_cluster_load import Report, under_load
from benchmarks.on_cluster_versions import Rollouts
from evergrow.integrations.kubernetes import POD, Kind, Object

RATE = 200.0
CHART = Path(__file__).parent.parent / "charts/evergrow"
SETTLED_SECONDS = 8.0
DEPLOYMENT = Kind("Deployment", "deployments", "v1", "apps")


def run() -> list[Result]:
    """Failures, latency, and how long each part took."""
    installed = Installed.find()
    release = Release.of(installed)
    gateway = installed.gateway
    url, rollout = f"http://{gateway.ip}:{gateway.port}{PATH}", Rollout(installed, release, Rollouts(installed))
    with under_load(url, gateway.host, BODY, RATE) as report, rollout.undone():
        rollout.carry_out()
    return _results(report, rollout.took)


@dataclass(frozen=True)
class Release:
    """The environment's release of the chart."""

    name: str
    namespace: str
    revision: int

    @classmethod
    def of(cls, installed: Installed) -> Release:
        """The one that made the environment.

        Raises:
            Skipped: it was not installed by helm, or there is no helm here.
        """
        if shutil.which("helm") is None:
            raise Skipped("helm is not installed")
        namespace = installed.kubernetes.namespace
        releases = json.loads(_helm(namespace, "list", "-o", "json"))
        found = next((r for r in releases if r["chart"].startswith("evergrow-")), None)
        if found is None:
            raise Skipped(f"helm knows of no release of chart evergrow in {namespace}")
        return cls(found["name"], namespace, int(found["revision"]))

    def upgrade(self, **values: str) -> None:
        """Change values."""
        changed = [word for name, value in values.items() for word in ("--set", f"{name}={value}")]
        _helm(self.namespace, "upgrade", self.name, str(CHART), "--reuse-values", *changed)

    def rollback(self) -> None:
        """Back to the revision that was found."""
        _helm(self.namespace, "rollback", self.name, str(self.revision))


def _helm(namespace: str, *arguments: str) -> str:
    done = subprocess.run(["helm", "-n", namespace, *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"helm {arguments[0]} failed:\n{done.stderr[-2000:]}")
    return done.stdout


@dataclass
class Rollout:
    """All that is changed, and how long each change took.

    Attributes:
        took: seconds from each change to its end: until the pods of before are gone, or the new version answers.
    """

    installed: Installed
    release: Release
    versions: Rollouts
    took: dict[str, float] = field(default_factory=dict)

    def carry_out(self) -> None:
        """Upgrade, deploy, and the way back, with pauses in which what is left over would show."""
        policy = self.installed.place.code.images.pull_policy
        other = "Never" if policy != "Never" else "IfNotPresent"
        time.sleep(SETTLED_SECONDS)
        self._timed("chart upgraded", lambda: self._roll_pods(other, self._upgrade(other)))
        self._timed("version rolled out", lambda: self.versions.take_over(killed=False))
        self._timed("version before", self.versions.back)
        self._timed("chart rolled back", lambda: self._roll_pods(policy, self.release.rollback))

    @contextmanager
    def undone(self) -> Iterator[None]:
        """Leave everything as it was found, whatever happens."""
        with ExitStack() as stack:
            stack.callback(self._rollback_if_needed)
            stack.callback(self.versions.back)
            yield

    def _timed(self, what: str, do: Callable[[], None]) -> None:
        begun = time.monotonic()
        print(f"{what} ...", file=sys.stderr, flush=True)
        do()
        self.took[what] = time.monotonic() - begun
        time.sleep(SETTLED_SECONDS)

    def _upgrade(self, policy: str) -> Callable[[], None]:
        return lambda: self.release.upgrade(**{"code.images.pullPolicy": policy})

    def _roll_pods(self, policy: str, change: Callable[[], None]) -> None:
        """Change the chart, and wait until all of the version's pods, those that end too, are of the changed kind."""
        change()
        name = f"{self.installed.service}-predictor"
        until(lambda: self._rolled_out(name, policy), f"deployment {name} is not rolled out with {policy}")

    def _rolled_out(self, name: str, policy: str) -> bool:
        found = self.installed.kubernetes.get(DEPLOYMENT, name) or {}
        pods = self._pods(self.installed.service)
        of_the_kind = all(pod["spec"]["containers"][0]["imagePullPolicy"] == policy for pod in pods)
        return bool(pods) and of_the_kind and found.get("status", {}).get("readyReplicas") == len(pods)

    def _pods(self, service: str) -> list[Object]:
        return self.installed.kubernetes.search(POD, {"serving.kserve.io/inferenceservice": service})

    def _rollback_if_needed(self) -> None:
        if "chart upgraded" in self.took and "chart rolled back" not in self.took:
            self.release.rollback()


def _results(report: Report, took: Mapping[str, float]) -> list[Result]:
    ended = ", ".join(f"{count:,} × {outcome}" for outcome, count in sorted(report.outcomes.items()))
    parts = ", ".join(f"{what} in {seconds:.0f} s" for what, seconds in took.items())
    name = f"rolling upgrade at {RATE:.0f} requests/s"
    return [
        Result(
            name=f"{name}: failed requests",
            value=report.failed,
            unit="",
            reach="0",
            holds=report.failed == 0 and report.kept_up,
            detail=f"{ended} in {report.seconds:.0f} s: {parts}{_first(report)}{_rate(report)}",
        ),
        Result(
            name=f"{name}: p99 from when a request was due",
            value=report.percentile(99),
            unit="ms",
            reach="stated",
            holds=True,
            detail=f"p50 {report.percentile(50):.3g} ms; no request is tried again; "
            f"the generator itself sent up to {max(report.late):.0f} ms late",
        ),
    ]


def _first(report: Report) -> str:
    if not report.failures:
        return ""
    at, why = report.failures[0]
    return f"; the first was due at {at:.1f} s: {why}"


def _rate(report: Report) -> str:
    return "" if report.kept_up else f"; the rate was not held: {report.sent / report.seconds:.0f} requests/s"
