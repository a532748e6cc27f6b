"""Parts as structural schemas, the portion of OpenAPI 3.0 that Kubernetes keeps definitions of resources in.

It has no references and no unions. So a part is written out wherever it is used, and a union becomes one object with
the fields of all its kinds and rules that say which belong to which. A default of a field that only some kinds have is
told in its description: an API server would give it to the others, too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any, get_args

from evergrow.spec.base import Part
from evergrow.spec.rules import RULES, Rule, at_least

Schema = dict[str, Any]

_KEPT = (
    *("type", "enum", "pattern", "format", "minimum", "maximum"),
    *("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"),
)
_EXCLUSIVE = {"exclusiveMinimum": "minimum", "exclusiveMaximum": "maximum"}
_READ_ELSEWHERE = {"title", "description", "examples", "default", "items", "additionalProperties"}
_ANYTHING = {"x-kubernetes-preserve-unknown-fields": True}


def structural(part: type[Part]) -> Schema:
    """The structural schema of a part.

    Raises:
        ValueError: it has something that such a schema has no words for.
    """
    return _Writer(part).part(part.__name__)


def add_rules(schema: Schema, rules: Iterable[Rule]) -> None:
    """Add rules to a schema."""
    if told := [rule.dump() for rule in rules]:
        schema["x-kubernetes-validations"] = [*schema.get("x-kubernetes-validations", ()), *told]


def parts_of(part: type[Part]) -> set[type[Part]]:
    """A part and all those within it."""
    found, ahead = set(), [part]
    while ahead:
        found.add(current := ahead.pop())
        ahead += [p for f in current.model_fields.values() for p in _within(f.annotation) if p not in found]
    return found


def _within(annotation: Any) -> Iterator[type[Part]]:
    if isinstance(annotation, type) and issubclass(annotation, Part):
        yield annotation
    for inner in get_args(annotation):
        yield from _within(inner)


class _Writer:
    """Rewrites the JSON schema (draft 2020-12) of a part and those within it."""

    def __init__(self, part: type[Part]) -> None:
        schema = part.model_json_schema(by_alias=True)
        self.nodes: Mapping[str, Schema] = {**schema.get("$defs", {}), part.__name__: schema}
        self.classes = {each.__name__: each for each in parts_of(part)}

    def part(self, name: str) -> Schema:
        """An object with its fields and rules."""
        node, bounds = self.nodes[name], _bounds(self.classes[name])
        fields = {key: self.field(field) for key, field in node["properties"].items()}
        for key, shortest in bounds.items():
            add_rules(fields[key], [at_least(shortest)])
        made: Schema = {"type": "object", "description": _line(node["description"])}
        if "required" in node:
            made["required"] = node["required"]
        made["properties"] = fields
        add_rules(made, self.rules(name))
        return made

    def rules(self, name: str) -> list[Rule]:
        """Those of a part's validators."""
        return [rule for rules in RULES.get(self.classes[name], {}).values() for rule in rules]

    def field(self, node: Schema) -> Schema:
        """What a field is, in the words of its part and then in its own."""
        made = self.value(node)
        texts = dict.fromkeys((made.pop("description", ""), _line(node.get("description", ""))))
        text = " ".join(filter(None, texts))
        default = self.default(node)
        return {
            **({"description": text} if text else {}),
            **made,
            **({} if default is None else {"default": default}),
        }

    def value(self, node: Schema) -> Schema:
        """What a field may hold."""
        if "$ref" in node:
            return self.part(_name(node))
        if "oneOf" in node:
            return self.union(node)
        if "anyOf" in node:
            return {**self.value(_but_null(node)), "nullable": True}
        if "const" in node:
            return {"type": node["type"], "enum": [node["const"]]}
        if strange := set(node) - {*_KEPT, *_EXCLUSIVE, *_READ_ELSEWHERE}:
            raise ValueError(f"a structural schema has no {', '.join(sorted(strange))}, found {node}")
        made = {key: node[key] for key in _KEPT if key in node}
        for exclusive, bound in _EXCLUSIVE.items():
            made |= {bound: node[exclusive], exclusive: True} if exclusive in node else {}
        return made | self.inner(node)

    def inner(self, node: Schema) -> Schema:
        """What a list or a map may hold; what has no type may be anything."""
        if "items" in node:
            return {"items": self.field(node["items"])}
        if isinstance(values := node.get("additionalProperties"), Mapping):
            return {"additionalProperties": self.field(dict(values))}
        return _ANYTHING if values or "type" not in node else {}

    def default(self, node: Schema) -> Any:
        """A field's default; of a part, only what differs from its own fields' defaults, which are filled in anyway."""
        value, part = node.get("default"), _but_null(node)
        if value is None or "$ref" not in part:
            return value
        fields = self.nodes[_name(part)]["properties"]
        return {key: given for key, given in value.items() if given != fields[key].get("default")}

    def union(self, node: Schema) -> Schema:
        """One object for all kinds of a union."""
        tag = node["discriminator"]["propertyName"]
        kind_of = {ref: kind for kind, ref in node["discriminator"]["mapping"].items()}
        names = {kind_of[branch["$ref"]]: _name(branch) for branch in node["oneOf"]}
        kinds = {kind: self.part(name) for kind, name in names.items()}
        fields: dict[str, dict[str, Schema]] = {}
        for kind, part in kinds.items():
            for key, field in part["properties"].items():
                fields.setdefault(key, {})[kind] = field
        del fields[tag]
        told = " ".join(f"`{kind}`: {part['description']}" for kind, part in kinds.items())
        made: Schema = {"type": "object", "required": [tag]}
        made["properties"] = {tag: {"description": told, "type": "string", "enum": list(kinds)}}
        made["properties"] |= {key: _merged(key, variants) for key, variants in fields.items()}
        add_rules(made, _whose(tag, kinds, fields))
        for kind, name in names.items():
            add_rules(made, (rule.only_if(f"self.{tag} == {json.dumps(kind)}") for rule in self.rules(name)))
        return made


def _merged(key: str, variants: Mapping[str, Schema]) -> Schema:
    """The field that several kinds of a union have. It may be null if it may in all of them.

    Raises:
        ValueError: they differ in more than meaning and default.
    """
    told = ("description", "default", "nullable")
    bare = {kind: {k: v for k, v in field.items() if k not in told} for kind, field in variants.items()}
    made, *others = bare.values()
    if any(other != made for other in others):
        raise ValueError(f"`{key}` must have the same type and bounds in all kinds of a union, found {bare}")
    texts: dict[str, list[str]] = {}
    for kind, field in variants.items():
        default = f" Default: {json.dumps(field['default'])}." if "default" in field else ""
        texts.setdefault(f"{field['description']}{default}", []).append(f"`{kind}`")
    text = " ".join(f"{', '.join(kinds)}: {text}" for text, kinds in texts.items())
    nullable = {"nullable": True} if all("nullable" in field for field in variants.values()) else {}
    return {"description": text, **made, **nullable}


def _whose(tag: str, kinds: Mapping[str, Schema], fields: Mapping[str, Mapping[str, Schema]]) -> Iterator[Rule]:
    """Which fields belong to which kinds, and which of them a kind must have."""
    for key, having in fields.items():
        if set(having) != set(kinds):
            yield Rule(
                f"!has(self.{key}) || self.{tag} in {json.dumps(list(having))}",
                f"`{key}` is for {tag} {' or '.join(having)}",
                found=f"self.{tag}",
                at=f".{key}",
                reason="FieldValueForbidden",
            )
    for kind, part in kinds.items():
        for key in part.get("required", ()):
            yield Rule(
                f"has(self.{key})", f"`{key}` is required for {tag} {kind}", at=f".{key}", reason="FieldValueRequired"
            ).only_if(f"self.{tag} == {json.dumps(kind)}")


def _bounds(part: type[Part]) -> dict[str, timedelta]:
    """The lower bounds of a part's durations, of which JSON schemas do not tell.

    Raises:
        ValueError: a duration has a bound of another kind.
    """
    found = {}
    for field in part.model_fields.values():
        for bound in field.metadata:
            for sign in ("ge", "gt", "le", "lt"):
                if isinstance(limit := getattr(bound, sign, None), timedelta):
                    if sign != "ge":
                        raise ValueError(f"`{field.alias}`: the bound of a duration must be `ge`, found `{sign}`")
                    found[str(field.alias)] = limit
    return found


def _but_null(node: Schema) -> Schema:
    """The field without null, if it may be null.

    Raises:
        ValueError: it may be of several types.
    """
    if "anyOf" not in node:
        return node
    some, *others = (branch for branch in node["anyOf"] if branch.get("type") != "null")
    if others:
        raise ValueError(f"a structural schema has no unions but those told apart by a field, found {node['anyOf']}")
    return dict(some)


def _name(node: Schema) -> str:
    return str(node["$ref"]).rsplit("/", 1)[-1]


def _line(text: str) -> str:
    return " ".join(text.split())
