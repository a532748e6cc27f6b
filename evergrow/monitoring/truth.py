"""Ground truth: labels that find their predictions when they become known, and when a day may be judged by them.

Labels come late, come corrected, or never come. As of an instant, each prediction has the label that was known then;
how long labels take is estimated from those that came and those that are still waited for; and a day is matured once
nearly all of its labels that will ever come have had their time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Literal

import duckdb
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evergrow.contracts import EVENT_TIMESTAMP, KNOWN_AT
from evergrow.errors import DataError
from evergrow.prediction_log.records import HASH_KEY, hashed, logged
from evergrow.spec import ContinualModel
from evergrow.statistics.unusual import FEWEST, high_share

Floats = NDArray[np.float64]
State = Literal["immature", "matured", "overdue"]

LABEL, LABEL_KNOWN_AT, LABEL_FIRST_KNOWN_AT, CORRECTED = "label", "label_known_at", "label_first_known_at", "corrected"
PREDICTION_ID = "prediction_id"
QUANTILES = (0.5, 0.9, 0.99)


def join(
    predictions: pd.DataFrame,
    examples: pd.DataFrame,
    label: str,
    key: Sequence[str],
    within: timedelta,
    as_of: datetime,
    extra: Sequence[str] = (),
) -> pd.DataFrame:
    """Predictions with the labels that were known at an instant.

    A prediction belongs to the example of equal key (missing equals missing) that is asked nearest in time, the earlier
    of two; whether that one's label is known makes no difference to which it is. Examples may repeat: a later
    `known_at` of the same key and instant is a correction.

    Args:
        predictions: with `prediction_id`, `event_timestamp` and the key, [n].
        examples: with `event_timestamp`, `known_at`, the label and the key.
        label: the label's column among the examples.
        key: columns that both have.
        within: how far apart the two instants may be.
        as_of: labels and corrections that became known later are not there yet.
        extra: columns of the examples that are wanted, too.

    Returns:
        The predictions in their order, with `label` (NaN where none was known), `label_known_at`,
        `label_first_known_at`, `corrected` and the extra columns.

    Raises:
        DataError: a column is missing, or key columns of the two have types that cannot be equal.
    """
    _check(predictions, [PREDICTION_ID, EVENT_TIMESTAMP, *key], "the prediction log")
    _check(examples, [EVENT_TIMESTAMP, KNOWN_AT, label, *key, *extra], "the table `examples`")
    connection = duckdb.connect()
    connection.execute("set timezone = 'UTC'")
    connection.register("predictions", predictions)
    connection.register("examples", examples)
    try:
        found = connection.execute(_sql(label, key, extra), {"as_of": as_of, "within": within}).df()
    except duckdb.Error as error:
        raise DataError(
            f"labels cannot be joined by {', '.join(key)}: {str(error).splitlines()[0]}",
            hint="give `spec.label.key` columns that are of one type in predictions and examples",
        ) from error
    joined = predictions.merge(found, on=PREDICTION_ID, how="left", validate="one_to_one")
    joined[CORRECTED] = joined[CORRECTED].astype("boolean").fillna(False).astype(bool)
    return joined


def _check(frame: pd.DataFrame, columns: Sequence[str], where: str) -> None:
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise DataError(
            f"labels cannot be joined: {where} has no column {missing[0]!r}",
            hint=f"it has {', '.join(map(str, frame.columns))}; see spec.label.key",
        )


def _sql(label: str, key: Sequence[str], extra: Sequence[str]) -> str:
    same = " and ".join(f'p."{column}" is not distinct from e."{column}"' for column in key)
    names = ", ".join(f'"{column}"' for column in key)
    now = f'filter (where {KNOWN_AT} <= $as_of and "{label}" is not null)'
    last = "".join(f', any_value("{column}") as "{column}"' for column in extra if column not in key)
    wanted = "".join(f', e."{column}"' for column in extra)
    return f"""
        with one as (
            select {names}, {EVENT_TIMESTAMP} as asked{last},
                arg_max("{label}", {KNOWN_AT}) {now} as {LABEL},
                max({KNOWN_AT}) {now} as {LABEL_KNOWN_AT},
                min({KNOWN_AT}) {now} as {LABEL_FIRST_KNOWN_AT},
                arg_min("{label}", {KNOWN_AT}) {now} is distinct from {LABEL} as {CORRECTED}
            from examples group by {names}, {EVENT_TIMESTAMP}
        )
        select p.{PREDICTION_ID}, e.{LABEL}::double as {LABEL}, e.{LABEL_KNOWN_AT}, e.{LABEL_FIRST_KNOWN_AT},
            e.{CORRECTED}{wanted}
        from predictions p join one e on {same} and abs(epoch_us(e.asked) - epoch_us(p.{EVENT_TIMESTAMP}))
            <= epoch($within::interval) * 1000000
        qualify row_number() over (
            partition by p.{PREDICTION_ID} order by abs(epoch_us(e.asked) - epoch_us(p.{EVENT_TIMESTAMP})), e.asked
        ) = 1
    """  # noqa: S608 - names are columns of the document


def shared_key(predictions: Sequence[str], examples: Sequence[str], label: str, features: Sequence[str]) -> list[str]:
    """The key where the document names none: columns that both have and that are no feature.

    Raises:
        DataError: there is none.
    """
    left_aside = {EVENT_TIMESTAMP, KNOWN_AT, label, *features}
    shared = [column for column in examples if column in set(predictions) - left_aside]
    if not shared:
        raise DataError(
            f"predictions and examples have no column in common to join labels by; examples have {', '.join(examples)}",
            hint="log the entity keys (serving.log.leftOut), or name the key: spec.label.key",
        )
    return shared


def outcomes(
    document: ContinualModel,
    predictions: pd.DataFrame,
    examples: pd.DataFrame,
    features: Sequence[str],
    as_of: datetime,
    secret: bytes | None,
    groups: Iterable[str] = (),
) -> pd.DataFrame:
    """Predictions of the log with the labels that were known at an instant, found as the document says.

    Args:
        document: of the model.
        predictions: rows of the prediction log, [n].
        examples: the table of that name.
        features: of the versions that answered, by their names in the log: none is a key where the document names none.
        as_of: see `join`.
        secret: that the server hashes columns of personal data with; None if there is none.
        groups: columns of the examples, by their names in the log, that are wanted where the log has none of that name.

    Raises:
        DataError: see `join`; or a column is hashed, and there is no secret.
    """
    label, known = document.spec.label, as_logged(document, examples, secret)
    key = [logged(column) for column in label.key]
    key = key or shared_key(list(predictions.columns), list(known.columns), label.column, features)
    extra = sorted((set(groups) & set(known.columns)) - set(predictions.columns))
    wanted = [*dict.fromkeys([EVENT_TIMESTAMP, KNOWN_AT, label.column, *key, *extra])]
    return join(predictions, known[wanted], label.column, key, label.within, as_of, extra)


def as_logged(document: ContinualModel, examples: pd.DataFrame, secret: bytes | None) -> pd.DataFrame:
    """Examples with the log's names of columns, and with personal data hashed as the log has it."""
    columns = [c for c in document.spec.serving.log.hashed if c in examples]
    if columns and secret is None:
        raise DataError(
            f"labels cannot be joined by what the log has hashed: {', '.join(columns)}", hint=f"set {HASH_KEY}"
        )
    by = {c: examples[c].map(lambda v: hashed(v, secret or b""), na_action="ignore") for c in columns}
    kept = {EVENT_TIMESTAMP, KNOWN_AT, document.spec.label.column}
    return examples.assign(**by).rename(columns={c: logged(str(c)) for c in examples if c not in kept})


@dataclass(frozen=True)
class Delay:
    """How long labels take, as known at an instant.

    Attributes:
        age: by which age of a prediction the wanted share of the labels that ever come are in; None if unknown.
        coverage: share of predictions whose label ever comes, as far as can be seen.
        quantiles: of the delay of those that come, at QUANTILES.
    """

    age: timedelta | None
    coverage: float
    quantiles: tuple[timedelta, ...]


def delay(outcomes: pd.DataFrame, as_of: datetime, matured: float) -> Delay:
    """Estimate the delay of labels by Kaplan & Meier, JASA 53, 1958: what is still waited for counts as waited for.

    Args:
        outcomes: of `join`, [n].
        as_of: the instant they were joined for.
        matured: share of the labels that ever come, in (0, 1).
    """
    from scipy.stats import CensoredData, ecdf

    asked = outcomes[EVENT_TIMESTAMP]
    came = outcomes[LABEL_FIRST_KNOWN_AT].notna().to_numpy()
    if not came.any():
        return Delay(None, 0.0, ())
    until = outcomes[LABEL_FIRST_KNOWN_AT].where(came, pd.Timestamp(as_of))
    # An answer may be asked for after its label was known: it has waited for nothing.
    waited = (until - asked).dt.total_seconds().clip(lower=0).to_numpy()
    curve = ecdf(CensoredData(waited[came].astype(np.float64), right=waited[~came].astype(np.float64))).cdf
    coverage = float(curve.probabilities[-1])
    return Delay(
        timedelta(seconds=_first(curve, matured * coverage)),
        coverage,
        tuple(timedelta(seconds=_first(curve, q * coverage)) for q in QUANTILES),
    )


def _first(curve: object, share: float) -> float:
    place = int(np.searchsorted(curve.probabilities, share * (1 - 1e-12)))  # type: ignore[attr-defined]
    return float(curve.quantiles[min(place, len(curve.quantiles) - 1)])  # type: ignore[attr-defined]


@dataclass(frozen=True)
class LabelDay:
    """How far a day's labels are in.

    Attributes:
        day: of the predictions (UTC).
        rows: predictions.
        labelled: of them, those whose label is known.
        corrected: of these, those whose label has changed since it was first known.
        state: immature: its labels have not had their time. matured: they had, and came as usual. overdue: they had,
            and too many are missing.
        p_value: of so many missing, among the days that had their time; None where that cannot be told.
    """

    day: date
    rows: int
    labelled: int
    corrected: int
    state: State
    p_value: float | None = None


def label_days(outcomes: pd.DataFrame, delay: Delay, as_of: datetime, alpha: float) -> list[LabelDay]:
    """The state of each day that has predictions, oldest first.

    Args:
        outcomes: of `join`.
        delay: of their labels.
        as_of: the instant they were joined for.
        alpha: a day is overdue if so many missing labels, or more, are less probable than this.
    """
    day = outcomes[EVENT_TIMESTAMP].dt.floor("D")
    counted = outcomes.assign(known=outcomes[LABEL].notna()).groupby(day)[["known", CORRECTED]].agg(["size", "sum"])
    days, rows = counted.index, counted["known", "size"].to_numpy(np.int64)
    labelled, corrected = counted["known", "sum"].to_numpy(np.int64), counted[CORRECTED, "sum"].to_numpy(np.int64)
    ends = [d + timedelta(days=1) for d in days]
    old = np.array([delay.age is not None and end + delay.age <= pd.Timestamp(as_of) for end in ends], bool)
    found = []
    for i, at in enumerate(days):
        p = _missing_unusual(i, rows - labelled, rows, old) if old[i] else None
        state: State = "immature" if not old[i] else "overdue" if p is not None and p <= alpha else "matured"
        found.append(LabelDay(at.date(), int(rows[i]), int(labelled[i]), int(corrected[i]), state, p))
    return found


def _missing_unusual(
    day: int, missing: NDArray[np.int64], rows: NDArray[np.int64], old: NDArray[np.bool_]
) -> float | None:
    """p-value of a day's missing labels among the other days that had their time."""
    others = old.copy()
    others[day] = False
    if others.sum() < FEWEST:
        return None
    return high_share(int(missing[day]), int(rows[day]), missing[others], rows[others])
