"""Windows: laws that hold for every kind, plain loops that say the same, and what is seen in simulated worlds."""

from __future__ import annotations

import copy
import math
from datetime import UTC, datetime, timedelta
from typing import get_args

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from scipy import stats
from sklearn.ensemble import HistGradientBoostingClassifier

from evergrow.contracts import EVENT_TIMESTAMP, KNOWN_AT
from evergrow.data.training_set import build, read
from evergrow.data.windows import FEWEST, Candidates, chances, needs_features, select
from evergrow.errors import NotEnoughData, SpecError
from evergrow.learning.learn import single_threaded
from evergrow.learning.losses import row_losses
from evergrow.learning.parts import split
from evergrow.simulation.worlds import ConceptDrift, CovariateShift, Sudden, World, draw
from evergrow.spec import parse
from evergrow.spec.windows import Dynamic, Hard, Similar, Window
from evergrow.statistics.change import last_change
from tests.documents import WINDOWS
from tests.unit.data.test_ingest import at
from tests.unit.data.test_training_set import Levels, document, examples
from tests.unit.spec.test_load import DOCUMENT

START, DAYS = np.datetime64("2024-01-01", "us"), 120
DAY, MINUTE = np.timedelta64(86_400_000_000, "us"), np.timedelta64(60_000_000, "us")
UNTIL = START + DAYS * DAY
KINDS = [kind.model_fields["kind"].default for kind in get_args(get_args(Window)[0])]


def window(**given):
    return TypeAdapter(Window).validate_python(given)


def of_frame(frame):
    asked = frame[EVENT_TIMESTAMP].dt.tz_localize(None).to_numpy("datetime64[us]")
    X = frame[[c for c in frame if c.startswith("x")]].to_numpy(np.float32)
    return Candidates(asked, X, frame["label"].to_numpy(np.float64))


def world(days=DAYS, rows=60, **changes):
    return of_frame(draw(World(days=days, rows=rows, **changes)))


def chosen(which, rows, until=UNTIL, task="binary-classification", metric="log_loss", seed=0):
    return select(which, rows, until, task, metric, seed)


def some(task):
    """Rows with gaps, a category, and rows that share an instant; nothing may write into them."""
    rows = world(concept=ConceptDrift(course=Sudden(at=70), angle=90))
    asked, random = rows.asked.copy(), np.random.default_rng(0)
    X = np.where(random.random(rows.X.shape) < 0.05, np.nan, rows.X)
    X = np.column_stack([X, random.integers(0, 4, len(X))]).astype(np.float32)
    asked[1::2] = asked[::2]
    y = rows.y if task == "binary-classification" else np.exp(rows.X[:, 0] + rows.y)
    for array in (asked, X, y):
        array.setflags(write=False)
    return Candidates(asked, X, y)


TASKS = [("binary-classification", "log_loss"), ("regression", "mae"), ("regression", "poisson_deviance")]
ROWS = {task: some(task) for task, _ in TASKS}
LAW = pytest.mark.parametrize("which", [window(**given) for given in WINDOWS], ids=lambda w: w.kind)


# -- laws --------------------------------------------------------------------------------------------------------------


def test_every_kind_of_window_is_held_to_the_laws():
    assert sorted(given["kind"] for given in WINDOWS) == sorted(KINDS)


@pytest.mark.parametrize(("task", "metric"), TASKS)
@LAW
def test_the_same_rows_are_chosen_again_and_something_is(which, task, metric):
    found = [chosen(which, ROWS[task], task=task, metric=metric, seed=3) for _ in range(2)]
    assert found[0].dtype == np.bool_
    assert found[0].shape == ROWS[task].asked.shape
    assert found[0].any()
    np.testing.assert_array_equal(*found)


@LAW
def test_of_nothing_nothing_is_chosen(which):
    empty = ROWS["regression"].only(np.zeros(len(ROWS["regression"]), bool))
    assert chosen(which, empty, task="regression", metric="mae").shape == (0,)


@LAW
def test_what_is_asked_for_later_is_never_chosen_and_changes_nothing(which):
    rows, until = ROWS["binary-classification"], START + 100 * DAY
    before = rows.asked < until
    rows = Candidates(rows.asked, np.where(before[:, None], rows.X, np.inf), np.where(before, rows.y, np.nan))
    found = chosen(which, rows, until)
    assert not found[~before].any()
    np.testing.assert_array_equal(found[before], chosen(which, rows.only(before), until))


@LAW
def test_categories_may_stand_under_other_numbers_of_the_same_order(which):
    rows = ROWS["binary-classification"]
    X = rows.X.copy()
    X[:, -1] = np.array([-3, 1, 64, 1000])[rows.X[:, -1].astype(int)]
    np.testing.assert_array_equal(chosen(which, Candidates(rows.asked, X, rows.y)), chosen(which, rows))


@LAW
def test_features_and_labels_are_looked_at_only_where_that_is_said(which):
    rows = ROWS["binary-classification"]
    bare = chosen(which, Candidates.at(rows.asked))
    assert needs_features(which) != np.array_equal(bare, chosen(which, rows))


@LAW
def test_all_of_the_newest_is_kept(which):
    newest = getattr(which, "recent", getattr(which, "least", timedelta(0)))
    rows = ROWS["binary-classification"]
    assert chosen(which, rows)[UNTIL - rows.asked < np.timedelta64(newest)].all()


@LAW
def test_only_chance_depends_on_the_seed(which):
    rows = ROWS["binary-classification"]
    same = np.array_equal(chosen(which, rows, seed=1), chosen(which, rows, seed=2))
    assert same == (which.kind not in ("decay", "reservoir", "similar"))


@pytest.mark.parametrize("which", [window(kind="decay", halfLife="9d"), window(kind="reservoir", recent="9d", rows=50)])
def test_a_row_that_a_later_training_keeps_was_kept_before(which):
    rows = ROWS["binary-classification"]
    earlier, later = chosen(which, rows, START + 90 * DAY), chosen(which, rows)
    old = rows.asked < START + 81 * DAY
    assert (later & old).any()
    assert not (later & old & ~earlier).any()


# -- plain loops -------------------------------------------------------------------------------------------------------


def mixed(z):
    """SplitMix64's finaliser, in whole numbers without end."""
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def chance(seed, instant, place):
    state = seed
    for part in (instant, place):
        state = mixed((state + 0x9E3779B97F4A7C15) % 2**64) ^ part
    return (mixed((state + 0x9E3779B97F4A7C15) % 2**64) >> 11) / 2**53


def placed(asked):
    """Each instant as a number, and its place among equal ones."""
    instants = [int(i) for i in asked.astype(np.int64)]
    return [(instant, instants[:i].count(instant)) for i, instant in enumerate(instants)]


minutes = st.integers(1, 60).map(lambda m: timedelta(minutes=m))
instants = st.lists(st.integers(0, 200), max_size=40).map(lambda m: START + np.array(sorted(m), int) * MINUTE)
ends = st.integers(0, 220).map(lambda m: START + m * MINUTE)


def ages(asked, until):
    return [(until - instant).astype("timedelta64[us]").item() for instant in asked]


@given(instants, st.integers(0, 2**32 - 1))
def test_chances_are_those_of_a_plain_loop(asked, seed):
    assert chances(asked, seed).tolist() == [chance(seed, *row) for row in placed(asked)]


@given(instants, ends, minutes)
def test_sliding_is_what_a_plain_loop_says(asked, until, length):
    found = chosen(window(kind="sliding", length=length), Candidates.at(asked), until)
    assert found.tolist() == [timedelta(0) < age < length for age in ages(asked, until)]


@given(instants, ends, st.integers(0, 200), minutes)
def test_fixed_is_what_a_plain_loop_says(asked, until, since, length):
    first = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(minutes=since)
    found = chosen(window(kind="fixed", since=first, until=first + length), Candidates.at(asked), until)
    instant = [i.item().replace(tzinfo=UTC) for i in asked]
    expected = [first <= i < first + length and a > timedelta(0) for i, a in zip(instant, ages(asked, until), strict=1)]
    assert found.tolist() == expected


@given(instants, ends, minutes, minutes, minutes)
def test_season_is_what_a_plain_loop_says(asked, until, period, within, recent):
    which = window(kind="season", period=period, within=within, recent=recent)
    expected = [
        age > timedelta(0) and (age < recent or any(abs(age - k * period) <= within for k in range(1, 222)))
        for age in ages(asked, until)
    ]
    assert chosen(which, Candidates.at(asked), until).tolist() == expected


@given(instants, ends, minutes, st.integers(0, 2**32 - 1))
def test_decay_is_what_a_plain_loop_says(asked, until, half_life, seed):
    found = chosen(window(kind="decay", halfLife=half_life), Candidates.at(asked), until, seed=seed)
    expected = [
        age > timedelta(0) and chance(seed, *row) < 2 ** -(age / half_life)
        for age, row in zip(ages(asked, until), placed(asked), strict=True)
    ]
    assert found.tolist() == expected


@given(instants, ends, minutes, st.integers(1, 10), st.integers(0, 2**32 - 1))
def test_a_reservoir_is_what_a_plain_loop_says(asked, until, recent, rows, seed):
    found = chosen(window(kind="reservoir", recent=recent, rows=rows), Candidates.at(asked), until, seed=seed)
    age = ages(asked, until)
    older = sorted((chance(seed, *row), i) for i, row in enumerate(placed(asked)) if age[i] >= recent)
    expected = {i for i in range(len(asked)) if timedelta(0) < age[i] < recent} | {i for _, i in older[:rows]}
    assert set(np.flatnonzero(found)) == expected


# -- chance ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "asked",
    [START + np.arange(50_000) * MINUTE, START + np.arange(50_000), np.repeat(START, 50_000)],
    ids=["minutes apart", "microseconds apart", "at one instant"],
)
@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_chances_are_uniform_and_say_nothing_of_each_other(asked, seed):
    u, other = chances(asked, seed), chances(asked, seed ^ 1)
    assert u.min() >= 0
    assert u.max() < 1
    assert stats.kstest(u, "uniform").pvalue > 1e-3
    for next_to in (np.roll(u, 1), np.roll(u, 7), other):
        assert abs(np.corrcoef(u, next_to)[0, 1]) < 4 / math.sqrt(len(u))


def test_of_each_half_life_that_a_row_is_older_half_as_many_are_kept():
    asked = START + np.arange(DAYS * 24 * 60) * MINUTE
    found = chosen(window(kind="decay", halfLife="20d"), Candidates.at(asked))
    for halves in range(6):
        at_age = np.abs((UNTIL - asked) / DAY - 20 * halves - 0.5) < 0.5
        rate = 0.5 ** (halves + 0.025)
        assert stats.binomtest(int(found[at_age].sum()), int(at_age.sum()), rate).pvalue > 1e-3


def test_every_older_row_is_as_likely_in_a_reservoir_as_any_other():
    asked = START + (np.arange(DAYS * 24) * 60 + 30) * MINUTE
    which = window(kind="reservoir", recent="20d", rows=240)
    kept = sum(chosen(which, Candidates.at(asked), seed=seed).astype(int) for seed in range(100))[: 100 * 24]
    assert kept.sum() == 100 * 240
    assert stats.chisquare(kept.reshape(50, -1).sum(axis=1)).pvalue > 1e-3


def category(older, recent, rows=200):
    """Rows of two categories: the share of the second differs between what is older and the newest 28 days."""
    asked = START + np.arange(DAYS * rows) * (DAY / rows).astype("timedelta64[us]")
    share = np.where(UNTIL - asked > 28 * DAY, older, recent)
    X = (np.random.default_rng(0).random(len(asked)) < share).astype(np.float32)[:, None]
    return Candidates(asked, X, np.zeros(len(asked)))


def test_older_rows_are_kept_by_the_ratio_of_the_densities_of_recent_and_of_older_ones():
    rows = category(older=0.2, recent=0.6)
    kept, old = chosen(Similar(), rows), UNTIL - rows.asked > 28 * DAY
    rates = [kept[old & (rows.X[:, 0] == c)].mean() for c in (0, 1)]
    assert rates[1] > 0.95
    assert rates[0] / rates[1] == pytest.approx((0.4 / 0.8) / (0.6 / 0.2), rel=0.15)
    assert rows.X[kept & old].mean() == pytest.approx(0.6, abs=0.03)


def test_older_rows_become_more_like_recent_ones_where_other_rows_are_asked_for():
    rows = world(covariates=CovariateShift(course=Sudden(at=DAYS - 28), by=1.5))
    kept, old = chosen(Similar(), rows), UNTIL - rows.asked > 28 * DAY
    recent, before, after = (rows.X[part].mean(axis=0) for part in (~old, old, old & kept))
    assert np.linalg.norm(after - recent) < 0.5 * np.linalg.norm(before - recent)


def test_where_nothing_moves_most_older_rows_are_similar_and_none_is_preferred():
    rows = world(rows=200)
    kept, old = chosen(Similar(), rows), UNTIL - rows.asked > 28 * DAY
    assert kept[old].mean() > 0.4
    np.testing.assert_allclose(rows.X[kept & old].mean(axis=0), rows.X[old].mean(axis=0), atol=0.06)


# -- what is learnt ----------------------------------------------------------------------------------------------------


def cut(rows, days, **given):
    """How many days back a dynamic window reaches."""
    until = START + days * DAY
    found = chosen(Dynamic(**given), rows, until)
    first = np.flatnonzero(found)[0]
    assert found[first:].all()
    return math.ceil((until - rows.asked[first]) / DAY)


def test_a_window_is_cut_where_features_began_to_mean_something_else():
    changed = {"concept": ConceptDrift(course=Sudden(at=30), angle=90)}
    found = np.array([cut(world(90, 40, seed=seed, **changed), 90) for seed in range(8)])
    assert np.sum(np.abs(found - 60) <= 2) >= 7


def test_a_window_grows_while_nothing_changes():
    found = np.array([cut(world(90, 40, seed=seed), 90) for seed in range(8)])
    assert np.sum(found < 90) <= 1


def test_a_window_is_never_cut_shorter_than_its_least():
    rows = world(rows=100, concept=ConceptDrift(course=Sudden(at=DAYS - 12), angle=180))
    assert cut(rows, DAYS) == 28
    assert cut(rows, DAYS, least=timedelta(days=10)) in (10, 11, 12, 13)


def test_what_a_probe_was_fitted_on_does_not_look_like_a_change():
    cuts, naive = 0, 0
    for seed in range(4):
        random = np.random.default_rng(seed)
        asked = START + np.sort(random.integers(0, DAYS * 86_400_000_000, DAYS * 30))
        noise = Candidates(asked, random.normal(size=(DAYS * 30, 8)), (random.random(DAYS * 30) < 0.4).astype(float))
        day = ((asked - START) // DAY).astype(int)
        recent = day >= DAYS - 28
        with single_threaded():
            seen = HistGradientBoostingClassifier(max_iter=50).fit(noise.X[recent], noise.y[recent])
        losses = row_losses("log_loss", noise.y, seen.predict_proba(noise.X)[:, 1])
        naive += last_change(np.bincount(day, losses) / np.bincount(day), 0.05) == DAYS - 28
        cuts += cut(noise, DAYS) < DAYS
    assert naive >= 3
    assert cuts <= 1


def test_days_without_rows_are_passed_over():
    rows = world(rows=100, concept=ConceptDrift(course=Sudden(at=60), angle=90))
    day = ((rows.asked - START) / DAY).astype(int)
    assert cut(rows.only(day % 7 < 5), DAYS) in range(58, 65)


def test_hard_rows_are_those_that_went_against_what_is_true_now():
    rows = world(rows=100)
    old = UNTIL - rows.asked >= 28 * DAY
    wrong = old & (np.random.default_rng(0).random(len(rows)) < 0.1)
    turned = Candidates(rows.asked, rows.X, np.where(wrong, 1 - rows.y, rows.y))
    kept = chosen(Hard(recent=timedelta(days=28), share=0.2), turned)
    assert (kept & old).sum() == math.ceil(0.2 * old.sum())
    assert kept[wrong].mean() > 0.6
    assert kept[old & ~wrong].mean() < 0.17


def test_all_older_rows_are_the_hardest_share_of_one():
    assert chosen(Hard(recent=timedelta(days=28), share=1.0), ROWS["binary-classification"]).all()


@pytest.mark.parametrize("which", [Dynamic(), Similar(), Hard(recent=timedelta(days=28), share=0.1)], ids=str)
def test_all_is_kept_where_there_is_too_little_to_learn_from(which):
    few = world(days=DAYS, rows=1)
    assert len(few.only(UNTIL - few.asked < 28 * DAY)) < FEWEST
    assert chosen(which, few).all()
    recent = world(days=20)
    assert chosen(which, recent, START + 20 * DAY).all()


@pytest.mark.parametrize("which", [Dynamic(), Hard(recent=timedelta(days=28), share=0.1)], ids=str)
def test_all_is_kept_where_labels_are_all_alike(which):
    rows = ROWS["binary-classification"]
    assert chosen(which, Candidates(rows.asked, rows.X, np.ones(len(rows)))).all()
    negative = Candidates(rows.asked, rows.X, -np.ones(len(rows)))
    assert chosen(which, negative, task="regression", metric="poisson_deviance").all()


# -- the document ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "fixed", "since": "2024-03-01T00:00:00Z", "until": "2024-03-01T00:00:00Z"}, "`until` must be after"),
        ({"kind": "fixed", "since": "2024-03-01T00:00:00", "until": "2024-04-01T00:00:00Z"}, "must be an instant such"),
        ({"kind": "fixed", "since": "2024-03-01", "until": "2024-04-01T00:00:00Z"}, "must be an instant such as"),
        ({"kind": "fixed", "since": datetime(2024, 3, 1), "until": "2024-04-01T00:00:00Z"}, "timezone"),
        ({"kind": "dynamic", "alpha": 0.5}, "less than 0.5"),
        ({"kind": "dynamic", "least": "12h"}, "greater than or equal to"),
        ({"kind": "season", "within": "0s"}, "greater than or equal to"),
        ({"kind": "decay", "halfLife": "0s"}, "greater than or equal to"),
        ({"kind": "reservoir", "recent": "3d", "rows": 0}, "greater than 0"),
        ({"kind": "hard", "recent": "3d", "share": 1.1}, "less than or equal to 1"),
        ({"kind": "hard", "recent": "3d", "share": 0}, "greater than 0"),
        ({"kind": "sliding"}, "Field required"),
        ({"kind": "all", "length": "3d"}, "Extra inputs are not permitted"),
    ],
)
def test_a_window_that_cannot_be_is_refused_in_words(given, message):
    with pytest.raises(ValidationError, match=message):
        window(**given)


def test_a_window_that_is_known_by_no_name_is_refused_with_the_names():
    changed = copy.deepcopy(DOCUMENT)
    changed["spec"]["training"]["window"] = {"kind": "rolling"}
    with pytest.raises(SpecError, match="'reservoir', 'similar', 'hard'"):
        parse(changed)


def test_windows_are_written_as_they_always_were():
    assert parse(DOCUMENT).spec.training.dump()["window"] == {"kind": "all"}
    assert window(kind="sliding", length="90d").dump() == {"kind": "sliding", "length": "90d"}


# -- training sets -----------------------------------------------------------------------------------------------------

SHORT = [
    {"kind": "all"},
    {"kind": "fixed", "since": "2024-01-02T00:00:00Z", "until": "2024-01-05T00:00:00Z"},
    {"kind": "sliding", "length": "4d"},
    {"kind": "dynamic", "least": "4d"},
    {"kind": "season", "period": "3d", "within": "3h", "recent": "1d"},
    {"kind": "decay", "halfLife": "3d"},
    {"kind": "reservoir", "recent": "1d", "rows": 30},
    {"kind": "similar", "recent": "3d"},
    {"kind": "hard", "recent": "3d", "share": 0.2},
]


def made(tmp_path, rows, **training):
    model = document(**training)
    build(model, rows, Levels(), at(390), "source", tmp_path)
    return read(tmp_path)


@pytest.mark.parametrize("given", SHORT, ids=lambda w: w["kind"])
def test_a_training_set_has_the_rows_of_its_window_and_all_of_the_parts_after_it(tmp_path, given):
    assert [w["kind"] for w in SHORT] == KINDS
    whole, every = made(tmp_path / "all", examples())
    about, rows = made(tmp_path / "some", examples(), window=given)
    again, _ = made(tmp_path / "again", examples().sample(frac=1, random_state=1), window=given)
    assert again == about
    assert (about.holdout_from, about.calibration_from) == (whole.holdout_from, whole.calibration_from)

    until = np.datetime64(about.calibration_from.replace(tzinfo=None), "us")
    asked = every[EVENT_TIMESTAMP].dt.tz_localize(None).to_numpy("datetime64[us]")
    X = np.column_stack([every.level, every.kind.map({"x": 0.0})]).astype(np.float32)
    candidates = Candidates(asked, X, every.litres.to_numpy())
    expected = chosen(window(**given), candidates, until, "regression", "mae") | (asked >= until)
    assert about.rows == expected.sum()
    pd.testing.assert_frame_equal(rows, every[expected].reset_index(drop=True))


SEARCH = {"search": {"trials": 1, "space": {"depth": {"low": 1, "high": 2}}}}


def some_late():
    """Every third label becomes known two days after the others."""
    rows = examples()
    rows.loc[rows.index % 3 == 0, KNOWN_AT] += pd.Timedelta(days=2)
    return rows


@pytest.mark.parametrize("given", SHORT, ids=lambda w: w["kind"])
def test_labels_that_came_after_the_fitted_part_are_not_chosen_among_and_change_nothing(tmp_path, given):
    about, rows = made(tmp_path / "one", some_late(), window=given, **SEARCH)
    late = (rows[EVENT_TIMESTAMP] < about.calibration_from) & (rows[KNOWN_AT] > about.calibration_from)
    assert late.any() == (given["kind"] in ("all", "sliding"))
    changed = some_late()
    changed.loc[changed[KNOWN_AT] > about.calibration_from, "litres"] += 50.0
    found, others = made(tmp_path / "other", changed, window=given, **SEARCH)
    pd.testing.assert_frame_equal(split(found, others).fit, split(about, rows).fit)


def test_where_nothing_is_calibrated_labels_may_come_until_the_holdout(tmp_path):
    whole = {"kind": "fixed", "since": "2024-01-01T00:00:00Z", "until": "2025-01-01T00:00:00Z"}
    about, rows = made(tmp_path, some_late(), window=whole)
    late = (rows[EVENT_TIMESTAMP] < about.calibration_from) & (rows[KNOWN_AT] > about.calibration_from)
    assert late.any()
    assert (rows[KNOWN_AT][late] <= about.holdout_from).all()


def test_a_window_that_leaves_nothing_is_named_with_its_lengths_and_the_instants(tmp_path):
    early = {"kind": "fixed", "since": "2023-01-01T00:00:00Z", "until": "2023-02-01T00:00:00Z"}
    with pytest.raises(
        NotEnoughData,
        match=r"training.window fixed \(since 2023-01-01T00:00:00Z, until 2023-02-01T00:00:00Z\) leaves nothing to fit "
        r"on: none of 634 labelled rows, asked from 2024-01-01T00:00:00\+00:00 to 2024-01-14T04:00:00\+00:00, is in it",
    ):
        made(tmp_path, examples(), window=early)
