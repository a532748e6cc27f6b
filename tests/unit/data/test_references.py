import json
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from evergrow.contracts import EVENT_TIMESTAMP, KNOWN_AT, SetAside
from evergrow.data.references import chances, judged, microseconds, set_aside
from evergrow.data.training_set import build, read
from evergrow.errors import DataError
from evergrow.learning.identity import identify
from evergrow.learning.parts import split
from evergrow.spec.model import References
from tests.builders import FEATURES, START, document, rows

NAMES = [feature.name for feature in FEATURES]
REFERENCES = {"share": 0.2, "period": "10d", "periods": 4}
WINDOWS = [
    {"kind": "all"},
    {"kind": "sliding", "length": "15d"},
    {"kind": "decay", "halfLife": "10d"},
    {"kind": "reservoir", "recent": "5d", "rows": 200},
    {"kind": "hard", "recent": "20d", "share": 0.5},
    {"kind": "dynamic", "least": "14d"},
    {"kind": "similar", "recent": "14d"},
]
FRAME = rows(days=100, per_day=20)


class Joined:
    """A feature store that has the builders' features of each flight."""

    def history(self, service, entities):
        return entities.merge(FRAME[["flight", *NAMES]], on="flight", how="left")

    def digest(self, service):
        return service


def made(out, references, *, days=90, examples=None, **training):
    evaluation = {"holdout": "10d", "slices": [], **({"references": references} if references else {})}
    model = document(
        estimator="tests.example_model.estimator:logistic",
        training={"calibrationLength": "5d", "calibration": "sigmoid", **training}, evaluation=evaluation,
    )  # fmt: skip
    examples = FRAME.drop(columns=["minutes", *NAMES]) if examples is None else examples
    about = build(model, examples, Joined(), START + timedelta(days=days), "source", out)
    return model, about, read(out)[1]


def parts(out, references, **given):
    model, about, table = made(out, references, **given)
    return split(about, table, calibrates=model.spec.training.calibrates)


def flights(table):
    return set(table.flight)


def members(keys=("flight",), share=0.2, table=FRAME):
    return set_aside(table, SetAside(share=share, keys=keys))


# -- which rows --------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**16), st.integers(1, len(FRAME)))
def test_whether_a_row_is_set_aside_depends_on_nothing_but_the_row(seed, count):
    some = FRAME.sample(count, random_state=seed)
    other = some.assign(late=1 - some.late, known_at=some.known_at + timedelta(days=9), wind=0.0)
    assert flights(other[members(table=other)]) == flights(FRAME[members()]) & flights(some)


def test_its_instant_and_each_of_its_keys_count():
    alike = pd.DataFrame({EVENT_TIMESTAMP: FRAME[EVENT_TIMESTAMP].iloc[:1].repeat(400), "a": "x", "b": np.arange(400)})
    assert len(np.unique(chances(alike, ("a",)))) == 1
    assert len(np.unique(chances(alike, ("a", "b")))) == 400
    later = alike.assign(**{EVENT_TIMESTAMP: alike[EVENT_TIMESTAMP] + pd.to_timedelta(np.arange(400), "us")})
    assert len(np.unique(chances(later, ("a",)))) == 400


def test_a_value_counts_as_what_it_is_and_not_by_its_type():
    numbers = [3, 0, -7, 2**40]
    asked = FRAME[EVENT_TIMESTAMP].iloc[:4].reset_index(drop=True)
    frames = [pd.DataFrame({EVENT_TIMESTAMP: asked, "k": pd.array(numbers, t)}) for t in ("int64", "float64", "Int64")]
    frames.append(frames[1].assign(k=[3.0, -0.0, -7.0, 2.0**40]))
    frames.append(frames[0].assign(**{EVENT_TIMESTAMP: asked.dt.tz_convert("Asia/Tokyo").dt.as_unit("ns")}))
    for frame in frames[1:]:
        np.testing.assert_array_equal(chances(frame, ("k",)), chances(frames[0], ("k",)))
    text = pd.DataFrame({EVENT_TIMESTAMP: asked, "k": ["a", None, "b", "a"]})
    for dtype in ("category", "string"):
        np.testing.assert_array_equal(chances(text.astype({"k": dtype}), ("k",)), chances(text, ("k",)))
    np.testing.assert_array_equal(chances(text.iloc[::-1], ("k",))[::-1], chances(text, ("k",)))


def test_numbers_that_are_missing_and_instants_are_keys_too():
    asked = FRAME[EVENT_TIMESTAMP].iloc[:3].reset_index(drop=True)
    frame = pd.DataFrame({EVENT_TIMESTAMP: asked, "due": asked + timedelta(days=1), "k": [1.0, np.nan, np.nan]})
    same = frame.assign(k=pd.array([1, None, None], "Int64"), due=frame.due.dt.tz_convert("Asia/Tokyo"))
    np.testing.assert_array_equal(chances(frame, ("k", "due")), chances(same, ("due", "k")))
    assert not np.array_equal(chances(frame, ("k",)), chances(frame, ("k", "due")))


def test_what_is_set_aside_stays_so_from_release_to_release():
    frame = pd.DataFrame(
        {
            EVENT_TIMESTAMP: pd.to_datetime(["2024-01-01T00:00:00Z", "2024-01-01T00:00:00.000001Z"], format="ISO8601"),
            "number": [7, 8],
            "text": ["Zürich", None],
        }
    )
    np.testing.assert_allclose(chances(frame, ("text", "number")), [0.3332302580443015, 0.8781197464016356], atol=1e-15)


@pytest.mark.parametrize("share", [0.01, 0.05, 0.5])
def test_the_share_is_right_in_all_and_in_each_period(share):
    table = rows(days=300, per_day=100)
    found = members(share=share, table=table)
    for count, n in [(found.sum(), len(found)), *((part.sum(), len(part)) for part in np.split(found, 10))]:
        assert binom.ppf(1e-4, n, share) <= count <= binom.ppf(1 - 1e-4, n, share)


def test_a_larger_share_sets_more_aside_and_nothing_free():
    sets = [members(share=share) for share in (0.05, 0.2, 0.5)]
    for smaller, larger in pairwise(sets):
        assert (larger | ~smaller).all()
        assert larger.sum() > smaller.sum()


def test_without_a_rule_nothing_is_set_aside():
    assert not set_aside(FRAME, None).any()


@given(
    st.lists(st.integers(-3_000, 3_000), max_size=30), st.integers(-3_000, 3_000), st.integers(1, 40), st.integers(1, 9)
)
def test_judged_are_the_newest_whole_periods_before_the_holdout(days, holdout, length, count):
    epoch, rule = datetime(1970, 1, 1, tzinfo=UTC), References(period=timedelta(days=length), periods=count)
    whole = [n for n in range(-4_000, 4_000) if (n + 1) * length <= holdout][-count:]
    expected = [any(n * length <= day < (n + 1) * length for n in whole) for day in days]
    found = judged(np.array(days, np.int64) * 86_400_000_000, epoch + timedelta(days=holdout), rule)
    assert found.tolist() == expected


# -- in a training set -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", WINDOWS, ids=lambda w: w["kind"])
@pytest.mark.parametrize("calibration", ["none", "sigmoid"])
def test_what_is_set_aside_is_never_fitted_or_calibrated_on_and_is_there_with_its_features(
    tmp_path, window, calibration
):
    cut = parts(tmp_path, REFERENCES, window=window, calibration=calibration)
    aside = flights(FRAME[members()])
    assert not aside & (flights(cut.fit) | flights(cut.calibration))
    assert len(cut.fit) > 100
    # The holdout begins on the 19,802nd day since 1970, and START is the 19,723rd: periods begin on days 7, 17, ...
    since, until = START + timedelta(days=37), START + timedelta(days=77)
    asked = FRAME[EVENT_TIMESTAMP]
    wanted = FRAME[members() & (asked >= since) & (asked < until)]
    found = cut.set_aside[(cut.set_aside[EVENT_TIMESTAMP] >= since) & (cut.set_aside[EVENT_TIMESTAMP] < until)]
    assert found.flight.tolist() == wanted.flight.tolist()
    pd.testing.assert_frame_equal(found[NAMES].reset_index(drop=True), wanted[NAMES].reset_index(drop=True))
    assert cut.set_aside[EVENT_TIMESTAMP].min() >= since


@pytest.mark.parametrize("window", WINDOWS[:2], ids=lambda w: w["kind"])
def test_the_rest_is_fitted_and_calibrated_on_as_without_and_the_holdout_is_whole(tmp_path, window):
    off, on = (parts(tmp_path / str(bool(r)), r, window=window) for r in (None, REFERENCES))
    aside = flights(FRAME[members()])
    assert flights(on.fit) == flights(off.fit) - aside
    assert flights(on.calibration) == flights(off.calibration) - aside
    assert flights(on.holdout) == flights(off.holdout)
    assert flights(on.holdout) & aside


def test_windows_that_choose_by_number_choose_as_many_of_the_rest(tmp_path):
    cut = parts(tmp_path, REFERENCES, window={"kind": "reservoir", "recent": "5d", "rows": 200})
    recent = cut.fit[EVENT_TIMESTAMP] >= START + timedelta(days=70)
    assert (~recent).sum() == 200


@settings(max_examples=12)
@given(st.integers(60, 95), st.integers(60, 95), st.integers(0, 2**16))
def test_the_set_of_a_period_is_the_same_as_of_any_instant(tmp_path_factory, one, other, seed):
    examples = FRAME.drop(columns=["minutes", *NAMES]).sample(frac=1, random_state=seed)
    out = tmp_path_factory.mktemp("set")
    first = by_period(made(out / "a", REFERENCES, days=one, window=WINDOWS[1]))
    then = by_period(made(out / "b", REFERENCES, days=other, window=WINDOWS[0], seed=seed, examples=examples))
    assert len(first) == len(then) == 4
    for period in first.keys() & then.keys():
        assert first[period] == then[period]


def by_period(found):
    """The flights of each period that is judged."""
    _, about, table = found
    aside, rule = split(about, table).set_aside, References.model_validate(REFERENCES)
    aside = aside[judged(microseconds(aside[EVENT_TIMESTAMP]), about.holdout_from, rule)]
    numbers = microseconds(aside[EVENT_TIMESTAMP]) // (10 * 86_400_000_000)
    return {number: aside.flight[numbers == number].tolist() for number in numbers}


def test_labels_are_those_that_were_known(tmp_path):
    examples = FRAME.drop(columns=["minutes", *NAMES])
    aside = examples[members()].iloc[200]
    examples.loc[examples.flight == aside.flight, KNOWN_AT] = START + timedelta(days=89)
    for days, there in ((88, False), (89, True)):
        cut = parts(tmp_path / str(days), REFERENCES | {"periods": 100}, days=days, examples=examples)
        assert (aside.flight in flights(cut.set_aside)) == there


def test_without_references_nothing_is_told_of_them(tmp_path):
    model, about, _ = made(tmp_path, None)
    assert "set_aside" not in json.loads((tmp_path / "training_set.json").read_text())
    text = (tmp_path / "training_set.json").read_text()
    assert text == about.model_copy().model_dump_json(indent=1) + "\n"
    given_ = model.dump()
    given_["spec"]["evaluation"].pop("references")
    assert identify(type(model).model_validate(given_), about) == identify(model, about)


def test_what_is_set_aside_is_part_of_the_identity(tmp_path):
    model, off, _ = made(tmp_path / "off", None)
    _, small, _ = made(tmp_path / "small", REFERENCES | {"periods": 100})
    _, large, _ = made(tmp_path / "large", REFERENCES | {"periods": 100, "share": 0.3})
    assert small.data_digest == large.data_digest  # the same rows, of which more are set aside
    digests = {identify(model, about).parameters for about in (off, small, large)}
    assert len(digests) == 3


def test_the_first_instant_is_that_of_what_may_be_fitted_on(tmp_path):
    _, about, table = made(tmp_path, REFERENCES, window={"kind": "sliding", "length": "15d"})
    assert table[EVENT_TIMESTAMP].min() < about.first
    assert about.first == table[EVENT_TIMESTAMP][~members(table=table)].min()


def test_a_slice_that_is_no_column_is_named(tmp_path):
    with pytest.raises(DataError, match=r"references.slices\[1\]: must be a column of the training set, found 'metre'"):
        made(tmp_path, REFERENCES | {"slices": ["origin", "metre"]})


def test_microseconds_are_counted_in_utc():
    instants = pd.Series(pd.to_datetime(["1970-01-01T01:00:00+01:00", "1970-01-01T01:00:01+01:00"]))
    assert microseconds(instants).tolist() == [0, 1_000_000]
