"""Reading documents: YAML in, the document or an error that names path, rule and value out."""

from __future__ import annotations

import contextlib
import difflib
import json
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, overload

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from evergrow.errors import SpecError
from evergrow.spec.base import Part, write_duration
from evergrow.spec.model import ContinualModel

Document = TypeVar("Document", bound=Part)


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML lets a key occur twice and keeps the last; a document that does so is a mistake."""


def _unique_mapping(loader: _UniqueKeyLoader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=deep)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} occurs twice", key_node.start_mark)
        seen.add(key)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=deep)


_UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)


@overload
def load(path: str | Path) -> ContinualModel: ...
@overload
def load(path: str | Path, kind: type[Document]) -> Document: ...
def load(path: str | Path, kind: type[Part] = ContinualModel) -> Part:
    """Read a document from a YAML file.

    Args:
        path: of the file.
        kind: ContinualModel or ModelRollout.

    Raises:
        SpecError: the file is missing, is not YAML, or is no document of that kind; lists every fault.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}") from error
    return parse(text, str(path), kind)


@overload
def parse(document: Any, where: str = "document") -> ContinualModel: ...
@overload
def parse(document: Any, where: str = "document", kind: type[Document] = ...) -> Document: ...
def parse(document: Any, where: str = "document", kind: type[Part] = ContinualModel) -> Part:
    """Read a document from a mapping, or from its text in YAML (and so in JSON).

    Args:
        document: the mapping or the text.
        where: what its faults are told of.
        kind: ContinualModel or ModelRollout.

    Raises:
        SpecError: lists every fault as "path: rule, found value", with the nearest known key for an unknown one.
    """
    if isinstance(document, str):
        document = _read(document, where)
    if not isinstance(document, Mapping):
        raise SpecError(f"{where}: must be a mapping, found {type(document).__name__}")
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        faults = [describe(fault, document, kind) for fault in error.errors()]
        raise SpecError(f"{where}: " + f"\n{where}: ".join(faults)) from error


def stored(found: Mapping[str, Any], kind: type[Document]) -> Document:
    """Read a document as an API server keeps it, without what it has added to `metadata` and what has become of it.

    Raises:
        SpecError: lists every fault.
    """
    known = {field.alias for field in kind.model_fields.values()}
    own = {key: value for key, value in found.items() if key in known}
    metadata = {key: found["metadata"][key] for key in ("name", "labels", "annotations") if key in found["metadata"]}
    return parse({**own, "metadata": metadata}, f"{found['kind']} {metadata['name']}", kind)


def _read(text: str, where: str) -> Any:
    # JSON first, though YAML reads it: to YAML 1.1, JSON's 1e-05 is a string.
    with contextlib.suppress(ValueError):
        return json.loads(text)
    try:
        return yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise SpecError(f"{where}: is not YAML: {error}") from error


def describe(fault: ErrorDetails, document: Mapping[str, Any], kind: type[Part] = ContinualModel) -> str:
    """One fault as "path: rule, found value"."""
    path = _walk(fault["loc"], document)
    if fault["type"] == "extra_forbidden":
        return f"{path}: unknown key{_near_miss(str(fault['loc'][-1]), fault['loc'][:-1], kind)}"
    if fault["type"] == "missing":
        return f"{path}: is required"
    message = fault["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    found = fault["input"]
    # A duration is read before its bounds are looked at.
    found = write_duration(found) if isinstance(found, timedelta) else found
    return f"{path}: {message}" if "found" in message else f"{path}: {message}, found {found!r}"


def _walk(location: tuple[int | str, ...], document: Any) -> str:
    """The path as written; union tags are not part of it."""
    path, node = "", document
    for i, step in enumerate(location):
        present = (isinstance(node, Mapping) and step in node) or (
            isinstance(node, list) and isinstance(step, int) and step < len(node)
        )
        if not present and i < len(location) - 1:
            continue
        path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else str(step)
        node = node[step] if present else None
    return path or "document"


def _near_miss(key: str, location: tuple[int | str, ...], kind: type[Part]) -> str:
    known = known_keys(location, kind)
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    folded = [k for k in known if k.lower() == key.replace("_", "").replace("-", "").lower()]
    if folded or near:
        return f"; did you mean `{(folded or near)[0]}`?"
    return f"; known here: {', '.join(known)}" if known else ""


def known_keys(location: tuple[int | str, ...], kind: type[Part] = ContinualModel) -> list[str]:
    """The keys a document may have at a location, from the JSON schema."""
    schema = kind.model_json_schema()
    node: Mapping[str, Any] = schema
    for step in location:
        node = _resolve(node, schema, step)
        node = node.get("items", {}) if isinstance(step, int) else node.get("properties", {}).get(step, node)
    return list(_resolve(node, schema, None).get("properties", {}))


def _resolve(node: Mapping[str, Any], schema: Mapping[str, Any], tag: int | str | None) -> Mapping[str, Any]:
    """Follow a reference, or the branch of a union: the tagged one, else the first that is an object."""
    if "$ref" in node:
        found: Mapping[str, Any] = schema["$defs"][node["$ref"].rsplit("/", 1)[-1]]
        return found
    mapping = node.get("discriminator", {}).get("mapping", {})
    if tag in mapping:
        return _resolve({"$ref": mapping[tag]}, schema, None)
    branches = [_resolve(branch, schema, None) for branch in node.get("anyOf", [])]
    return next((b for b in branches if "properties" in b), node)
