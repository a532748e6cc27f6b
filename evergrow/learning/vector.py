"""From named values to the float32 vector an estimator takes: one code path for training and serving.

A number stays itself, a categorical level becomes its code, and whatever is missing, or a level never fitted on,
becomes NaN; a feature that the model was not fitted on is 0, whatever its value. Columns stand in the order of the
model's features, whatever order the values come in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evergrow.contracts import Feature
from evergrow.errors import RequestError

Encoder = Callable[[Any], float]


def blanked(X: NDArray[np.float32], columns: Iterable[int]) -> NDArray[np.float32]:
    """Rows with 0 in some columns, [n, k]: an estimator that is fitted and asked so knows nothing of them."""
    blank = list(columns)
    if not blank:
        return X
    X = X.copy()
    X[:, blank] = 0
    return X


class Vectoriser:
    """Turns rows (at serving) or columns (at training) into float32 [n, k].

    >>> v = Vectoriser([Feature(name="wind", kind="numeric"), Feature(name="origin", kind="categorical")],
    ...                {"origin": ("EWR", "JFK")})
    >>> v.rows([{"origin": "JFK", "wind": 3}, {"origin": "nowhere"}]).tolist()
    [[3.0, 1.0], [nan, nan]]
    """

    def __init__(
        self, features: Sequence[Feature], categories: Mapping[str, Sequence[str]], left_out: Collection[str] = ()
    ) -> None:
        self.names = tuple(f.name for f in features)
        self._blank = [i for i, name in enumerate(self.names) if name in left_out]
        self._levels = {name: {level: float(i) for i, level in enumerate(c)} for name, c in categories.items()}
        self._encoders = tuple(
            (f.name, _coder(self._levels[f.name]) if f.kind == "categorical" else number) for f in features
        )

    def rows(self, rows: Sequence[Mapping[str, Any]]) -> NDArray[np.float32]:
        """One vector per row; a key that is absent is missing, keys that are no feature are ignored.

        Raises:
            RequestError: a value has the wrong type or is infinite in single precision.
        """
        encoders = self._encoders
        try:
            values = [[encode(row.get(name)) for name, encode in encoders] for row in rows]
        except (TypeError, ValueError):
            raise self._culprit(rows) from None
        with np.errstate(over="ignore"):
            X = self._finite(np.array(values, dtype=np.float32).reshape(len(rows), len(encoders)))
        return blanked(X, self._blank)

    def columns(self, columns: Any) -> NDArray[np.float32]:
        """The same of a DataFrame, or a mapping from names to columns; every feature must be there.

        Raises:
            RequestError: a value has the wrong type or is infinite in single precision.
        """
        encoded = [self._column(name, encode, columns[name]) for name, encode in self._encoders]
        with np.errstate(over="ignore"):
            X = self._finite(np.stack(encoded, axis=1).astype(np.float32))
        return blanked(X, self._blank)

    def _column(self, name: str, encode: Encoder, column: Iterable[Any]) -> NDArray[np.float64]:
        kind = getattr(getattr(column, "dtype", None), "kind", "O")
        if kind in "fiub" and name not in self._levels:
            return np.asarray(column, dtype=np.float64)
        values = list(column)
        try:
            return np.fromiter(map(encode, values), np.float64, len(values))
        except (TypeError, ValueError):
            raise self._culprit([{name: value} for value in values]) from None

    def _culprit(self, rows: Sequence[Mapping[str, Any]]) -> RequestError:
        for i, row in enumerate(rows):
            for name, encode in self._encoders:
                try:
                    encode(row.get(name))
                except (TypeError, ValueError) as error:
                    return RequestError(f"feature `{name}` of row {i}: {error}")
        return RequestError("a feature cannot be read")  # pragma: no cover - one of the above raised before

    def _finite(self, X: NDArray[np.float32]) -> NDArray[np.float32]:
        # One pass that is cheap when all is well: a sum is infinite, or NaN, if any value is.
        if not math.isfinite(float(X.sum(dtype=np.float64))):
            bad = np.argwhere(np.isinf(X))
            if bad.size:
                i, j = bad[0]
                raise RequestError(
                    f"feature `{self.names[j]}` of row {i}: must be finite in single precision (|x| < 3.4e38)"
                )
        return X


def number(value: Any) -> float:
    """A feature's number; None, NaN and pandas' missing values are NaN.

    Raises:
        TypeError: it is no number; text that looks like one is refused, too.

    >>> number(True), number(None)
    (1.0, nan)
    """
    if type(value) is float:
        return value
    if value is None:
        return math.nan
    if isinstance(value, (int, float, np.number, np.bool_)):
        return float(value)
    if _missing(value):
        return math.nan
    raise TypeError(f"must be a number or missing, found {type(value).__name__} {value!r}")


def level(value: Any) -> str | None:
    """A categorical value's level, or None where it is missing: whole numbers lose the ".0" that gaps give them.

    Raises:
        TypeError: it is neither text, nor a whole number, nor a boolean.

    >>> level("EWR"), level(7.0), level(True), level(float("nan"))
    ('EWR', '7', 'true', None)
    """
    if isinstance(value, str):
        return value
    if value is None or _missing(value):
        return None
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    if isinstance(value, (int, np.integer)) or (isinstance(value, (float, np.floating)) and float(value).is_integer()):
        return str(int(value))
    raise TypeError(f"must be text, a whole number or missing, found {type(value).__name__} {value!r}")


def levels(column: Iterable[Any]) -> tuple[str, ...]:
    """The distinct levels of a column, sorted: their positions are their codes."""
    found = {value for value in map(level, set(column)) if value is not None}
    return tuple(sorted(found))


def _coder(codes: Mapping[str, float]) -> Encoder:
    def code(value: Any) -> float:
        if type(value) is str:
            return codes.get(value, math.nan)
        found = level(value)
        return math.nan if found is None else codes.get(found, math.nan)

    return code


def _missing(value: Any) -> bool:
    """Tell NaN, NaT and pandas.NA, the values that do not equal themselves, without importing pandas."""
    return type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, (float, np.floating)) and value != value)
