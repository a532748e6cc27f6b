"""whylogs as a `DriftTool`: its drift scores of two profiles, which are sketches of a fixed size.

whylogs is optional, takes CPU seconds to import and would report its use to its makers: it is imported when first
asked something, and with reporting switched off. Its scores are in its `viz` part, which needs IPython.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

import pandas as pd

from evergrow.contracts import Comparison
from evergrow.errors import SpecError
from evergrow.integrations.paired_columns import ColumnByColumn, Pair
from evergrow.integrations.sqlite_converters import import_ipython_harmlessly

Test = Literal["ks", "hellinger", "chi2-fit"]
KINDS: Mapping[str, str] = {"ks": "numeric", "hellinger": "numeric", "chi2-fit": "categorical"}
"""The kind of feature that each score is for."""


class WhylogsDrift(ColumnByColumn):
    """`evergrow.ports.DriftTool` by whylogs.

    "ks" is the largest difference of the distribution functions at a hundred quantiles of each sketch, "hellinger" the
    distance in up to 30 bins of equal width, "chi2-fit" Pearson's statistic of the most frequent categories with the
    reference's shares taken for exact. The sketches err by some 1 % of the rows, and are not the same twice.
    """

    title = "whylogs"
    install = "pip install 'whylogs>=1.6' ipython"

    def __init__(self, tests: Sequence[Test] = get_args(Test)) -> None:
        """Take these scores, each for the features it is for.

        Raises:
            SpecError: whylogs has no such score, or a kind of feature would have none.
        """
        unknown = [test for test in tests if test not in KINDS]
        if unknown or {KINDS[test] for test in tests} != set(KINDS.values()):
            rule = f"`tests` must be of {', '.join(KINDS)}, at least one for numbers and one for categories"
            raise SpecError(f"{rule}; found {', '.join(tests) or 'none'}")
        self.tests = tuple(tests)

    def drift(self, pair: Pair) -> Iterator[Comparison]:
        """What each score that is for its kind finds in one column."""
        algorithms = _algorithms()
        reference, current = _profile(pair.reference), _profile(pair.current)
        for test in self.tests:
            if KINDS[test] == pair.feature.kind:
                score = algorithms[test]().calculate(current, reference)
                yield pair.compared(test, score.statistic, score.pvalue)


def _algorithms() -> Mapping[str, Any]:
    _keep_silent()
    import_ipython_harmlessly()
    from whylogs.viz.drift.column_drift_algorithms import KS, ChiSquare, Hellinger

    return {"ks": KS, "hellinger": Hellinger, "chi2-fit": ChiSquare}


def _profile(values: pd.Series) -> Any:
    """The profile of one column."""
    from whylogs.core import DatasetProfile

    profile = DatasetProfile()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        profile.track(pandas=values.to_frame("column"))
    return profile.view().get_column("column")


def _keep_silent() -> None:
    """Switch its usage statistics off, also where somebody has imported whylogs before."""
    os.environ["WHYLOGS_NO_ANALYTICS"] = "True"
    from whylogs.api import usage_stats

    usage_stats._TELEMETRY_DISABLED = True
