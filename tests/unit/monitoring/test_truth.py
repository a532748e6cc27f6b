"""Labels find their predictions, late, corrected or never; days are judged when their labels have had their time."""

from datetime import timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evergrow.errors import DataError
from evergrow.monitoring import truth
from tests.unit.monitoring.builders import DAY, START, outcomes

MINUTE = timedelta(minutes=1)
AT = pd.Timestamp(START)


def predictions(rows):
    """Of (key, minutes after the start)."""
    return pd.DataFrame(
        {
            "prediction_id": [f"p{i}" for i in range(len(rows))],
            "key": pd.Series([key for key, _ in rows], dtype=object),
            "event_timestamp": pd.to_datetime([AT + m * MINUTE for _, m in rows], utc=True).as_unit("us"),
        }
    )


def examples(rows):
    """Of (key, minutes after the start, label, minutes after the start when that was known)."""
    return pd.DataFrame(
        {
            "key": pd.Series([key for key, *_ in rows], dtype=object),
            "event_timestamp": pd.to_datetime([AT + m * MINUTE for _, m, *_ in rows], utc=True).as_unit("us"),
            "y": pd.Series([y for *_, y, _ in rows], dtype=float),
            "known_at": pd.to_datetime([pd.NaT if k is None else AT + k * MINUTE for *_, k in rows], utc=True).as_unit(
                "us"
            ),
        }
    )


def joined(asked, known, minutes, within=30):
    return truth.join(predictions(asked), examples(known), "y", ["key"], within * MINUTE, (AT + minutes * MINUTE))


KEYS = st.one_of(st.none(), st.sampled_from(["a", "b"]))
ASKED = st.lists(st.tuples(KEYS, st.integers(0, 200)), min_size=1, max_size=8)
KNOWN = st.lists(
    st.tuples(KEYS, st.integers(0, 200), st.integers(0, 1), st.one_of(st.none(), st.integers(0, 400))),
    min_size=1,
    max_size=12,
    unique_by=lambda row: (row[0], row[1], row[3]),
)


def by_hand(key, minute, known, as_of, within):
    """The label of one prediction, looking at every example in turn."""
    near = [row for row in known if row[0] == key and abs(row[1] - minute) <= within]
    if not near:
        return None
    best = min((abs(row[1] - minute), row[1]) for row in near)
    there = [row for row in near if (abs(row[1] - minute), row[1]) == best and row[3] is not None and row[3] <= as_of]
    return max(there, key=lambda row: row[3])[2] if there else None


@given(ASKED, KNOWN, st.integers(0, 400), st.integers(0, 60))
def test_each_prediction_has_the_label_that_looking_at_every_example_gives(asked, known, as_of, within):
    known = [(k, m, None if at is None else y, at) for k, m, y, at in known]
    found = joined(asked, known, as_of, within)

    assert len(found) == len(asked)
    for (key, minute), label in zip(asked, found["label"], strict=True):
        expected = by_hand(key, minute, known, as_of, within)
        assert (None if np.isnan(label) else label) == expected


def test_a_label_counts_from_when_it_was_known():
    known = [("a", 0, 1.0, 120)]

    assert np.isnan(joined([("a", 5)], known, 119)["label"][0])
    assert joined([("a", 5)], known, 120)["label"][0] == 1.0


def test_a_corrected_label_replaces_the_first_and_says_so():
    known = [("a", 0, 1.0, 60), ("a", 0, 0.0, 600)]
    before, after = joined([("a", 0)], known, 599).iloc[0], joined([("a", 0)], known, 600).iloc[0]

    assert (before["label"], before["corrected"]) == (1.0, False)
    assert (after["label"], after["corrected"]) == (0.0, True)
    assert after["label_first_known_at"] == AT + 60 * MINUTE
    assert after["label_known_at"] == AT + 600 * MINUTE


def test_a_correction_to_the_same_value_is_none():
    assert not joined([("a", 0)], [("a", 0, 1.0, 60), ("a", 0, 1.0, 600)], 700)["corrected"][0]


def test_the_nearest_example_counts_even_if_its_label_is_not_known_yet():
    known = [("a", 0, 1.0, 10), ("a", 20, None, None)]

    assert np.isnan(joined([("a", 15)], known, 100)["label"][0])
    assert joined([("a", 9)], known, 100)["label"][0] == 1.0


def test_missing_keys_are_equal():
    assert joined([(None, 0)], [(None, 0, 1.0, 10)], 20)["label"][0] == 1.0


def test_a_column_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(DataError, match="the prediction log has no column 'key'") as caught:
        truth.join(predictions([("a", 0)]).drop(columns="key"), examples([]), "y", ["key"], MINUTE, START)
    assert "event_timestamp" in caught.value.hint


def test_keys_of_kinds_that_cannot_be_equal_are_refused():
    numbered = examples([("a", 0, 1.0, 10)]).assign(key=pd.to_datetime(["2024-01-01"], utc=True))
    with pytest.raises(DataError, match="labels cannot be joined by key"):
        truth.join(predictions([("a", 0)]).assign(key=[1.5]), numbered, "y", ["key"], MINUTE, START)


def test_without_a_key_in_the_document_it_is_what_both_have_and_is_no_feature():
    both = (["prediction_id", "event_timestamp", "origin", "wind", "asked"], ["event_timestamp", "origin", "wind", "y"])

    assert truth.shared_key(*both, "y", ["wind"]) == ["origin"]
    with pytest.raises(DataError, match="no column in common"):
        truth.shared_key(["prediction_id"], ["origin", "y"], "y", [])


def test_delay_is_that_of_the_labels_if_all_have_come():
    rows = outcomes(days=20, delay=timedelta(hours=10))
    waited = (rows["label_first_known_at"] - rows["event_timestamp"]).dt.total_seconds()
    found = truth.delay(rows, START + 30 * DAY, 0.95)

    assert found.coverage == 1
    assert found.age is not None
    assert found.age.total_seconds() == pytest.approx(np.quantile(waited, 0.95), rel=1e-3)
    assert [q.total_seconds() for q in found.quantiles] == pytest.approx(
        np.quantile(waited, [0.5, 0.9, 0.99]), rel=1e-3
    )


def test_delay_is_not_biased_by_labels_that_are_still_waited_for():
    """As of the last day, half of the newest labels are not there: taken for lost, the delay would look short."""
    rows = outcomes(days=20, delay=timedelta(days=4), never=0.1)
    as_of = START + 20 * DAY
    unknown = rows["label_first_known_at"] > as_of
    then = rows.assign(
        label=rows["label"].mask(unknown), label_first_known_at=rows["label_first_known_at"].mask(unknown)
    )
    known, all_of_it = truth.delay(then, as_of, 0.95), truth.delay(rows, as_of + 10 * DAY, 0.95)
    naive = (then["label_first_known_at"] - then["event_timestamp"]).quantile(0.95)

    assert known.coverage == pytest.approx(0.9, abs=0.02)
    assert known.age / all_of_it.age == pytest.approx(1, abs=0.03)
    assert abs(known.age - all_of_it.age) < abs(naive - all_of_it.age)


def test_before_any_label_nothing_is_known_of_the_delay():
    rows = outcomes(days=2, never=1.0)
    found = truth.delay(rows, START + 2 * DAY, 0.95)

    assert (found.age, found.coverage, found.quantiles) == (None, 0.0, ())
    assert {day.state for day in truth.label_days(rows, found, START + 2 * DAY, 0.01)} == {"immature"}


def states(rows, as_of, alpha=0.002):
    return [day.state for day in truth.label_days(rows, truth.delay(rows, as_of, 0.95), as_of, alpha)]


def test_a_day_is_matured_once_its_labels_have_had_their_time():
    as_of = START + 20 * DAY
    rows = outcomes(days=20, delay=timedelta(hours=30))
    later = rows["label_first_known_at"] > as_of
    rows = rows.assign(label=rows["label"].mask(later), label_first_known_at=rows["label_first_known_at"].mask(later))

    assert states(rows, as_of) == ["matured"] * 18 + ["immature"] * 2


def test_a_day_whose_labels_stay_away_is_overdue_and_the_others_are_not():
    rows = outcomes(days=20, never=0.03)
    lost = rows["event_timestamp"] >= START + 18 * DAY
    gone = rows.assign(label=rows["label"].mask(lost), label_first_known_at=rows["label_first_known_at"].mask(lost))

    assert states(gone, START + 21 * DAY) == ["matured"] * 18 + ["overdue"] * 2
    assert set(states(rows, START + 21 * DAY)) == {"matured"}


def test_corrections_are_counted_by_day():
    rows = outcomes(days=10)
    rows["corrected"] = rows["event_timestamp"] < START + DAY
    days = truth.label_days(rows, truth.delay(rows, START + 20 * DAY, 0.95), START + 20 * DAY, 0.01)

    assert [day.corrected for day in days] == [days[0].labelled] + [0] * 9
