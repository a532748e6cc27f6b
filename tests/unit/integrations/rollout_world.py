"""A model with two versions on this machine, and what serves it while its rollouts are carried out.

    python -m tests.unit.integrations.rollout_world MODEL PORT AS_OF

serves as `evergrow serve --rollout` does, but for the witness: it has the gateway's counters alone, for the prediction
log tells a minute later.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest import mock

from evergrow.environment import Environment
from evergrow.integrations import rollouts_local
from evergrow.integrations.gateway_counts import RequestCounts
from evergrow.rollout import guardrails
from evergrow.rollout.attempt import Attempt
from evergrow.rollout.evidence import Evidence
from evergrow.spec import ContinualModel
from tests.builders import document

MODEL = "delays"


class CountersWitness:
    """`evergrow.ports.Witness` of the gateway's counters alone."""

    def __init__(self, environment: Environment, counters: RequestCounts) -> None:
        self.counters = counters

    def examine(self, model: ContinualModel, attempt: Attempt, now: datetime) -> Evidence:
        counted, how = self.counters(model.name), attempt.status.rollout
        assert how is not None
        candidates = [one for one in attempt.document.spec.candidates if one in counted]
        found = [guardrails.errors(how.analysis, one, counted[one]) for one in candidates]
        return Evidence({one: counted[one].requests for one in candidates}, tuple(f for f in found if f is not None))


def prepare(environment: Environment, folder: Path) -> None:
    """Versions 1, which serves, and 2: trained, registered, and prepared with the same features."""
    from benchmarks.serving_world import NOW, feature_store, write_bundle
    from evergrow.integrations.feast_online import plan
    from evergrow.integrations.mlflow import MlflowRegistry
    from evergrow.integrations.serving import LocalServing
    from tests.unit.integrations.builders import make_evaluation, make_report

    store = {"type": "sqlite", "path": str(folder / "online.db")}
    features = plan(feature_store(folder / "repo", store), "flights_v1")
    registry = MlflowRegistry(environment, actor="ada")
    serving = LocalServing(environment.serving(MODEL), document(name=MODEL), features)
    for seed in (1, 2):
        bundle = folder / f"bundle{seed}"
        write_bundle(bundle, seed)
        report = make_report(bundle)
        version = registry.register(bundle, report, make_evaluation(folder / f"evaluation{seed}", report))
        if version.version == 1:
            registry.promote(version, "the first", NOW)
            serving.deploy(version, bundle)
        else:
            serving.prepare(version, bundle)


class Callers:
    """Requests without a pause, from a thread with one connection.

    Attributes:
        answered: requests by the version that answered; by the status where that was not 200, 0 for no answer.
    """

    def __init__(self, port: int, row: dict[str, Any]) -> None:
        self.port, self.body = port, json.dumps({"instances": [row]}).encode()
        self.answered: Counter[str] = Counter()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._call, daemon=True)

    def __enter__(self) -> Callers:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def failed(self) -> dict[str, int]:
        """Requests that were not answered well."""
        return {said: count for said, count in self.answered.items() if not said.startswith("v")}

    def _call(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        while not self._ended.is_set():
            self.answered[ask(connection, self.body)] += 1
            time.sleep(0.01)
        connection.close()


def ask(connection: http.client.HTTPConnection, body: bytes, **headers: str) -> str:
    """Who answered: "v2"; else the status, "0" for no answer."""
    said = {"content-type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    try:
        connection.request("POST", f"/v1/models/{MODEL}:predict", body, said)
        answer = connection.getresponse()
        read = json.loads(answer.read())
    except (OSError, http.client.HTTPException):
        connection.close()
        return "0"
    return f"v{read['model_version']}" if answer.status == http.client.OK else str(answer.status)


def children(pid: int) -> dict[int, str]:
    """Command line by process id of a process' children that run."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            if int(parent) == pid and state != "Z":
                found[int(stat.parent.name)] = stat.with_name("cmdline").read_text().replace("\0", " ")
    return found


def servers(pid: int) -> dict[int, int]:
    """Process id by version of the servers that a serving process has."""
    found = {}
    for child, command in children(pid).items():
        if "components.server " in command:
            found[int(command.partition("/versions/")[2].split(" ")[0])] = child
    return found


def until(holds: Callable[[], bool], seconds: float = 60.0, why: Callable[[], str] = str) -> None:
    """Return when it holds; an AssertionError if it never does."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not so within {seconds} s: {why()}"
        time.sleep(0.05)


def main(model: str, port: str, as_of: str) -> None:
    """Serve."""
    from evergrow.cli import main as evergrow

    with mock.patch.object(rollouts_local, "LateWitness", CountersWitness):
        evergrow(["serve", model, "--rollout", "--port", port, "--as-of", as_of])


if __name__ == "__main__":
    main(*sys.argv[1:])
