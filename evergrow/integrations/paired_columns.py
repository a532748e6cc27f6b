"""What drift tools of others are given: of each feature, the values that are not missing in either frame.

Imports only what Alibi Detect's environment has too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd

from evergrow.contracts import Comparison, Feature
from evergrow.errors import DataError, EvergrowError


@dataclass(frozen=True)
class Pair:
    """One feature's values, none missing: numbers as finite float64, categories as text.

    Attributes:
        feature: name and kind.
        reference: values of the reference, [r], r ≥ 1.
        current: values of now, [c], c ≥ 1.
    """

    feature: Feature
    reference: pd.Series
    current: pd.Series

    def compared(self, test: str, effect: float, p_value: float | None = None) -> Comparison:
        """What a test found."""
        return Comparison(
            column=self.feature.name,
            test=test,
            effect=float(effect),
            p_value=None if p_value is None else float(p_value),
            rows=len(self.current),
            reference_rows=len(self.reference),
        )


def pairs(reference: pd.DataFrame, current: pd.DataFrame, features: Sequence[Feature]) -> Iterator[Pair]:
    """Each feature that has values in both frames, in order. An infinite number counts as missing.

    Raises:
        DataError: a frame lacks a column, or one of a numeric feature holds what is no number.
    """
    for feature in features:
        pair = Pair(feature, _present(reference, feature, "reference"), _present(current, feature, "current"))
        if len(pair.reference) and len(pair.current):
            yield pair


def _present(frame: pd.DataFrame, feature: Feature, which: str) -> pd.Series:
    if feature.name not in frame.columns:
        raise DataError(f"`{which}` must have a column for each feature, found none for {feature.name!r}")
    values = frame[feature.name].reset_index(drop=True)
    if feature.kind == "categorical":
        return values.dropna().astype(str).astype(object)
    try:
        numbers = pd.to_numeric(values).to_numpy(np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise DataError(f"`{which}`: {feature.name!r} must hold numbers, found {values.dtype} that is none") from error
    return pd.Series(numbers[np.isfinite(numbers)], name=feature.name)


class ColumnByColumn(ABC):
    """`evergrow.ports.DriftTool` by a package that compares one column after another.

    Attributes:
        title: what the package calls itself.
        install: what to do where it is not installed.
    """

    title: ClassVar[str]
    install: ClassVar[str]

    def compare(
        self, reference: pd.DataFrame, current: pd.DataFrame, features: Sequence[Feature]
    ) -> Sequence[Comparison]:
        """One comparison for each feature and test; see `evergrow.ports.DriftTool`.

        Raises:
            DataError: a frame lacks a column, or one holds what is not of the feature's kind.
            EvergrowError: the package is not installed, or fails.
        """
        with translated(self.title, self.install):
            return [found for pair in pairs(reference, current, features) for found in self.drift(pair)]

    @abstractmethod
    def drift(self, pair: Pair) -> Iterator[Comparison]:
        """What each test finds in one column."""


@contextmanager
def translated(tool: str, install: str) -> Iterator[None]:
    """Turn whatever a tool raises into EvergrowError; such tools have no errors of their own, and may be missing.

    Args:
        tool: its name, for the message.
        install: what to do where it is not installed.
    """
    try:
        yield
    except EvergrowError:
        raise
    except ImportError as error:
        raise EvergrowError(f"{tool} cannot be imported: {error}", hint=install) from error
    except Exception as error:
        # What it says may quote rows.
        raise EvergrowError(f"{tool}: {type(error).__name__}: {error}", data=[error]) from error
