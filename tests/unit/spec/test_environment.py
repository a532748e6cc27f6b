"""One environment as a document: what is refused, what a step inherits, and what is generated from it."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest
from pydantic import ValidationError

from evergrow.spec.environment import EnvironmentSpec, StepName, Toleration
from evergrow.spec.schema import json_schema, reference_page, values_schema
from tests.builders import document

ROOT = Path(__file__).parents[3]

SMALLEST: dict[str, Any] = {
    "name": "dev",
    "execution": {"namespace": "evergrow-dev"},
    "data": {"store": "s3://evergrow-dev/state", "mlflow": "http://mlflow.evergrow-platform:5000"},
}

MODEL = {"document": document(name="delays").dump(), "schedules": [{"pipeline": "training", "cron": "0 3 * * 1"}]}
TOLERATION = {"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}


def changed(path: str, value: Any, start: dict[str, Any] = SMALLEST) -> dict[str, Any]:
    """A document with one value at a dotted path, whose maps are made where they are missing."""
    result = copy.deepcopy(start)
    node = result
    *parents, last = path.split(".")
    for key in parents:
        node = node.setdefault(key, {})
    node[last] = value
    return result


FULL = changed("models.delays", MODEL)
FULL = changed("execution.pipelines.stepOverrides.train", {"resources": {"memory": "4Gi"}, "backOff": "1m"}, FULL)
FULL = changed("execution.pipelines.steps.tolerations", [TOLERATION], FULL)
FULL = changed("execution.network.external", [{"cidr": "10.0.0.0/8", "ports": [5432]}], FULL)
FULL = changed("data.endpoint", "http://seaweedfs.evergrow-platform:8333", FULL)


def test_the_smallest_document_needs_a_name_a_namespace_and_two_places():
    assert EnvironmentSpec.model_validate(SMALLEST).execution.pipelines.runner == "kubeflow"
    for path in ("name", "execution.namespace", "data.store", "data.mlflow"):
        *parents, last = path.split(".")
        lacking = copy.deepcopy(SMALLEST)
        (lacking[parents[0]] if parents else lacking).pop(last)
        with pytest.raises(ValidationError, match="Field required"):
            EnvironmentSpec.model_validate(lacking)


@pytest.mark.parametrize("start", [SMALLEST, FULL], ids=["smallest", "full"])
def test_what_is_written_is_read_as_the_same(start):
    spec = EnvironmentSpec.model_validate(start)
    assert EnvironmentSpec.model_validate(spec.dump()) == spec
    assert EnvironmentSpec.model_validate_json(spec.model_dump_json(by_alias=True)) == spec


# -- steps -------------------------------------------------------------------------------------------------------------


def test_an_override_changes_what_it_says_and_inherits_the_rest():
    pipelines = EnvironmentSpec.model_validate(FULL).execution.pipelines
    train, other = pipelines.step("train"), pipelines.step("ingest")
    assert (train.resources.memory, train.back_off) == ("4Gi", timedelta(minutes=1))
    assert (train.resources.cpu, train.timeout, train.tolerations) == (
        other.resources.cpu,
        other.timeout,
        other.tolerations,
    )
    assert other == pipelines.steps
    assert other.resources.memory != "4Gi"


def test_an_override_follows_a_change_of_what_it_does_not_say():
    changed_base = changed("execution.pipelines.steps.retries", 5, FULL)
    assert EnvironmentSpec.model_validate(changed_base).execution.pipelines.step("train").retries == 5


def test_an_override_may_say_the_default_against_other_steps():
    start = changed("execution.pipelines.steps.retries", 5)
    start = changed("execution.pipelines.stepOverrides.deploy", {"retries": 2}, start)
    again = EnvironmentSpec.model_validate(EnvironmentSpec.model_validate(start).dump())
    assert again.execution.pipelines.step("deploy").retries == 2


def test_what_is_written_of_an_override_is_what_was_given():
    dumped = EnvironmentSpec.model_validate(FULL).dump()
    assert dumped["execution"]["pipelines"]["stepOverrides"] == {
        "train": {"resources": {"memory": "4Gi"}, "backOff": "1m"}
    }


def test_every_component_is_a_step_that_can_be_overridden():
    named = {
        line.split("(")[0].removeprefix("def ")
        for file in (ROOT / "components").glob("*/component.py")
        for line in _components(file.read_text(encoding="utf-8"))
    }
    assert named == set(get_args(StepName))


def _components(source: str) -> Iterator[str]:
    lines = source.splitlines()
    yield from (after for line, after in itertools.pairwise(lines) if line.startswith("@component"))


@pytest.mark.parametrize(
    ("runner", "kubeflow_namespace", "namespace", "name"),
    [
        ("pods", "kubeflow", "evergrow-dev", "evergrow-steps"),
        ("kubeflow", "kubeflow", "kubeflow", "evergrow-steps-dev"),
        ("kubeflow", "evergrow-dev", "evergrow-dev", "evergrow-steps"),
    ],
)
def test_names_in_a_namespace_that_environments_share_end_in_the_environments(
    runner, kubeflow_namespace, namespace, name
):
    start = changed("execution.pipelines.runner", runner)
    spec = EnvironmentSpec.model_validate(changed("execution.pipelines.kubeflow.namespace", kubeflow_namespace, start))
    assert spec.steps_namespace == namespace
    assert spec.beside_steps(spec.execution.pipelines.service_account) == name


# -- what is refused ---------------------------------------------------------------------------------------------------

BAD_DOCUMENT = {**MODEL["document"], "spec": {**MODEL["document"]["spec"], "trainig": {}}}

REFUSED_BY_BOTH = [
    ("nmae", "dev"),
    ("execution.namesapce", "x"),
    ("execution.namespace", "Evergrow"),
    ("execution.pipelines.runner", "argo"),
    ("execution.pipelines.steps.resources.memroy", "1Gi"),
    ("execution.pipelines.steps.resources.memory", "1 GB"),
    ("execution.pipelines.steps.tolerations", [{**TOLERATION, "efect": "NoSchedule"}]),
    ("execution.pipelines.steps.tolerations", [{**TOLERATION, "operator": "exists"}]),
    ("execution.pipelines.stepOverrides.trian", {}),
    ("execution.pipelines.stepOverrides.train", {"timeuot": "1h"}),
    ("execution.pipelines.stepOverrides.train", {"resources": {"memroy": "1Gi"}}),
    ("execution.serving.autoscaling.minReplicas", 0),
    ("execution.network.external", [{"cidr": "10.0.0.0", "ports": [443]}]),
    ("execution.network.external", [{"cidr": "10.0.0.0/8", "ports": [0]}]),
    ("execution.network.external", [{"cidr": "10.0.0.0/8", "ports": []}]),
    ("code.images.server", "evergrow/server-python"),
    ("models.Delays", {}),
    ("models.delays.document", BAD_DOCUMENT),
    ("models.delays.document", {"kind": "ContinualModel"}),
    ("models.delays.schedules", [{"pipeline": "trainig", "cron": "0 3 * * 1"}]),
    ("models.delays.schedules", [{"pipeline": "training", "cron": "@daily"}]),
    ("data.store", "evergrow-dev/state"),
    ("data.secrets.credential", "x"),
]


@pytest.mark.parametrize(("path", "value"), REFUSED_BY_BOTH)
def test_the_model_and_the_schemas_refuse_the_same(path, value):
    bad = changed(path, value)
    with pytest.raises(ValidationError):
        EnvironmentSpec.model_validate(bad)
    for schema in (json_schema(EnvironmentSpec), values_schema()):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, schema, jsonschema.Draft202012Validator)


@pytest.mark.parametrize("start", [SMALLEST, FULL], ids=["smallest", "full"])
def test_the_model_and_the_schemas_accept_the_same(start):
    for schema in (json_schema(EnvironmentSpec), values_schema()):
        jsonschema.Draft202012Validator.check_schema(schema)
        jsonschema.validate(start, schema, jsonschema.Draft202012Validator)
        jsonschema.validate(EnvironmentSpec.model_validate(start).dump(), schema, jsonschema.Draft202012Validator)


def test_only_values_may_have_helms_own_key():
    with_global = {**SMALLEST, "global": {}}
    jsonschema.validate(with_global, values_schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(with_global, json_schema(EnvironmentSpec))


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("models.bikes", MODEL, r"`models.bikes.document.metadata.name` must be 'bikes', found 'delays'"),
        ("models.bikes.schedules", MODEL["schedules"], "`document` is required where there are schedules, found 1"),
        ("execution.serving.autoscaling", {"minReplicas": 5}, "maxReplicas must be at least minReplicas, found 3"),
    ],
)
def test_what_no_schema_can_say_is_refused_with_field_rule_and_value(path, value, said):
    with pytest.raises(ValidationError, match=said):
        EnvironmentSpec.model_validate(changed(path, value))


def test_a_toleration_of_any_value_has_none():
    assert Toleration(key="gpu", operator="Exists").value == ""
    assert Toleration(key="gpu", value="a100").operator == "Equal"
    with pytest.raises(ValidationError, match="`value` must be empty with the operator Exists, found 'a100'"):
        Toleration(key="gpu", operator="Exists", value="a100")


# -- what is generated -------------------------------------------------------------------------------------------------


def test_every_key_of_an_environment_is_explained():
    schema = json_schema(EnvironmentSpec)
    silent = [
        f"{part['title']}.{key}"
        for part in [schema, *schema["$defs"].values()]
        for key, field in part.get("properties", {}).items()
        if not field.get("description") and "$ref" not in field and "const" not in field
    ]
    assert silent == []


def test_the_reference_page_shows_every_part_that_has_no_page_of_its_own():
    page = reference_page(EnvironmentSpec)
    within = json_schema()["$defs"]
    for name, part in json_schema(EnvironmentSpec)["$defs"].items():
        is_here = name not in within and name != "ContinualModel"
        assert (f"\n## {name}\n" in page) is is_here, name
        assert all(f"| `{key}` |" in page for key in part["properties"] if is_here)
    assert "[ContinualModel](continualmodel.md)" in page


def test_a_parts_default_is_shown_where_it_differs_from_the_parts_own():
    page = reference_page(EnvironmentSpec)
    assert '| `resources` | [Resources](#resources) | `{"cpuLimit": "1", "memoryLimit": "1Gi"}` |' in page
    assert "| `quota` | [Quota](#quota) | its own |" in page
