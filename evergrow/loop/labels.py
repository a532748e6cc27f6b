"""When labels became known."""

from __future__ import annotations

from datetime import datetime

import pandas as pd

from evergrow.contracts import KNOWN_AT
from evergrow.triggers.history import Instants


def first_known(examples: pd.DataFrame, label: str, now: datetime) -> Instants:
    """When each row's label became known first, up to now; rising, "datetime64[us]" in UTC.

    Args:
        examples: with `known_at`, the label and what tells rows apart; a label that was corrected is another row.
        label: its column.
        now: the instant.

    >>> day = pd.Timestamp("2024-03-02", tz="UTC")
    >>> rows = pd.DataFrame({"id": [1, 1, 2], "late": [0, 1, None], "known_at": [day] * 3})
    >>> first_known(rows, "late", day).tolist()
    [datetime.datetime(2024, 3, 2, 0, 0)]
    """
    known = examples[examples[label].notna() & (examples[KNOWN_AT] <= pd.Timestamp(now))]
    same = [name for name in known.columns if name not in (KNOWN_AT, label)]
    first = known.sort_values(KNOWN_AT, kind="stable").drop_duplicates(same, keep="first")[KNOWN_AT]
    found: Instants = first.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy("datetime64[us]")
    return found
