"""The CustomResourceDefinitions of the documents, by which an API server accepts, refuses, completes and explains them.

An API server refuses what the models refuse, in their words, but for what is said in another object. It differs in
four things: it knows a key by one spelling and a value by one type, where the models also read `minimum_rows` and "5";
it drops a `null` that has no meaning, where they refuse it; keys that it does not know it refuses or drops, as who
sends them says (`kubectl --validate`); and it has no calendar, so that time zones that there are not and schedules that
are never due are refused by them alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evergrow.spec.base import Part
from evergrow.spec.model import API_VERSION, ContinualModel, ModelStatus
from evergrow.spec.rollout import ModelRollout, RolloutStatus
from evergrow.spec.rules import Rule
from evergrow.spec.structural import Schema, add_rules, structural


@dataclass(frozen=True)
class Column:
    """What `kubectl get` prints of an object."""

    name: str
    path: str
    meaning: str
    type: str = "string"
    wide: bool = False

    def dump(self) -> Schema:
        """As `additionalPrinterColumns` has it."""
        made = {"name": self.name, "type": self.type, "jsonPath": self.path, "description": self.meaning}
        return {**made, "priority": 1} if self.wide else made


@dataclass(frozen=True)
class Resource:
    """A document as a resource of Kubernetes."""

    document: type[Part]
    status: type[Part]
    short_name: str
    columns: tuple[Column, ...]
    is_unchanging: bool = False
    """Whether `spec` stays as it was made."""

    @property
    def plural(self) -> str:
        """Its name in URLs."""
        return f"{self.document.__name__.lower()}s"


_AGE = Column("Age", ".metadata.creationTimestamp", "When the object was made.", "date")
RESOURCES = (
    Resource(
        ContinualModel,
        ModelStatus,
        "cmodel",
        (
            Column("Serving", ".status.serving", "The version that callers are answered by.", "integer"),
            Column("Candidate", ".status.candidate", "The version that is taking over.", "integer"),
            Column("Phase", ".status.phase", "Where the model is."),
            Column("Model Age", ".status.trainedOn", "How long ago what the serving version learnt ends.", "date"),
            Column("Last Decision", ".status.decision", "What was decided last, and why."),
            _AGE,
        ),
    ),
    Resource(
        ModelRollout,
        RolloutStatus,
        "mro",
        (
            Column("Model", ".spec.model", "The ContinualModel."),
            Column("Candidates", ".spec.candidates", "Versions that are new."),
            Column("Strategy", ".status.rollout.strategy.kind", "By which steps; nothing until it begins."),
            Column("Phase", ".status.phase", "Where it is."),
            Column("Step", ".status.step", "Which step of the strategy, from 0.", "integer"),
            Column("Weights", ".status.split", "Percent of the traffic by version."),
            Column("Reason", ".status.reason", "Why it is where it is.", wide=True),
            _AGE,
        ),
        is_unchanging=True,
    ),
)


def crds() -> dict[str, dict[str, Any]]:
    """The definitions, by plural name."""
    return {resource.plural: _definition(resource) for resource in RESOURCES}


def _definition(resource: Resource) -> Schema:
    group, version = API_VERSION.split("/")
    kind = resource.document.__name__
    names = {
        "kind": kind,
        "listKind": f"{kind}List",
        "plural": resource.plural,
        "singular": kind.lower(),
        "shortNames": [resource.short_name],
        "categories": ["evergrow"],
    }
    served = {
        "name": version,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": _schema(resource)},
        "subresources": {"status": {}},
        "additionalPrinterColumns": [column.dump() for column in resource.columns],
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{resource.plural}.{group}",
            "labels": {"app.kubernetes.io/name": "evergrow", "app.kubernetes.io/part-of": "evergrow"},
        },
        "spec": {"group": group, "names": names, "scope": "Namespaced", "versions": [served]},
    }


def _schema(resource: Resource) -> Schema:
    """The document's, where Kubernetes sees to version, kind and metadata, and whoever works on it to the status."""
    schema = structural(resource.document)
    fields = schema["properties"]
    for key in ("apiVersion", "kind"):
        del fields[key]["enum"]
    fields["metadata"] = {"type": "object", "properties": {"name": _limits(fields["metadata"]["properties"]["name"])}}
    fields["status"] = structural(resource.status)
    fields["status"]["properties"]["conditions"] |= {
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
    }
    if resource.is_unchanging:
        words = f"cannot be changed; make another {resource.document.__name__}"
        add_rules(fields["spec"], [Rule("self == oldSelf", words, reason="FieldValueForbidden")])
    return {**schema, "required": ["spec"]}


def _limits(name: Mapping[str, Any]) -> Schema:
    return {key: name[key] for key in ("type", "pattern", "maxLength")}
