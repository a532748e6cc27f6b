"""The definitions are what an API server takes, and it refuses and completes documents as the models do.

Needs a cluster (KUBECONFIG) and kubectl, and nothing of evergrow on it.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings

from evergrow.errors import SpecError
from evergrow.spec import ContinualModel, ModelRollout, load, parse, stored
from evergrow.spec.base import Part
from evergrow.spec.crd import RESOURCES
from evergrow.spec.model import ModelStatus
from evergrow.spec.rollout import RolloutStatus
from tests.cluster.conftest import ROOT, command, eventually
from tests.documents import (
    MODELS,
    ROLLOUTS,
    STRATEGIES,
    WRONG,
    WRONG_TYPES,
    Document,
    all_changes,
    attempt,
    changed,
    garbled,
    model,
)

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600, func_only=True)]

CRDS = ROOT / "charts/evergrow/crds"
KINDS: dict[str, type[Part]] = {"ContinualModel": ContinualModel, "ModelRollout": ModelRollout}
PLURALS = {resource.document.__name__: resource.plural for resource in RESOURCES}
DOCUMENTS = (*MODELS, *ROLLOUTS)


@dataclass(frozen=True)
class Server:
    """An API server, and a namespace in it."""

    objects: Any
    namespace: str

    def take(self, document: Document, strict: bool = True, dry_run: bool = True) -> Document | str:
        """The object that it makes of a document, or what it says against it."""
        from kubernetes.client import ApiException

        options = {"dry_run": "All"} if dry_run else {}
        try:
            made = self.objects.create_namespaced_custom_object(
                "evergrow.dev",
                "v1alpha1",
                self.namespace,
                PLURALS[document["kind"]],
                document,
                field_validation="Strict" if strict else "Ignore",
                **options,
            )
        except ApiException as error:
            assert error.status in (400, 422), error
            return str(json.loads(error.body)["message"])
        return dict(made)

    def kubectl(self, *arguments: str, check: bool = True) -> str:
        """What kubectl says in the namespace."""
        return command("kubectl", "--namespace", self.namespace, *arguments, check=check)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Given the definitions, which go again if they were not there."""
    from kubernetes import client, config

    assert os.environ.get("KUBECONFIG"), "KUBECONFIG must name a cluster; see docs/how-to/run-on-kind.md"
    config.load_kube_config()
    names = [f"{plural}.evergrow.dev" for plural in PLURALS.values()]
    new = [name for name in names if not command("kubectl", "get", "crd", name, "--ignore-not-found")]
    command("kubectl", "apply", "--server-side", "--force-conflicts", "-f", str(CRDS))
    command("kubectl", "wait", "--for=condition=Established", *(f"crd/{name}" for name in names))
    namespace = f"crd-try-{uuid.uuid4().hex[:6]}"
    command("kubectl", "create", "namespace", namespace)
    server = Server(client.CustomObjectsApi(client.ApiClient()), namespace)
    # A definition is in force a moment after it was made, in each replica of the API server.
    for example in (attempt(), model()):
        eventually(lambda example=example: _is_served(server, example))
    yield server
    command("kubectl", "delete", "namespace", namespace)
    for name in new:
        command("kubectl", "delete", "crd", name)


def _is_served(server: Server, document: Document) -> bool:
    try:
        return isinstance(server.take(document), dict)
    except AssertionError:
        return False


def as_read(document: Document) -> Part | None:
    """What the models make of a document; None if they refuse it."""
    try:
        return parse(document, kind=KINDS[document["kind"]])
    except SpecError:
        return None


# -- refused alike -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", WRONG, ids=lambda w: f"{w.part}.{w.validator}")
def test_each_rule_refuses_its_example_at_its_field_in_the_words_of_the_models(server, wrong):
    said = server.take(wrong.document)
    assert isinstance(said, str)
    assert f"{wrong.path}: " in said
    assert wrong.message in said


@pytest.mark.parametrize(("document", "message"), WRONG_TYPES, ids=[message for _, message in WRONG_TYPES])
def test_what_is_of_a_wrong_type_is_refused_at_its_field(server, document, message):
    said = server.take(document)
    assert isinstance(said, str)
    assert message in said
    assert as_read(document) is None


def disagreement(server: Server, document: Document) -> str:
    """How an API server and the models differ over a document; empty if they do not."""
    answer, read = server.take(document), as_read(document)
    if isinstance(answer, str):
        return "" if read is None else f"refused by the API server alone: {answer}"
    if read is None:
        return "refused by the models alone"
    return "" if stored(answer, KINDS[document["kind"]]) == read else f"completed in another way: {answer['spec']}"


@pytest.mark.parametrize("kind", KINDS)
def test_after_any_single_change_an_api_server_and_the_models_say_the_same(server, kind):
    documents = all_changes([document for document in DOCUMENTS if document["kind"] == kind])
    assert [(told, document) for document in documents if (told := disagreement(server, document))] == []


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(changed(DOCUMENTS))
def test_after_several_changes_they_say_the_same(server, document):
    assert disagreement(server, document) == ""


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(garbled(DOCUMENTS))
def test_whatever_an_api_server_stores_can_be_read(server, document):
    for strict in (True, False):
        answer = server.take(document, strict)
        if isinstance(answer, dict):
            stored(answer, KINDS[document["kind"]])


@pytest.mark.parametrize("file", sorted((ROOT / "models").glob("*/model.yaml")), ids=lambda file: file.parent.name)
def test_our_own_models_are_taken(server, file):
    answer = server.take(yaml.safe_load(file.read_text(encoding="utf-8")))
    assert isinstance(answer, dict), answer
    assert stored(answer, ContinualModel) == load(file)


def test_a_key_that_is_not_known_is_refused_or_dropped_as_the_sender_says(server):
    document = model({"evaluation": {"holdot": "3d"}})
    assert 'unknown field "spec.evaluation.holdot"' in server.take(document)
    taken = server.take(document, strict=False)
    assert "holdot" not in taken["spec"]["evaluation"]


def test_a_null_that_means_nothing_is_dropped_where_the_models_refuse_it(server):
    document = attempt({"reason": None})
    assert as_read(document) is None
    assert server.take(document)["spec"]["reason"] == ""


@pytest.mark.parametrize("wrong", [{"cron": "0 3 30 2 *"}, {"cron": "0 3 * * *", "timeZone": "Mars/Base"}])
def test_what_takes_a_calendar_to_see_is_refused_by_the_models_alone(server, wrong):
    document = model({"retraining": {"triggers": [{"kind": "schedule", **wrong}]}})
    assert isinstance(server.take(document), dict)
    assert as_read(document) is None


def test_a_null_that_means_something_is_kept(server):
    analysis = server.take(attempt({"rollout": {"analysis": {"disagreement": None}}}))["spec"]["rollout"]["analysis"]
    assert analysis["disagreement"] is None
    assert analysis["latency"] == {"milliseconds": 1000, "late": 0.01}


# -- an object's life --------------------------------------------------------------------------------------------------


@pytest.fixture
def made(server: Server) -> Iterator[Callable[[Document], str]]:
    """Makes an object; its resource and name."""
    names = []

    def make(document: Document) -> str:
        assert isinstance(server.take(document, dry_run=False), dict)
        names.append(f"{PLURALS[document['kind']]}/{document['metadata']['name']}")
        return names[-1]

    yield make
    for name in names:
        server.kubectl("delete", name)


def test_an_attempt_cannot_be_changed_but_told_what_became_of_it(server, made):
    name = made(attempt({"rollout": {"strategy": STRATEGIES["canary"]}}))
    for change in ('{"spec": {"candidates": [5]}}', '{"spec": {"reason": "another"}}'):
        said = server.kubectl("patch", name, "--type=merge", "-p", change, check=False)
        assert "spec: Forbidden: cannot be changed; make another ModelRollout" in said
    server.kubectl("annotate", name, "note=seen")
    server.kubectl("patch", name, "--type=merge", "-p", '{"status": {"phase": "Promoted"}}')
    assert server.kubectl("get", name, "-o", "jsonpath={.status.phase}") == "", "only who writes the status does"


def test_a_model_can_be_changed(server, made):
    name = made(model())
    server.kubectl("patch", name, "--type=merge", "-p", '{"spec": {"training": {"seed": 3}}}')
    assert server.kubectl("get", name, "-o", "jsonpath={.spec.training.seed}") == "3"
    said = server.kubectl("patch", name, "--type=merge", "-p", '{"spec": {"task": "regression"}}', check=False)
    assert "`evaluation.gate.metric` must be one of mae, squared_error, poisson_deviance" in said


CONDITION = {
    "type": "Ready",
    "status": "True",
    "reason": "Serving",
    "message": "v3 answers",
    "lastTransitionTime": "2026-03-01T12:00:00Z",
    "observedGeneration": 1,
}
FINDING = {"check": "loss", "candidate": 4, "outcome": "inconclusive", "reason": "0.41 against 0.40", "low": -0.02}
MODEL_STATUS = {
    "phase": "RollingOut",
    "serving": 3,
    "candidate": 4,
    "trainedOn": "2026-02-01T00:00:00.5Z",
    "decision": "retrain: 3,200 new labelled rows, trigger at 3,000",
    "conditions": [CONDITION],
    "observedGeneration": 1,
}
ROLLOUT_STATUS = {
    "phase": "Progressing",
    "step": 1,
    "stable": 3,
    "weights": {"3": 75, "4": 25},
    "split": "v3 75 / v4 25",
    "started": "2026-03-01T12:00:00Z",
    "reason": "loss: 0.41 against 0.40, n=900",
    "findings": [FINDING],
    "conditions": [CONDITION],
}


@pytest.mark.parametrize(
    ("document", "status", "kind", "printed"),
    [
        (
            model(),
            MODEL_STATUS,
            ModelStatus,
            ["NAME", "SERVING", "CANDIDATE", "PHASE", "MODEL AGE", "LAST DECISION", "AGE"],
        ),
        (
            attempt({"rollout": {"strategy": STRATEGIES["canary"]}}),
            ROLLOUT_STATUS,
            RolloutStatus,
            ["NAME", "MODEL", "CANDIDATES", "STRATEGY", "PHASE", "STEP", "WEIGHTS", "AGE"],
        ),
    ],
    ids=["ContinualModel", "ModelRollout"],
)
def test_a_status_is_kept_as_the_models_write_it_and_printed(server, made, document, status, kind, printed):
    name = made(document)
    written = kind.model_validate(status).dump()
    patch = json.dumps({"status": written})
    server.kubectl("patch", name, "--subresource=status", "--type=merge", "-p", patch)
    found = json.loads(server.kubectl("get", name, "-o", "json"))
    assert kind.model_validate(found["status"]) == kind.model_validate(status)
    assert stored(found, KINDS[document["kind"]]).name == document["metadata"]["name"]
    heading, row = server.kubectl("get", name).splitlines()
    assert " ".join(heading.split()) == " ".join(printed)
    for text in (status["phase"], status.get("split", status.get("decision"))):
        assert text in row
    server.kubectl("wait", name, "--for=condition=Ready", "--timeout=5s")
    assert name.partition("/")[2] in server.kubectl("get", "evergrow")


@pytest.mark.parametrize("kind", KINDS)
def test_every_part_is_explained(server, kind):
    explained = eventually(lambda: server.kubectl("explain", f"{PLURALS[kind]}.spec", "--recursive", check=False), 30)
    assert "FIELDS" in explained
    strategy = server.kubectl("explain", f"{PLURALS[kind]}.spec.rollout.strategy.steps")
    assert "In their order; each weight larger than the one before." in " ".join(strategy.split())


def test_what_is_installed_is_what_is_generated(server):
    for file in CRDS.glob("*.yaml"):
        wanted = yaml.safe_load(file.read_text(encoding="utf-8"))
        found = json.loads(server.kubectl("get", "crd", wanted["metadata"]["name"], "-o", "json"))
        (version,), (wanted_version,) = found["spec"]["versions"], wanted["spec"]["versions"]
        assert version["schema"] == wanted_version["schema"], "nothing of it was dropped"
        assert not [c for c in found["status"]["conditions"] if c["type"] == "NonStructuralSchema"]


def test_an_answer_takes_no_longer_for_its_rules(server):
    """The largest documents that are allowed, refused by the rules that look through all of it."""
    steps = [{"weight": i + 1} for i in range(20)]
    columns = [f"{i:0253}" for i in range(1000)]
    large = model(
        {
            "label": {"key": columns[-50:]},
            "serving": {"log": {"leftOut": columns}},
            "rollout": {"strategy": {"kind": "canary", "steps": steps[::-1]}},
        }
    )
    begun = time.monotonic()
    said = server.take(large)
    assert "`label.key`: must be columns" in said
    assert "rising weights" in said
    assert time.monotonic() - begun < 2
