"""Requests to rows: what V1 and V2 bodies must look like, and what is said of those that do not. Pure.

A row is a dict with every field of the schema and no other; a value is of its field's type, or None.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NoReturn

from components.server.refusal import Refusal

Row = dict[str, Any]


class _WrongValueError(ValueError):
    """What a value must be; the caller knows where it stands."""


def _string(value: Any) -> str | None:
    if value.__class__ is str or value is None:
        return value
    raise _WrongValueError("must be a string")


def _integer(bits: int) -> Callable[[Any], int | None]:
    limit = 1 << (bits - 1)

    def read(value: Any) -> int | None:
        if value is None:
            return None
        if value.__class__ is float and value.is_integer():
            value = int(value)
        if value.__class__ is not int:
            raise _WrongValueError("must be a whole number")
        if not -limit <= value < limit:
            raise _WrongValueError(f"must fit into {bits} bits")
        return value

    return read


def _number(value: Any) -> float | None:
    if value is None:
        return None
    if value.__class__ is not float and value.__class__ is not int:
        raise _WrongValueError("must be a number")
    if not math.isfinite(value):
        raise _WrongValueError("must be a finite number; send null for a value that is missing")
    return float(value)


def _boolean(value: Any) -> bool | None:
    if value.__class__ is bool or value is None:
        return value
    raise _WrongValueError("must be true or false")


def _timestamp(value: Any) -> datetime | None:
    if value is None:
        return None
    rule = 'must be ISO 8601 with an offset, such as "2013-10-01T09:30:00-04:00", or seconds since 1970'
    try:
        if value.__class__ is str:
            read = datetime.fromisoformat(value)
            if read.tzinfo is not None:
                return read.astimezone(UTC)
        elif value.__class__ in (int, float):
            return datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError):
        pass
    raise _WrongValueError(rule)


_READERS: Mapping[str, Callable[[Any], Any]] = {
    "STRING": _string,
    "INT32": _integer(32),
    "INT64": _integer(64),
    "FLOAT": _number,
    "DOUBLE": _number,
    "BOOL": _boolean,
    "UNIX_TIMESTAMP": _timestamp,
}

_WHOLE = ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")
_DATATYPES: Mapping[str, tuple[str, ...]] = {
    "STRING": ("BYTES",),
    "INT32": ("INT32", *_WHOLE),
    "INT64": ("INT64", *_WHOLE),
    "FLOAT": ("FP32", "FP64", "FP16", *_WHOLE),
    "DOUBLE": ("FP64", "FP32", "FP16", *_WHOLE),
    "BOOL": ("BOOL",),
    "UNIX_TIMESTAMP": ("BYTES", "INT64", "FP64"),
}
"""The V2 datatypes that a field's tensor may have; the first is the one that the model's metadata name."""


@dataclass(frozen=True)
class Tensor:
    """One V2 input: the values of one field, one per row."""

    name: str
    datatype: str
    shape: Sequence[int]
    data: Sequence[Any]


class Schema:
    """What a request's rows must hold.

    Args:
        fields: type (a name of `feast_layout.VALUE_TYPES`) per field: entity keys and request-time values.
        max_batch: rows that a request may have.
    """

    def __init__(self, fields: Mapping[str, str], max_batch: int) -> None:
        self.fields = dict(fields)
        self.max_batch = max_batch
        self._readers = [(name, _READERS[kind]) for name, kind in fields.items()]
        self._size = len(self.fields)

    def v1(self, body: Any) -> list[Row]:
        """Rows of a V1 body: {"instances": [{field: value, ...}, ...]}."""
        instances = body.get("instances") if body.__class__ is dict else None
        if instances.__class__ is not list or len(body) != 1:
            self._refuse_v1(body)
        self.check_size(len(instances), "instances")
        try:
            return [self._row(instance) for instance in instances]
        except (_WrongValueError, KeyError, TypeError):
            for index, instance in enumerate(instances):
                self._refuse_row(f"instances[{index}]", instance)
            raise

    def v2(self, tensors: Sequence[Tensor]) -> list[Row]:
        """Rows of V2 inputs: one tensor of shape [rows] or [rows, 1] per field."""
        columns = {tensor.name: tensor for tensor in tensors}
        if len(columns) != len(tensors):
            twice = next(t.name for i, t in enumerate(tensors) if t.name in {x.name for x in tensors[:i]})
            raise Refusal(400, f"inputs: {twice!r} occurs twice; send one tensor per field")
        self._refuse_names("inputs", columns)
        rows = len(tensors[0].data) if tensors else 0
        self.check_size(rows, "inputs")
        for number, tensor in enumerate(tensors):
            self._check_tensor(f"inputs[{number}] ({tensor.name})", tensor, rows)
        ordered = [[read(v) for v in self._values(name, read, columns[name])] for name, read in self._readers]
        return [dict(zip(self.fields, values, strict=True)) for values in zip(*ordered, strict=True)]

    def tensors(self) -> list[dict[str, Any]]:
        """The V2 metadata of the inputs."""
        return [{"name": n, "datatype": _DATATYPES[k][0], "shape": [-1]} for n, k in self.fields.items()]

    def _row(self, instance: Any) -> Row:
        if len(instance) != self._size:
            raise KeyError
        return {name: read(instance[name]) for name, read in self._readers}

    def check_size(self, rows: int, where: str) -> None:
        """Refuse no rows, and more than the model takes at once."""
        if rows == 0:
            raise Refusal(400, f"{where}: must have at least one row, found none", "empty")
        if rows > self.max_batch:
            message = f"{where}: must have at most {self.max_batch} rows (`serving.maxBatch`), found {rows}"
            raise Refusal(413, f"{message}; send them in several requests", "too-large")

    def _refuse_v1(self, body: Any) -> NoReturn:
        shape = 'send {"instances": [{' + ", ".join(f'"{name}": ...' for name in self.fields) + "}]}"
        if body.__class__ is not dict:
            raise Refusal(400, f"body: must be a JSON object, found {_kind(body)}; {shape}")
        for key in body:
            if key != "instances":
                raise Refusal(400, f"body: unknown key {_short(key)}{_near(key, ['instances'])}; {shape}")
        if "instances" not in body:
            raise Refusal(400, f"body: `instances` is required; {shape}")
        raise Refusal(400, f"instances: must be a list of objects, found {_kind(body['instances'])}; {shape}")

    def _refuse_row(self, where: str, instance: Any) -> None:
        """Refuse the first fault of one row; return if it has none."""
        if instance.__class__ is not dict:
            raise Refusal(400, f"{where}: must be an object of field names and values, found {_kind(instance)}")
        self._refuse_names(where, instance)
        for name, read in self._readers:
            try:
                read(instance[name])
            except _WrongValueError as error:
                self._refuse_value(f"{where}.{name}", name, error, instance[name])

    def _refuse_names(self, where: str, names: Iterable[str]) -> None:
        names = list(names)
        for name in names:
            if name not in self.fields:
                missing = [known for known in self.fields if known not in names]
                near = _near(name, missing or list(self.fields))
                raise Refusal(400, f"{where}: unknown field {_short(name)}{near}", "unknown-field")
        for name, kind in self.fields.items():
            if name not in names:
                hint = f"add it ({kind}), with null if there is no value"
                raise Refusal(400, f"{where}: field {name!r} is required; {hint}", "required", name)

    def _refuse_value(self, where: str, name: str, error: Exception, value: Any) -> NoReturn:
        raise Refusal(400, f"{where}: {error}, found {_short(value)}", "value", name)

    def _check_tensor(self, where: str, tensor: Tensor, rows: int) -> None:
        allowed = _DATATYPES[self.fields[tensor.name]]
        if tensor.datatype not in allowed:
            wanted = " or ".join(allowed[:2])
            raise Refusal(
                400, f"{where}: datatype must be {wanted}, found {_short(tensor.datatype)}", "value", tensor.name
            )
        if list(tensor.shape) not in ([rows], [rows, 1]) or len(tensor.data) != rows:
            rule = f"must have shape [{rows}], as the first input has values"
            raise Refusal(400, f"{where}: {rule}, found shape {_short(tensor.shape)} and {len(tensor.data)} values")

    def _values(self, name: str, read: Callable[[Any], Any], tensor: Tensor) -> Sequence[Any]:
        """The tensor's values, refused here where the row is known."""
        values = [_text(v) if v.__class__ is bytes else v for v in tensor.data]
        for row, value in enumerate(values):
            try:
                read(value)
            except _WrongValueError as error:
                self._refuse_value(f"input {name}, row {row}", name, error, value)
        return values


def json_tensors(body: Any) -> list[Tensor]:
    """The inputs of a V2 JSON body."""
    inputs = body.get("inputs") if body.__class__ is dict else None
    if inputs.__class__ is not list:
        found = _kind(body) if body.__class__ is not dict else _kind(inputs)
        shape = '{"inputs": [{"name": ..., "shape": [1], "datatype": ..., "data": [...]}]}'
        raise Refusal(400, f"inputs: must be a list of tensors, found {found}; send {shape}")
    return [_json_tensor(f"inputs[{number}]", tensor) for number, tensor in enumerate(inputs)]


def _json_tensor(where: str, tensor: Any) -> Tensor:
    if tensor.__class__ is not dict:
        raise Refusal(400, f"{where}: must be an object, found {_kind(tensor)}")
    for key, kind in (("name", str), ("datatype", str), ("shape", list), ("data", list)):
        if tensor.get(key).__class__ is not kind:
            wanted = "a string" if kind is str else "a list"
            raise Refusal(400, f"{where}: `{key}` must be {wanted}, found {_kind(tensor.get(key))}")
    data = tensor["data"]
    if data and data[0].__class__ is list and all(v.__class__ is list and len(v) == 1 for v in data):
        data = [value for (value,) in data]
    return Tensor(tensor["name"], tensor["datatype"], tensor["shape"], data)


def _text(value: bytes) -> str | bytes:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def _kind(value: Any) -> str:
    """The JSON name of a value's type."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "nothing"}
    return names.get(value.__class__, "a number")


def _short(value: Any) -> str:
    """A value as the message shows it: at most 80 characters."""
    if isinstance(value, dict):
        return "an object"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _near(name: Any, known: Sequence[str]) -> str:
    folded = {k.lower().replace("_", ""): k for k in known}
    exact = folded.get(str(name).lower().replace("_", "").replace("-", ""))
    near = difflib.get_close_matches(str(name)[:100], known, n=1, cutoff=0.6)
    if exact or near:
        return f"; did you mean {exact or near[0]!r}?"
    return f"; the fields are {', '.join(known)}"
