"""The policies of a PolicySet: every combination of its options, each a whole document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import yaml

from evergrow.errors import SpecError
from evergrow.spec import ContinualModel, parse
from evergrow.spec.base import Part
from evergrow.spec.model import ModelSpec
from evergrow.spec.policies import PolicySet, WhatIf


@dataclass(frozen=True)
class Policy:
    """One way to keep a model.

    Attributes:
        options: by choice.
        patch: what it changes in the document's `spec`.
        document: the result.
    """

    options: Mapping[str, str]
    patch: Mapping[str, Any]
    document: ContinualModel

    @property
    def name(self) -> str:
        """Its options, in the order of the choices: "weekly/60d/strict"."""
        return "/".join(self.options.values())


def policies(model: ContinualModel, tried: PolicySet) -> list[Policy]:
    """All of them, the last choice varying fastest.

    Raises:
        SpecError: a patched document is none; names the policy and every fault.
    """
    combined = product(*(options.items() for options in tried.choices.values()))
    return [_policy(model, tried, dict(zip(tried.choices, options, strict=True))) for options in combined]


def reference(tried: PolicySet) -> str:
    """Name of the policy that others are held against."""
    return "/".join(tried.reference.get(choice, next(iter(options))) for choice, options in tried.choices.items())


def supposed(tried: PolicySet, said: Sequence[str]) -> PolicySet:
    """The set with what somebody supposes beside what it supposes itself; of the same key the later one counts.

    Args:
        tried: the set.
        said: each "key=value", of a key of `whatIf`, or of one of every policy's `spec` as a path:
            "retraining.budget.trainings=1". Values are those of YAML.

    Raises:
        SpecError: names the word that is none, and those there are.
    """
    changed: dict[str, Any] = dict(tried.what_if.dump())
    for word in said:
        key, separator, text = word.partition("=")
        first, *others = key.split(".")
        alone = key != "spec" and key in changed
        if not separator or not (alone or (others and first in _keys(ModelSpec))):
            known = ", ".join(name for name in _keys(WhatIf) if name != "spec")
            told = f"must be one of {known}, or a key of spec such as retraining.budget.trainings, as key=value"
            raise SpecError(f"--what-if: {told}, found {word!r}")
        value = _scalar(text)
        for name in reversed(others):
            value = {name: value}
        changed = merged(changed, {key: value} if alone else {"spec": {first: value}})
    return parse({**tried.dump(), "whatIf": changed}, "--what-if", PolicySet)


def _keys(part: type[Part]) -> list[str]:
    return [str(field.alias) for field in part.model_fields.values()]


def _scalar(text: str) -> Any:
    """A number, true or false, or text, as YAML has it."""
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return found if isinstance(found, bool | int | float | str) else text


def merged(target: Any, patch: Any) -> Any:
    """A JSON merge patch applied: RFC 7386, section 2.

    >>> merged({"a": {"b": 1, "c": 2}}, {"a": {"b": None, "d": 3}})
    {'a': {'c': 2, 'd': 3}}
    """
    if not isinstance(patch, Mapping):
        return patch
    found = dict(target) if isinstance(target, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            found.pop(key, None)
        else:
            found[key] = merged(found.get(key), value)
    return found


def _policy(model: ContinualModel, tried: PolicySet, chosen: Mapping[str, tuple[str, Mapping[str, Any]]]) -> Policy:
    options = {choice: name for choice, (name, _) in chosen.items()}
    patch: Mapping[str, Any] = tried.base
    for change in [*(change for _, change in chosen.values()), tried.what_if.spec]:
        # Of two options that say something of the same key the later one counts; null stays, to take a key away.
        patch = _both(patch, change)
    document = model.dump()
    where = f"policy {'/'.join(options.values())}"
    found = parse({**document, "spec": merged(_untagged(document["spec"], patch), patch)}, where)
    return Policy(options, patch, found)


def _both(first: Mapping[str, Any], second: Mapping[str, Any]) -> Mapping[str, Any]:
    """One patch that does what two do one after the other."""
    found = dict(first)
    for key, value in second.items():
        before = found.get(key)
        if isinstance(value, Mapping) and isinstance(before, Mapping) and not _another_kind(before, value):
            found[key] = _both(before, value)
        else:
            found[key] = value
    return found


def _untagged(target: Mapping[str, Any], patch: Mapping[str, Any]) -> Mapping[str, Any]:
    """The target without parts that the patch makes another kind of: a sliding window has nothing of a fixed one."""
    found = dict(target)
    for key, value in patch.items():
        if isinstance(value, Mapping) and isinstance(found.get(key), Mapping):
            found[key] = {} if _another_kind(found[key], value) else _untagged(found[key], value)
    return found


def _another_kind(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    return "kind" in after and after["kind"] != before.get("kind")
