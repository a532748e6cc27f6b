"""Fitted estimators as skops files: the same estimator gives the same bytes, and only known types are read back."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from typing import Any

import numpy as np

from evergrow.errors import ServingError

# A ZIP file cannot hold an earlier instant.
_EPOCH = (1980, 1, 1, 0, 0, 0)
_TRUSTED = ("sklearn", "numpy", "scipy")
# A partial holds a function, which is judged by its own package; boosted trees on categories hold one.
_HARMLESS = ("functools.partial",)


def dumps(estimator: Any) -> bytes:
    """Serialise a fitted estimator, without what differs from process to process.

    skops names objects and files by memory address or a random UUID and stamps files with the clock; here they are
    numbered in the order in which they occur, and stamped 1980. Records of trees have gaps between their fields,
    which hold what was in memory before; here they hold zeros.
    """
    import skops.io

    with zipfile.ZipFile(io.BytesIO(skops.io.dumps(estimator))) as dumped:
        schema, files = _renumber(json.loads(dumped.read("schema.json")))
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as normal:
            for old, new in files.items():
                content = _without_padding(dumped.read(old)) if old.endswith(".npy") else dumped.read(old)
                normal.writestr(zipfile.ZipInfo(new, _EPOCH), content, zipfile.ZIP_DEFLATED, 6)
            text = json.dumps(schema, separators=(",", ":"))
            normal.writestr(zipfile.ZipInfo("schema.json", _EPOCH), text, zipfile.ZIP_DEFLATED, 6)
    return buffer.getvalue()


def _without_padding(npy: bytes) -> bytes:
    """An array file whose records have zeros between their fields."""
    array = np.load(io.BytesIO(npy), allow_pickle=False)
    if not array.dtype.names:
        return npy
    clean = np.zeros(array.shape, array.dtype)  # zeros_like and np.save copy field by field and leave the gaps alone
    for name in array.dtype.names:
        clean[name] = array[name]
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(clean))
    return header.getvalue() + clean.tobytes()


def _renumber(schema: Any) -> tuple[Any, dict[str, str]]:
    ids: dict[Any, int] = {}
    files: dict[str, str] = {}

    def visit(node: Any) -> Any:
        if isinstance(node, list):
            return [visit(item) for item in node]
        if not isinstance(node, dict):
            return node
        new = {key: visit(value) for key, value in node.items()}
        if "__id__" in new:
            # Whether two equal constants are one object is an accident of the interpreter: each gets its own number.
            key = object() if new.get("is_json") else new["__id__"]
            new["__id__"] = ids.setdefault(key, len(ids))
        if isinstance(new.get("file"), str):
            suffix = new["file"].rpartition(".")[2]
            new["file"] = files.setdefault(new["file"], f"{len(files)}.{suffix}")
        return new

    return visit(schema), files


def loads(data: bytes, package: str = "") -> Any:
    """Read an estimator back.

    Args:
        data: what `dumps` gave.
        package: the package the estimator's own classes and functions come from, trusted beside scikit-learn,
            NumPy and SciPy; not a part of Python's standard library.

    Raises:
        ServingError: the file names a type of any other package, or is no skops file.
    """
    import skops.io

    if package.partition(".")[0] in sys.stdlib_module_names:
        raise ServingError(f"package {package!r} is Python's own and cannot be trusted as an estimator's")
    try:
        named = skops.io.get_untrusted_types(data=data)
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise ServingError(f"model.skops cannot be read: {type(error).__name__}: {error}") from error
    refuse_foreign(named, package)
    return skops.io.loads(data, trusted=named)


def refuse_foreign(types: list[str], package: str) -> None:
    """Refuse types outside scikit-learn, NumPy, SciPy and the estimator's own package.

    Raises:
        ServingError: names the types.
    """
    allowed = (*_TRUSTED, package) if package else _TRUSTED
    foreign = [t for t in types if t not in _HARMLESS and not any(t.startswith(f"{p}.") for p in allowed)]
    if foreign:
        raise ServingError(
            f"model.skops: types must come from {', '.join(allowed)}, found {', '.join(foreign)}",
            hint="define the estimator's classes in the package of its entrypoint",
        )
