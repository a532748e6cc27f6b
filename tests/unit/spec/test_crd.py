"""What an API server is told of the documents. What it makes of that, tests/cluster/test_crds.py asks a real one."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Annotated, Any, Literal

import jsonschema
import pytest
from hypothesis import given
from pydantic import Field, ValidationError

from evergrow.errors import SpecError
from evergrow.spec import ContinualModel, ModelRollout, parse
from evergrow.spec.base import Duration, Part
from evergrow.spec.crd import RESOURCES, crds
from evergrow.spec.rules import RULES, at_least
from evergrow.spec.structural import parts_of, structural
from tests.documents import MODELS, ROLLOUTS, WRONG, Wrong, changed

KINDS = {"ContinualModel": ContinualModel, "ModelRollout": ModelRollout}
DEFINITIONS = crds()
DOCUMENTS = (*MODELS, *ROLLOUTS)


def schema_of(kind: str) -> dict[str, Any]:
    found = next(d for d in DEFINITIONS.values() if d["spec"]["names"]["kind"] == kind)
    schema: dict[str, Any] = found["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema within a schema, with its path."""
    yield path, schema
    for key, field in schema.get("properties", {}).items():
        yield from nodes(field, f"{path}.{key}")
    for key, mark in (("items", "[]"), ("additionalProperties", "{}")):
        if isinstance(schema.get(key), dict):
            yield from nodes(schema[key], path + mark)


EVERYWHERE = [(f"{kind}{path}", node) for kind in KINDS for path, node in nodes(schema_of(kind))]


# -- form --------------------------------------------------------------------------------------------------------------


def test_schemas_are_structural():
    allowed = {
        "type", "description", "properties", "required", "items", "additionalProperties", "default", "nullable", "enum",
        "pattern", "format", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength",
        "minItems", "maxItems", "minProperties", "maxProperties", "x-kubernetes-validations",
        "x-kubernetes-preserve-unknown-fields", "x-kubernetes-list-type", "x-kubernetes-list-map-keys",
    }  # fmt: skip
    for path, node in EVERYWHERE:
        assert set(node) <= allowed, path
        assert "type" in node or node == {"x-kubernetes-preserve-unknown-fields": True}, path
        assert not ("properties" in node and "additionalProperties" in node), path
        if node.get("type") == "object" and not path.endswith(".metadata"):
            closed = {"properties", "additionalProperties", "x-kubernetes-preserve-unknown-fields"} & set(node)
            assert len(closed) == 1, path


def test_every_key_is_explained_in_a_sentence():
    within_metadata = re.compile(r"\.metadata(\.name)?$")
    for path, node in EVERYWHERE:
        if path.endswith(("[]", "{}")) or within_metadata.search(path):
            continue
        assert re.search(r"""[.)"]$""", node.get("description", "")), f"{path}: {node.get('description')!r}"
        assert "\n" not in node["description"], path


def test_no_sentence_is_said_twice():
    for path, node in EVERYWHERE:
        sentences = re.split(r"(?<=\.) (?=[A-Z])", re.sub(r"`[\w-]+`: ", "", node.get("description", "")))
        assert len(set(sentences)) == len(sentences), f"{path}: {node['description']}"


def test_a_default_is_never_given_to_a_kind_that_has_no_such_key():
    for path, node in EVERYWHERE:
        if re.search(r"\.(strategy|window|triggers\[\])$", path):
            assert not [key for key, field in node["properties"].items() if "default" in field], path


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda r: r.plural)
def test_what_is_printed_is_there(resource):
    schema = schema_of(resource.document.__name__)
    for column in resource.columns:
        node, (_, *keys) = schema, column.path.split(".")
        if keys[0] == "metadata":
            continue
        for key in keys:
            node = node["properties"][key]
        assert column.type in (node["type"], "date") or node["type"] == "array", column
        assert (column.type == "date") == (node.get("format") == "date-time"), column


def test_conditions_are_told_apart_by_type():
    for kind in KINDS:
        conditions = schema_of(kind)["properties"]["status"]["properties"]["conditions"]
        assert conditions["x-kubernetes-list-map-keys"] == ["type"]
        assert "type" in conditions["items"]["required"]


def test_only_an_attempt_stays_as_it_was_made():
    unchanging = {
        kind: [r for r in schema_of(kind)["properties"]["spec"]["x-kubernetes-validations"] if "oldSelf" in r["rule"]]
        for kind in KINDS
    }
    assert [len(unchanging[kind]) for kind in KINDS] == [0, 1]


# -- agreement with the models -----------------------------------------------------------------------------------------


def validators() -> set[tuple[str, str]]:
    """Every validator of every part of a document, with its part."""
    parts = set.union(*(parts_of(document) for document in KINDS.values()))
    found = {part: part.__pydantic_decorators__ for part in parts}
    assert not [part for part, its in found.items() if its.field_validators or its.root_validators or its.validators]
    return {(part.__name__, name) for part, its in found.items() for name in its.model_validators}


def test_every_validator_of_the_models_has_rules_and_every_rule_a_validator():
    assert validators() == {(part.__name__, name) for part, named in RULES.items() for name in named}


def test_every_rule_is_broken_by_an_example():
    broken = {(wrong.part, wrong.validator, plain(wrong.message).split(", found")[0]) for wrong in WRONG}
    assert broken == {
        (part.__name__, name, rule.message)
        for part, named in RULES.items()
        for name, rules in named.items()
        for rule in rules
    }


def plain(text: str) -> str:
    """A message without the indices and quotes that CEL cannot say."""
    return re.sub(r"\[\d+\](?=[.`])|'", "", text)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda w: f"{w.part}.{w.validator}")
def test_the_models_refuse_each_example_in_the_words_of_its_rule(wrong: Wrong):
    with pytest.raises(SpecError) as error:
        parse(wrong.document, kind=KINDS[wrong.document["kind"]])
    said = plain(str(error.value)).replace(".0", "")
    assert wrong.message in said
    assert said.count("\n") == 0


def as_json_schema(node: dict[str, Any]) -> dict[str, Any]:
    """A structural schema in the words of JSON schema, draft 4, closed as an API server closes it."""
    made = {key: value for key, value in node.items() if not key.startswith("x-") and key != "nullable"}
    if "properties" in node:
        made["properties"] = {key: as_json_schema(field) for key, field in node["properties"].items()}
        made["additionalProperties"] = False
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), dict):
            made[key] = as_json_schema(node[key])
    return {"anyOf": [made, {"type": "null"}]} if node.get("nullable") else made


VALIDATORS = {kind: jsonschema.Draft4Validator(as_json_schema(schema_of(kind)["properties"]["spec"])) for kind in KINDS}

# What the models refuse by a rule: those of validators, those of durations' bounds, and those of unions' kinds.
BY_RULE = {"value_error", "greater_than_equal", "extra_forbidden", "missing"}


@given(changed(DOCUMENTS))
def test_the_schema_refuses_only_what_the_models_refuse_and_leaves_only_rules_to_say(document):
    refused = [error.message for error in VALIDATORS[document["kind"]].iter_errors(document["spec"])]
    try:
        KINDS[document["kind"]].model_validate(document)
    except ValidationError as error:
        if not refused:
            faults = {fault["type"] for fault in error.errors()}
            assert faults <= BY_RULE, error
    else:
        assert refused == []


def completed(node: Any, schema: dict[str, Any]) -> Any:
    """A document with its defaults, as an API server fills them in."""
    if isinstance(node, dict):
        for key, field in schema.get("properties", {}).items():
            if "default" in field:
                node.setdefault(key, copy.deepcopy(field["default"]))
        each = schema.get("additionalProperties", {})
        return {key: completed(value, schema.get("properties", {}).get(key, each)) for key, value in node.items()}
    return (
        [completed(value, schema["items"]) for value in node] if isinstance(node, list) and "items" in schema else node
    )


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d["kind"])
def test_what_is_filled_in_is_what_the_models_take_for_granted(document):
    kind = KINDS[document["kind"]]
    whole = {
        **document,
        "spec": completed(copy.deepcopy(document["spec"]), schema_of(document["kind"])["properties"]["spec"]),
    }
    assert whole != document
    assert parse(whole, kind=kind) == parse(document, kind=kind)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d["kind"])
def test_a_document_as_the_models_write_it_fits_the_schema(document):
    written = parse(document, kind=KINDS[document["kind"]]).dump()
    VALIDATORS[document["kind"]].validate(written["spec"])


# -- what cannot be said -----------------------------------------------------------------------------------------------


class Inner(Part):
    """A part."""

    kind: Literal["inner"] = "inner"
    size: int = 1
    """How large."""


class Other(Part):
    """Another part."""

    kind: Literal["other"] = "other"
    size: Annotated[int, Field(ge=0)] = 1
    """How large."""


class TwoTypes(Part):
    """Not structural."""

    value: int | str = 1
    """Either."""


class Differing(Part):
    """Not structural."""

    value: Annotated[Inner | Other, Field(discriminator="kind")] = Inner()
    """Either."""


class Above(Part):
    """A bound that there is no rule for."""

    length: Annotated[Duration, Field(lt=timedelta(days=1))] = timedelta()
    """How long."""


class Multiple(Part):
    """A word that such a schema does not have."""

    value: Annotated[int, Field(multiple_of=5)] = 5
    """How many."""


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (TwoTypes, "no unions but those told apart by a field"),
        (Differing, "`size` must have the same type and bounds in all kinds of a union"),
        (Above, "`length`: the bound of a duration must be `ge`, found `lt`"),
        (Multiple, "has no multipleOf"),
    ],
)
def test_what_a_structural_schema_cannot_say_is_told_when_it_is_made(part, message):
    with pytest.raises(ValueError, match=message):
        structural(part)


def test_a_part_that_differs_from_its_own_defaults_says_only_in_what():
    class Outer(Part):
        """A part with a part."""

        inner: Inner = Inner(size=2)
        """It."""
        maybe: Inner | None = Inner()
        """Or not."""

    fields = structural(Outer)["properties"]
    assert fields["inner"]["default"] == {"size": 2}
    assert (fields["maybe"]["default"], fields["maybe"]["nullable"]) == ({}, True)
    assert fields["inner"]["description"] == "A part. It."


@pytest.mark.parametrize("length", [timedelta(), timedelta(days=1, seconds=1)])
def test_a_bound_of_a_duration_that_cannot_be_said_is_refused(length):
    with pytest.raises(ValueError, match=r"must be in \(0s, 1d\]"):
        at_least(length)
