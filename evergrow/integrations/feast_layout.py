"""The bytes Feast writes into online stores: entity keys, hash fields, values and timestamps.

Reading them takes a few struct calls, while importing Feast takes seconds of CPU. The layout is a public format of
Feast (docs/specs/online_store_format.md); only its serialization version 3 is read. Tests compare every function
here with Feast's own serializers.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

KeyValue = str | int | datetime
"""A join key's value; a datetime for UNIX_TIMESTAMP."""

# Numbers of feast.types.ValueType; what a key or a model input can be of.
VALUE_TYPES = {
    "STRING": 2,
    "INT32": 3,
    "INT64": 4,
    "DOUBLE": 5,
    "FLOAT": 6,
    "BOOL": 7,
    "UNIX_TIMESTAMP": 8,
}

_uint32 = struct.Struct("<I").pack
_type_and_length = struct.Struct("<II").pack
_int32 = struct.Struct("<i").pack
_int64 = struct.Struct("<q").pack
_double = struct.Struct("<d").unpack_from
_float = struct.Struct("<f").unpack_from


def _string_key(value: str) -> bytes:
    text = value.encode()
    return _type_and_length(2, len(text)) + text


KEY_ENCODERS: dict[str, Callable[[Any], bytes]] = {
    "STRING": _string_key,
    "INT32": lambda value: _type_and_length(3, 4) + _int32(value),
    "INT64": lambda value: _type_and_length(4, 8) + _int64(value),
    "UNIX_TIMESTAMP": lambda value: _type_and_length(8, 8) + _int64(int(value.timestamp())),
}
"""How a join key's value is written, by its type."""


def key_prefix(join_keys: Sequence[str]) -> bytes:
    """What an entity key begins with: how many join keys there are, and their names, sorted.

    The values follow in the same order, each written by its `KEY_ENCODERS`.
    """
    names = [name.encode() for name in sorted(join_keys)]
    return _uint32(len(names)) + b"".join(_type_and_length(2, len(name)) + name for name in names)


def _varint(data: bytes, start: int) -> tuple[int, int]:
    """An unsigned protobuf varint and the index after it."""
    value = shift = 0
    while True:
        byte = data[start]
        start += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, start
        shift += 7


def _integer(data: bytes) -> int:
    value, _ = _varint(data, 1)
    return value - (1 << 64) if value >> 63 else value


def _string(data: bytes) -> str:
    length, start = _varint(data, 1)
    return data[start : start + length].decode()


def _instant(data: bytes) -> datetime | None:
    seconds = _integer(data)
    return None if seconds == _NO_INSTANT else datetime.fromtimestamp(seconds, UTC)


# What Feast writes for an instant that is missing.
_NO_INSTANT = -(1 << 63)

# By the tag byte: the number of the field in feast.types.Value, and its wire type.
_DECODERS: dict[int, Callable[[bytes], Any]] = {
    0x12: _string,
    0x18: _integer,
    0x20: _integer,
    0x29: lambda data: _double(data, 1)[0],
    0x35: lambda data: _float(data, 1)[0],
    0x38: lambda data: data[1] != 0,
    0x40: _instant,
    0x98: lambda data: None,
}


def decode_value(data: bytes) -> Any:
    """The Python value of a serialized `feast.types.Value`; None for one that holds nothing.

    Raises:
        ValueError: it is of a type that no model input has (bytes, lists, maps), or is not a Value.

    >>> decode_value(bytes.fromhex("29000000000000f03f"))
    1.0
    """
    if not data:
        return None
    try:
        return _DECODERS[data[0]](data)
    except (LookupError, ValueError, OverflowError, OSError, struct.error) as error:
        raise ValueError(f"a stored value must be a scalar of feast.types.Value, found {data[:20]!r}") from error


def decode_timestamp(data: bytes) -> float:
    """Seconds since 1970 of a serialized `google.protobuf.Timestamp`.

    >>> decode_timestamp(bytes.fromhex("080a1080cab5ee01"))
    10.5
    """
    seconds, nanos, at = 0, 0, 0
    while at < len(data):
        tag = data[at]
        value, at = _varint(data, at + 1)
        if tag == 0x08:
            seconds = value - (1 << 64) if value >> 63 else value
        else:
            nanos = value
    return seconds + nanos / 1e9
