import copy
from datetime import timedelta

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evergrow.contracts import EVENT_TIMESTAMP, KNOWN_AT
from evergrow.data.ingest import ingest
from evergrow.data.lake import Lake
from evergrow.data.splits import boundaries
from evergrow.data.training_set import build, read
from evergrow.errors import DataError, NotEnoughData
from evergrow.spec import parse
from tests.unit.data.sources import HOUR, START, Meters, meters
from tests.unit.data.test_ingest import at
from tests.unit.spec.test_load import DOCUMENT

STATS = pd.DataFrame({"meter": ["a", "b"], "level": [1.0, 2.0], "kind": ["x", None]})


class Levels:
    """A feature store that knows one thing about each meter."""

    def history(self, service, entities):
        return entities.merge(STATS, on="meter", how="left")

    def digest(self, service):
        return service


def document(**training):
    changed = copy.deepcopy(DOCUMENT)
    changed["spec"] |= {"task": "regression", "label": {"column": "litres"}}
    changed["spec"]["evaluation"] = {
        "holdout": "2d",
        "metrics": ["mae"],
        "gate": {"metric": "mae"},
        "slices": ["meter"],
    }
    changed["spec"]["training"] |= {"calibrationLength": "1d", **training}
    return parse(changed)


def examples(hours=400):
    rows = meters(hours)
    return pd.DataFrame(
        {"meter": rows.meter, EVENT_TIMESTAMP: rows.hour, "litres": rows.litres, KNOWN_AT: rows.known_at}
    )


def made(tmp_path, rows, as_of, model=None):
    build(model or document(), rows, Levels(), as_of, "source", tmp_path)
    return read(tmp_path)


@given(st.integers(100, 399))
def test_only_labels_known_at_the_instant_are_in_it(tmp_path_factory, hours):
    _, rows = made(tmp_path_factory.mktemp("ts"), examples(), at(hours))
    assert (rows[KNOWN_AT] <= at(hours)).all()
    assert len(rows) == 2 * hours


@given(st.integers(100, 300), st.integers(0, 99))
def test_what_became_known_later_changes_nothing(tmp_path_factory, hours, later):
    then, _ = made(tmp_path_factory.mktemp("ts"), examples(hours), at(hours))
    after = examples(hours + later)
    after.loc[after[KNOWN_AT] > at(hours), "litres"] = -1.0
    now, _ = made(tmp_path_factory.mktemp("ts"), after, at(hours))
    assert now == then


def test_the_same_rows_in_another_order_are_the_same_training_set(tmp_path):
    first, _ = made(tmp_path / "a", examples(), at(200))
    second, _ = made(tmp_path / "b", examples().sample(frac=1, random_state=1), at(200))
    assert first.data_digest == second.data_digest


def test_a_changed_label_changes_the_digest(tmp_path):
    first, _ = made(tmp_path / "a", examples(), at(200))
    changed = examples()
    changed.loc[5, "litres"] += 0.001
    second, _ = made(tmp_path / "b", changed, at(200))
    assert first.data_digest != second.data_digest


def test_columns_have_their_roles(tmp_path):
    about, rows = made(tmp_path, examples(), at(200))
    assert about.keys == ("meter",)
    assert [(f.name, f.kind) for f in about.features] == [("level", "numeric"), ("kind", "categorical")]
    assert list(rows.columns) == [EVENT_TIMESTAMP, KNOWN_AT, "meter", "level", "kind", "litres"]
    assert about.holdout_from == about.last - timedelta(days=2)
    assert about.calibration_from == about.last - timedelta(days=3)
    assert rows[EVENT_TIMESTAMP].is_monotonic_increasing


def test_a_sliding_window_is_the_length_of_the_part_that_is_fitted(tmp_path):
    model = document(window={"kind": "sliding", "length": "4d"})
    about, rows = made(tmp_path, examples(), at(300), model)
    assert about.last - rows[EVENT_TIMESTAMP].iloc[0] == timedelta(days=7) - HOUR
    assert about.calibration_from - rows[EVENT_TIMESTAMP].iloc[0] == timedelta(days=4) - HOUR


def test_a_corrected_label_counts_from_when_the_correction_was_known(tmp_path):
    rows = examples()
    first = rows.iloc[10]
    corrected = first.copy()
    corrected["litres"], corrected[KNOWN_AT] = first["litres"] + 1, at(350)
    both = pd.concat([corrected.to_frame().T.astype(rows.dtypes), rows], ignore_index=True)

    for hours, expected in ((349, first["litres"]), (350, corrected["litres"])):
        about, table = made(tmp_path / str(hours), both, at(hours))
        same = (table[EVENT_TIMESTAMP] == first[EVENT_TIMESTAMP]) & (table["meter"] == first["meter"])
        assert table[same]["litres"].tolist() == [expected]
        assert about.rows == 2 * hours


def test_rows_without_a_label_are_left_out(tmp_path):
    rows = examples()
    rows.loc[rows.meter == "b", ["litres", KNOWN_AT]] = None
    _, found = made(tmp_path, rows, at(200))
    assert set(found.meter) == {"a"}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda f: f.drop(columns="litres"), DataError, r"lacks \['litres'\]"),
        (lambda f: f.assign(known_at=f.known_at.dt.tz_localize(None)), DataError, "known_at must be timezone-aware"),
        (lambda f: f.assign(known_at=f.event_timestamp - HOUR), DataError, "must not be before event_timestamp"),
        (lambda f: f[f.known_at > at(390)], NotEnoughData, "no label was known as of"),
        (lambda f: f[f.known_at < at(48)], NotEnoughData, r"does not exceed evaluation.holdout 2 days"),
    ],
)
def test_examples_that_cannot_be_used_are_refused_in_words(tmp_path, change, error, message):
    with pytest.raises(error, match=message):
        made(tmp_path, change(examples()), at(300))


def test_a_slice_that_is_no_column_is_named(tmp_path):
    changed = document().dump()
    changed["spec"]["evaluation"]["slices"] = ["metre"]
    with pytest.raises(DataError, match=r"slices\[0\]: must be a column of the training set, found 'metre'"):
        made(tmp_path, examples(), at(300), parse(changed))


def test_boundaries_follow_each_other_and_leave_something_to_fit():
    rows = examples(400)
    found = boundaries(rows, timedelta(days=2), timedelta(days=1))
    assert rows[EVENT_TIMESTAMP].min() < found.calibration_from < found.holdout_from < rows[EVENT_TIMESTAMP].max()
    with pytest.raises(NotEnoughData):
        boundaries(rows, timedelta(days=16), timedelta(days=1))


def test_a_training_set_as_of_an_instant_is_the_same_before_and_after_a_later_ingest(tmp_path):
    lake = Lake(tmp_path / "lake")
    ingest(Meters(), lake, at(200))
    then, _ = made(tmp_path / "a", lake.read("examples"), at(200))
    ingest(Meters(), lake, at(399))
    now, _ = made(tmp_path / "b", lake.read("examples"), at(200))
    assert now == then


def test_a_folder_that_holds_none_is_named(tmp_path):
    with pytest.raises(DataError, match="training_set.json is missing"):
        read(tmp_path)


def test_instants_of_another_zone_are_the_same_instants(tmp_path):
    first, _ = made(tmp_path / "a", examples(), at(200))
    zone = START.tz_convert("Asia/Tokyo").to_pydatetime() + timedelta(hours=200)
    second, _ = made(tmp_path / "b", examples(), zone)
    assert first.data_digest == second.data_digest
