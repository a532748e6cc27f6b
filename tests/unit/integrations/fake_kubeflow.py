"""A stand-in of the API of Kubeflow Pipelines 2.17 (v2beta1), as much of it as kfp.Client needs for runs and schedules.

It refuses what the real one refuses: run arguments that the pipeline does not declare or that it lacks, platform
options it does not know, schedules without a field for seconds.
"""

from __future__ import annotations

import itertools
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import unquote_plus

from google.protobuf import json_format
from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec, PlatformSpec

from tests.unit.integrations.fake_http import FakeServer, Refusal

API = "/apis/v2beta1"
START = datetime(2026, 11, 25, tzinfo=UTC)


class FakeKubeflow(FakeServer):
    """Runs stay as they are until a test says what becomes of them.

    Attributes:
        token: the bearer token it wants; None for any or none.
        healthz: what it says of itself.
        down: how many requests it will answer with 503.
    """

    def __init__(self, token: str | None = None) -> None:
        super().__init__()
        self.token = token
        self.healthz: Any = {"multi_user": False, "tag_name": "2.17.0"}
        self.down = 0
        self.experiments: list[dict[str, Any]] = []
        self.runs: list[dict[str, Any]] = []
        self.recurring_runs: list[dict[str, Any]] = []
        self.deleted: list[tuple[str, str]] = []
        self._numbers = itertools.count(1)

    # -- what a test does ----------------------------------------------------------------------------------------------

    def becomes(self, state: str, *tasks: tuple[str, str], run: int = -1) -> None:
        """Let a run be in a state, with tasks as (name, state)."""
        told = self.runs[run]
        told["state"] = state
        told["run_details"] = {"task_details": [_task(told, i, *task) for i, task in enumerate(tasks)]}

    def script(self, *steps: tuple[Any, ...]) -> None:
        """Let the newest run be in one state after another, a step each time it is looked at."""
        self.runs[-1]["script"] = list(steps)

    # -- what it answers -----------------------------------------------------------------------------------------------

    def answer(self, method: str, path: str, query: dict[str, str], body: Any, headers: dict[str, str]) -> Any:
        if self.down > 0:
            self.down -= 1
            raise _error(503, "no endpoints available for service")
        if self.token is not None and headers.get("authorization") != f"Bearer {self.token}":
            raise _error(401, "Request header error: there is no user identity header.")
        collection, _, rest = path.removeprefix(f"{API}/").partition("/")
        name, _, action = rest.partition(":")
        known = {"experiments": self.experiments, "runs": self.runs, "recurringruns": self.recurring_runs}
        if not path.startswith(f"{API}/") or collection not in (*known, "healthz"):
            raise Refusal(404, "404 page not found")
        if collection == "healthz":
            return self.healthz
        return self._of(method, collection, known[collection], name, action, query, body)

    def _of(
        self,
        method: str,
        collection: str,
        items: list[dict[str, Any]],
        name: str,
        action: str,
        query: dict[str, str],
        body: Any,
    ) -> Any:
        if not name:
            return self._create(collection, items, body) if method == "POST" else _listed(collection, items, query)
        found = next((item for item in items if item[_key(collection)] == name), None)
        if found is None:
            raise _error(404, f"{collection} {name} not found")
        if method == "DELETE":
            items.remove(found)
            self.deleted.append((name, query.get("propagation_policy", "")))
            return {}
        if action:
            found |= {"terminate": {"state": "CANCELING"}, "disable": DISABLED, "enable": ENABLED}[action]
            return {}
        return self._told(found)

    def _told(self, found: dict[str, Any]) -> dict[str, Any]:
        script = found.get("script", [])
        if script:
            state, *tasks = script.pop(0)
            self.becomes(state, *tasks, run=self.runs.index(found))
        return {key: value for key, value in found.items() if key != "script"}

    def _create(self, collection: str, items: list[dict[str, Any]], body: dict[str, Any]) -> dict[str, Any]:
        number = next(self._numbers)
        at = (START + timedelta(minutes=number)).isoformat()
        made = {**body, _key(collection): f"{collection}-{number}", "created_at": at}
        if collection == "runs":
            _check(body)
            made["state"] = "PENDING"
        if collection == "recurringruns":
            _check(body)
            _check_cron(body["trigger"]["cron_schedule"]["cron"])
            made |= ENABLED if body["mode"] == "ENABLE" else DISABLED
        items.append(made)
        return made


ENABLED = {"status": "ENABLED", "mode": "ENABLE"}
DISABLED = {"status": "DISABLED", "mode": "DISABLE"}


def _key(collection: str) -> str:
    return {"experiments": "experiment_id", "runs": "run_id", "recurringruns": "recurring_run_id"}[collection]


def _listed(collection: str, items: list[dict[str, Any]], query: dict[str, str]) -> dict[str, Any]:
    wanted = json.loads(unquote_plus(query.get("filter", ""))) if "filter" in query else {}
    found = [item for item in items if all(_holds(p, item) for p in wanted.get("predicates", []))]
    if "experiment_id" in query:
        found = [item for item in found if item.get("experiment_id") == query["experiment_id"]]
    if query.get("sort_by") == "created_at desc":
        found = sorted(found, key=lambda item: str(item["created_at"]), reverse=True)
    begin, size = int(query.get("page_token") or 0), int(query.get("page_size") or 10)
    named = {"recurringruns": "recurringRuns"}.get(collection, collection)
    page: dict[str, Any] = {named: found[begin : begin + size], "total_size": len(found)}
    return page | ({"next_page_token": str(begin + size)} if len(found) > begin + size else {})


def _holds(predicate: dict[str, str], item: dict[str, Any]) -> bool:
    value, text = str(item.get(predicate["key"], "")), predicate["string_value"]
    return {"EQUALS": value == text, "IS_SUBSTRING": text in value}[predicate["operation"]]


def _check(body: dict[str, Any]) -> None:
    """As the real one does when it compiles a pipeline for Argo."""
    given = body["pipeline_spec"]
    spec = json_format.ParseDict(given["pipeline_spec"], PipelineSpec())
    platform = json_format.ParseDict(given["platform_spec"], PlatformSpec())
    options = json_format.MessageToDict(platform.platforms["kubernetes"].deployment_spec).get("executors", {})
    for option in options.values():
        json_format.ParseDict(option, KubernetesExecutorConfig())
    declared, arguments = set(spec.root.input_definitions.parameters), set(body["runtime_config"]["parameters"])
    if unknown := arguments - declared:
        raise _error(400, f"input parameter(s) {sorted(unknown)} not found in pipeline")
    if missing := declared - arguments:
        raise _error(400, f"parameter(s) {sorted(missing)} is missing")


def _check_cron(cron: str) -> None:
    if len(cron.split()) != 6:
        raise _error(400, f"Expected exactly 6 fields, found {len(cron.split())}: {cron}")


def _task(run: dict[str, Any], number: int, name: str, state: str) -> dict[str, Any]:
    begun = START + timedelta(minutes=number)
    over = state in ("SUCCEEDED", "FAILED")
    return {
        "run_id": run["run_id"],
        "task_id": f"{run['run_id']}-task-{number}",
        "display_name": name,
        "state": state,
        "start_time": begun.isoformat(),
        "end_time": (begun + timedelta(seconds=30)).isoformat() if over else "1970-01-01T00:00:00Z",
    }


def _error(status: int, message: str) -> Refusal:
    return Refusal(status, {"error": message, "code": status, "message": message, "details": []})
