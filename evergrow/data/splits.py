"""Where the parts of a training set meet: fitted on, then calibrated on, then held out, in the order of time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import pandas as pd

from evergrow.contracts import EVENT_TIMESTAMP
from evergrow.errors import NotEnoughData


@dataclass(frozen=True)
class Boundaries:
    """Where the parts meet.

    fit | calibration_from ... | holdout_from ... | last
    """

    calibration_from: pd.Timestamp
    holdout_from: pd.Timestamp


def boundaries(rows: pd.DataFrame, holdout: timedelta, calibration: timedelta) -> Boundaries:
    """The newest `holdout` is held out, the `calibration` before it calibrates, the rest is fitted on.

    Args:
        rows: labelled rows with `event_timestamp`.
        holdout: length of the held-out part, back from the newest row.
        calibration: length of the calibration part, back from the holdout.

    Raises:
        NotEnoughData: nothing is left to fit on.
    """
    if rows.empty:
        raise NotEnoughData("no row has a label yet: 0 rows, at least one is needed in each of three parts")
    first, last = rows[EVENT_TIMESTAMP].min(), rows[EVENT_TIMESTAMP].max()
    found = Boundaries(last - holdout - calibration, last - holdout)
    if first >= found.calibration_from:
        raise NotEnoughData(
            f"labelled rows span {last - first}, which does not exceed evaluation.holdout {holdout} plus "
            f"training.calibrationLength {calibration}",
            hint="shorten them, or wait for more labels",
        )
    return found
