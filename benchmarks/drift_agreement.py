"""Whether evergrow, Evidently, whylogs and Alibi Detect see the same drift, by the tests that they share.

python -m benchmarks.drift_agreement prints the tables of docs/how-to/drift-with-other-tools.md. A tool that is not
installed is left out.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from benchmarks.measure import Result, Skipped
from evergrow.contracts import Comparison, Feature, instant
from evergrow.errors import EvergrowError
from evergrow.integrations.alibi_detect import AlibiDetectDrift
from evergrow.integrations.evidently import EvidentlyDrift
from evergrow.integrations.whylogs import WhylogsDrift
from evergrow.monitoring.drift import ProfileDrift
from evergrow.ports import DriftTool
from models.arrival_delay.data import Flights

OURS = "evergrow"
ROWS = 20_000


@dataclass(frozen=True)
class Shared:
    """A test that evergrow and another tool both have, and what their effects may differ by.

    Attributes:
        test: its name.
        tool: the other.
        kind: of the features that are compared.
        limit: largest difference; None: their bins differ, so that only the decisions can agree.
        threshold: from where on an effect is called drift, or the p-value below which it is.
        why: where limit or threshold come from.
    """

    test: str
    tool: str
    kind: str
    limit: float | None
    threshold: float
    why: str


SHARED = (
    Shared("ks", "Evidently", "numeric", 0.02, 0.1, "a cell of ours is 1/50 of the reference"),
    Shared("ks", "Alibi Detect", "numeric", 0.02, 0.1, "a cell of ours is 1/50 of the reference"),
    Shared("ks", "whylogs", "numeric", 0.05, 0.1, "1/50 of ours, 1/100 of its quantiles, 1 % of each of its sketches"),
    Shared("wasserstein", "Evidently", "numeric", 0.05, 0.1, "values are spread evenly over a cell of ours"),
    Shared("psi", "Evidently", "numeric", None, 0.1, "ten groups of equal mass against bins of equal width"),
    Shared("jensenshannon", "Evidently", "numeric", None, 0.1, "ten groups of equal mass against bins of equal width"),
    Shared("hellinger", "whylogs", "numeric", None, 0.15, "ten groups of equal mass against 30 bins of equal width"),
    Shared("psi", "Evidently", "categorical", 0.01, 0.1, "the same shares; ours takes those below 1e-4 for 1e-4"),
    Shared("jensenshannon", "Evidently", "categorical", 1e-6, 0.1, "the same shares"),
    Shared("chi2", "Alibi Detect", "categorical", 1e-4, 0.05, "the same table in float32; relative; p-value"),
)


# -- cases -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """Two frames and what is compared of them."""

    name: str
    reference: pd.DataFrame
    current: pd.DataFrame
    features: tuple[Feature, ...]


def features_of(frame: pd.DataFrame) -> tuple[Feature, ...]:
    """Each column as a feature: numbers are numeric, all else is categorical."""
    numeric = {name: pd.api.types.is_numeric_dtype(frame[name]) for name in frame}
    return tuple(Feature(name=str(n), kind="numeric" if is_so else "categorical") for n, is_so in numeric.items())


def flights() -> pd.DataFrame:
    """Flights that were to leave New York in 2013, with features as known an hour earlier."""
    source = Flights()
    until = instant("2014-02-01")
    tables = source.derive({table.name: source.read(table.name, None, until) for table in source.tables})
    frame = tables["examples"].sort_values("event_timestamp", kind="stable")
    for name, key in (("weather", "origin"), ("origin_delays", "origin"), ("carrier_delays", "carrier")):
        view = tables[name].drop(columns="created_timestamp").sort_values("event_timestamp", kind="stable")
        frame = pd.merge_asof(frame, view, on="event_timestamp", by=key, suffixes=("", "_of_view"))
    kept = ["scheduled_minutes", "distance", "late", "carrier", "origin", "temp", "humid", "wind_speed", "precip"]
    kept += ["pressure", "visib", "origin_late_3h", "origin_delay_3h", "carrier_late_1d", "carrier_delay_1d"]
    return frame[["event_timestamp", *kept]]


def of_flights() -> Iterator[Case]:
    """A winter's month against a summer's, and two halves of one month, shuffled."""
    frame = flights()
    months = frame.groupby(frame.pop("event_timestamp").dt.tz_convert("America/New_York").dt.month)
    january, july = months.get_group(1), months.get_group(7)
    yield Case("January, July", january, july, features_of(frame))
    shuffled = january.sample(frac=1, random_state=0)
    half = len(shuffled) // 2
    yield Case("halves of January", shuffled[:half], shuffled[half:], features_of(frame))


def synthetic(seed: int, moved: float) -> pd.DataFrame:
    """Columns that change in one way each as `moved` goes from 0 to 1, and two that do not."""
    random = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "unchanged": random.normal(size=ROWS),
            "mean moved": random.normal(0.3 * moved, 1, ROWS),
            "scale changed": random.normal(0, 1 + 0.3 * moved, ROWS),
            "heavy tails": random.standard_t(1.5, ROWS) + 0.3 * moved,
            "skewed": random.lognormal(0.2 * moved, 1, ROWS),
            "counts": random.poisson(3 + moved, ROWS).astype(float),
            "constant": np.full(ROWS, 4.5),
            "missing": np.where(random.random(ROWS) < 0.2 + 0.4 * moved, np.nan, random.normal(0.2 * moved, 1, ROWS)),
            "same shares": random.choice(list("abcd"), ROWS, p=[0.4, 0.3, 0.2, 0.1]),
            "shares changed": random.choice(list("abcd"), ROWS, p=np.array([4, 3, 2, 1]) / 10 + 0.1 * moved * SHIFT),
        }
    )


SHIFT = np.array([-1, -1, 1, 1])


def cases() -> list[Case]:
    """All of them."""
    reference, current = synthetic(0, 0.0), synthetic(1, 1.0)
    return [*of_flights(), Case("synthetic", reference, current, features_of(reference))]


# -- what the tools say ------------------------------------------------------------------------------------------------


def tools() -> Mapping[str, DriftTool]:
    """The tools that are installed here; evergrow first."""
    peers = {
        "Evidently": lambda: EvidentlyDrift(("psi", "ks", "jensenshannon", "wasserstein")),
        "whylogs": WhylogsDrift,
        "Alibi Detect": AlibiDetectDrift,
    }
    found: dict[str, DriftTool] = {OURS: ProfileDrift()}
    probe = pd.DataFrame({"x": [0.0, 1.0]})
    for name, make in peers.items():
        try:
            tool = make()
            tool.compare(probe, probe, (Feature(name="x", kind="numeric"),))
            found[name] = tool
        except EvergrowError as error:
            print(f"without {name}: {error}", file=sys.stderr)
    return found


Key = tuple[str, str, str]
"""Case, column, test."""


def compared(among: Mapping[str, DriftTool]) -> dict[Key, dict[str, Comparison]]:
    """What each tool says, by case, column and test."""
    found: dict[Key, dict[str, Comparison]] = {}
    for case in cases():
        for name, tool in among.items():
            for one in tool.compare(case.reference, case.current, case.features):
                found.setdefault((case.name, one.column, one.test), {})[name] = one
    return found


def difference(shared: Shared, ours: Comparison, theirs: Comparison) -> float:
    """Of the effects; statistics that grow with the rows are compared relatively."""
    apart = abs(ours.effect - theirs.effect)
    return apart / max(1.0, abs(theirs.effect)) if shared.test == "chi2" else apart


def drifts(shared: Shared, one: Comparison) -> bool:
    """Whether this is called drift at the usual threshold."""
    if shared.test == "chi2":
        return one.p_value is not None and one.p_value < shared.threshold
    return one.effect >= shared.threshold


@dataclass(frozen=True)
class Agreement:
    """How evergrow and another tool agree on one test: differences by case and column, and where decisions differ."""

    shared: Shared
    differences: Mapping[tuple[str, str], float]
    apart: Mapping[tuple[str, str], tuple[float, float]]

    @property
    def widest(self) -> tuple[str, str]:
        """Case and column of the largest difference."""
        return max(self.differences, key=lambda key: self.differences[key])


def agreements(found: Mapping[Key, Mapping[str, Comparison]], kinds: Mapping[str, str]) -> Iterator[Agreement]:
    """One for each test that is shared with a tool that is installed."""
    for shared in SHARED:
        pairs = {
            (case, column): (by[OURS], by[shared.tool])
            for (case, column, test), by in found.items()
            if test == shared.test and kinds[column] == shared.kind and {OURS, shared.tool} <= set(by)
        }
        if pairs:
            yield Agreement(
                shared,
                {key: difference(shared, *pair) for key, pair in pairs.items()},
                {k: (a.effect, b.effect) for k, (a, b) in pairs.items() if drifts(shared, a) != drifts(shared, b)},
            )


def all_agreements(found: Mapping[Key, Mapping[str, Comparison]]) -> list[Agreement]:
    """Those of all cases."""
    return list(agreements(found, {feature.name: feature.kind for case in cases() for feature in case.features}))


# -- results -----------------------------------------------------------------------------------------------------------


def result(agreement: Agreement) -> Result:
    """One row of the README's figures."""
    shared = agreement.shared
    largest = agreement.differences[agreement.widest]
    same = len(agreement.differences) - len(agreement.apart)
    return Result(
        name=f"largest difference of {shared.test}, {shared.kind}, evergrow and {shared.tool}",
        value=largest,
        unit="× of it" if shared.test == "chi2" else "",
        reach="stated" if shared.limit is None else f"≤ {shared.limit:g}",
        holds=shared.limit is None or largest <= shared.limit,
        detail=f"{' '.join(reversed(agreement.widest))}; {shared.why}; "
        f"decisions at {shared.threshold:g} agree on {same} of {len(agreement.differences)} columns",
    )


def summary(found: Sequence[Agreement]) -> str:
    """The largest differences as a Markdown table."""
    lines = ["| test | of | with | columns | median difference | largest | where | decisions that agree |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for a in found:
        s, values = a.shared, list(a.differences.values())
        where = f"{a.widest[1]} ({a.widest[0]})"
        same = f"{len(values) - len(a.apart)} of {len(values)} at {'p < ' if s.test == 'chi2' else ''}{s.threshold:g}"
        row = (s.test, s.kind, s.tool, len(values), f"{np.median(values):.2g}", f"{max(values):.2g}", where, same)
        lines.append(f"| {' | '.join(map(str, row))} |")
    return "\n".join(lines)


def effects(found: Mapping[Key, Mapping[str, Comparison]], case: str) -> str:
    """What each tool says of one case as a Markdown table."""
    names = [OURS, "Evidently", "whylogs", "Alibi Detect"]
    lines = [f"| column | test | {' | '.join(names)} |", f"|---|---|{'---|' * len(names)}"]
    for (of, column, test), by in found.items():
        if of == case and len(by) > 1:
            told = (f"{by[name].effect:.3g}" if name in by else "" for name in names)
            lines.append(f"| {column} | {test} | {' | '.join(told)} |")
    return "\n".join(lines)


def run() -> list[Result]:
    """Three cases, some two minutes."""
    among = tools()
    if len(among) == 1:
        raise Skipped("neither Evidently nor whylogs nor Alibi Detect is installed")
    return [result(agreement) for agreement in all_agreements(compared(among))]


def main() -> int:
    """Print the tables, and where decisions differ."""
    found = compared(tools())
    agreed = all_agreements(found)
    print(summary(agreed), effects(found, "synthetic"), sep="\n\n")
    for a in agreed:
        for (case, column), (ours, theirs) in a.apart.items():
            print(f"- {a.shared.test} of {column} ({case}): {ours:.3g} here, {theirs:.3g} by {a.shared.tool}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
