"""Evidently as a `DriftTool`: its own drift of a column, by the test that it chooses or by those that are asked for.

Evidently is optional, takes five CPU seconds to import and would report its use to its makers: it is imported when
first asked something, and only after reporting is switched off.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evergrow.contracts import Comparison
from evergrow.errors import SpecError
from evergrow.integrations.paired_columns import ColumnByColumn, Pair
from evergrow.integrations.sqlite_converters import import_ipython_harmlessly

Test = Literal["psi", "ks", "jensenshannon", "wasserstein", "chisquare"]
ONLY: Mapping[str, str] = {"ks": "numeric", "wasserstein": "numeric", "chisquare": "categorical"}
"""The kind of feature that a test is for; a test that is not here is for both."""

# What Evidently calls the tests that it chooses by itself.
CHOSEN = {
    "K-S p_value": "ks",
    "chi-square p_value": "chisquare",
    "Z-test p_value": "z",
    "Jensen-Shannon distance": "jensenshannon",
    "Wasserstein distance (normed)": "wasserstein",
}


class EvidentlyDrift(ColumnByColumn):
    """`evergrow.ports.DriftTool` by Evidently.

    Its tests are named as evergrow's are, and in the same units: "psi" (in equal-width bins, by Sturges' rule),
    "jensenshannon" (in the same bins, base 2), "wasserstein" (in standard deviations of the reference), "ks", and
    "chi2-fit", Pearson's statistic with the reference's shares taken for exact; for columns of two values and 1,000
    rows at most also "z". Of the last three Evidently gives the p-value only, and the effect is the statistic behind
    it: for "z" the difference of the shares.
    """

    title = "Evidently"
    install = "pip install 'evidently>=0.7.20'"

    def __init__(self, tests: Sequence[Test] = ()) -> None:
        """Take these tests, each for the features it is for; a feature that has none of them has Evidently's choice.

        Raises:
            SpecError: Evidently has no such test, or it is not known here.
        """
        for test in tests:
            if test not in get_args(Test):
                raise SpecError(f"`tests` must be of {', '.join(get_args(Test))}, found {test!r}")
        self.tests = tuple(tests)

    def drift(self, pair: Pair) -> Iterator[Comparison]:
        """What each of its tests, or the one that it chooses, finds in one column."""
        kind = pair.feature.kind
        methods: list[str | None] = [test for test in self.tests if ONLY.get(test, kind) == kind]
        for metric in _report(pair, methods or [None]):
            name = metric["config"]["method"]
            test, effect, p_value = _told(CHOSEN.get(name, name), float(metric["value"]), pair)
            yield pair.compared(test, effect, p_value)


def _report(pair: Pair, methods: Sequence[str | None]) -> Sequence[Mapping[str, Any]]:
    """What Evidently says of one column, by each method; None is its own choice."""
    os.environ["DO_NOT_TRACK"] = "1"
    import_ipython_harmlessly()
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import ValueDrift

    name = pair.feature.name
    numeric = pair.feature.kind == "numeric"
    definition = DataDefinition(
        numerical_columns=[name] if numeric else [], categorical_columns=[] if numeric else [name]
    )
    current, reference = (
        Dataset.from_pandas(values.to_frame(name), data_definition=definition)
        for values in (pair.current, pair.reference)
    )
    report = Report([ValueDrift(column=name, method=method) for method in methods])
    metrics: Sequence[Mapping[str, Any]] = report.run(current, reference).dict()["metrics"]
    return metrics


def _told(test: str, score: float, pair: Pair) -> tuple[str, float, float | None]:
    """Test, effect and p-value, from Evidently's score, which is one of the two."""
    if test in STATISTICS:
        return {"chisquare": "chi2-fit"}.get(test, test), STATISTICS[test](pair), score
    if test == "jensenshannon":
        return test, score / np.sqrt(np.log(2)), None
    return test, score, None


def _largest_difference(pair: Pair) -> float:
    from scipy.stats import ks_2samp

    return float(ks_2samp(pair.reference, pair.current, method="asymp").statistic)


def _goodness_of_fit(pair: Pair) -> float:
    from scipy.stats import chisquare

    expected, observed = _counts(pair)
    with np.errstate(divide="ignore"):  # infinite with a category that the reference lacks
        return float(chisquare(observed, expected * len(pair.current) / len(pair.reference), sum_check=False).statistic)


def _difference_of_shares(pair: Pair) -> float:
    reference, current = _counts(pair)
    return float(np.abs(reference / len(pair.reference) - current / len(pair.current)).max())


def _counts(pair: Pair) -> NDArray[np.float64]:
    """How often each value occurs in the reference and now, [2, values]."""
    counted = pd.concat([pair.reference.value_counts(), pair.current.value_counts()], axis=1).fillna(0.0)
    return counted.to_numpy(np.float64).T


STATISTICS: Mapping[str, Callable[[Pair], float]] = {
    "ks": _largest_difference,
    "chisquare": _goodness_of_fit,
    "z": _difference_of_shares,
}
"""What the p-values of Evidently's tests are of."""
