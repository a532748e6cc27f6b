import shutil
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t

from evergrow.contracts import SetAside, TrainingSet
from evergrow.data import training_set as training_sets
from evergrow.data.references import set_aside
from evergrow.evaluation.card import model_card
from evergrow.evaluation.evaluate import evaluate
from evergrow.evaluation.forgetting import Remembered, judge
from evergrow.evaluation.gate import ChallengerLosses, ChampionLosses
from evergrow.learning.bundle import Bundle
from evergrow.learning.fit import fit
from evergrow.learning.losses import row_losses
from evergrow.spec.model import Gate, References
from evergrow.statistics.means import alike, mean
from tests.builders import document, rows, training_set
from tests.unit.pages import builders as pages

DAY = 86_400_000_000
RANDOM = np.random.default_rng(0)
PERIODS, DAYS, EACH = 4, 30, 20
ASKED = np.repeat(np.arange(PERIODS * DAYS), EACH) * DAY
PERIOD = ASKED // (DAYS * DAY)
OLD = RANDOM.gamma(2, 0.25, len(ASKED))
NOISE = RANDOM.normal(0, 0.1, len(ASKED))
PLACE = np.array(["here", "there"], object)[RANDOM.integers(0, 2, len(ASKED))]
GATE = Gate(metric="log_loss")


def judged(new, old=OLD, asked=ASKED, **rule):
    columns = pd.DataFrame({"place": PLACE[: len(asked)]})
    return judge(References(**rule), GATE, Remembered(asked, columns), ChampionLosses(old), ChallengerLosses(new))


def risen(by, where=PERIOD == 1):
    """Losses that have risen by a share of the mean, somewhere."""
    return OLD + NOISE + np.where(where, by * OLD.mean(), 0.0)


def test_a_clear_rise_in_one_period_fails_and_one_that_is_tolerated_passes():
    up, fine = judged(risen(0.3))[0], judged(risen(0.05))[0]
    assert (up.name, up.verdict.outcome, fine.verdict.outcome) == ("forgetting", "fail", "pass")


def test_a_rise_that_is_not_shown_to_be_too_large_passes():
    assert judged(risen(0.11))[0].verdict.outcome == "pass"
    assert judged(risen(0.11), tolerance=0.02)[0].verdict.outcome == "fail"


def test_a_fall_passes_however_large_and_the_models_cannot_be_swapped():
    assert judged(risen(-0.5))[0].verdict.outcome == "pass"
    assert judged(OLD, risen(-0.5))[0].verdict.outcome == "fail"


def test_a_rise_in_a_slice_is_seen_where_slices_are_judged():
    new = risen(0.25, (PERIOD == 2) & (PLACE == "there"))
    assert judged(new, tolerance=0.15)[0].verdict.outcome == "pass"
    check, transfers = judged(new, tolerance=0.15, slices=("place",))
    assert check.verdict.outcome == "fail"
    assert [(one.since, one.slice) for one in transfers if one.forgotten] == [
        (datetime(1970, 3, 2, tzinfo=UTC), "place=there")
    ]


def test_each_period_is_told_of_with_both_losses_and_what_was_transferred():
    _, transfers = judged(risen(0.3), slices=("place",))
    assert [(one.since.date().isoformat(), one.slice) for one in transfers[:4]] == [
        ("1970-01-01", ""), ("1970-01-01", "place=here"), ("1970-01-01", "place=there"), ("1970-01-31", ""),
    ]  # fmt: skip
    for one in transfers:
        days = (one.since - datetime(1970, 1, 1, tzinfo=UTC)).days
        mine = (days // 30 == PERIOD) & ((one.slice.removeprefix("place=") == PLACE) | (one.slice == ""))
        assert one.until - one.since == timedelta(days=30)
        assert one.rows == mine.sum()
        assert one.loss == pytest.approx(risen(0.3)[mine].mean())
        assert one.champion_loss == pytest.approx(OLD[mine].mean())
        assert one.transfer == pytest.approx(one.champion_loss - one.loss)
        assert one.low < one.transfer < one.high


def test_the_reason_names_the_worst_set_with_both_numbers():
    check, (_, worst, *_) = judged(risen(0.3))
    assert worst.forgotten
    assert check.verdict.reason == (
        "forgotten in 1 of 4 sets; worst 1970-01-31 to 1970-03-02: "
        f"log_loss {worst.loss:.4f} vs champion {worst.champion_loss:.4f}, "
        f"backward transfer {worst.transfer:+.4f} [{worst.low:+.4f}, {worst.high:+.4f}], tolerance 0.1, n=600"
    )
    fine = judged(risen(0.3, (PERIOD == 2) & (PLACE == "there")), slices=("place",), tolerance=0.5)[0].verdict
    assert fine.reason.startswith("not shown in any of 12 sets; worst 1970-03-02 to 1970-04-01, place=there: log_loss ")


def test_the_mean_is_over_periods_and_counts_none_of_them_twice():
    _, transfers = judged(risen(0.4), slices=("place",))
    by_hand = [(OLD - risen(0.4))[number == PERIOD].mean() for number in range(PERIODS)]
    assert pages.report(transfers=transfers).backward_transfer == pytest.approx(np.mean(by_hand))
    assert pages.report().backward_transfer is None


def test_sets_of_few_rows_or_blocks_are_told_of_and_not_judged():
    check, transfers = judged(risen(0.5), minimum_rows=601)
    assert check.verdict.outcome == "pass"
    assert check.verdict.reason == "no period has 601 rows in 8 blocks set aside yet: nothing can be shown"
    assert [(one.rows, one.p_value) for one in transfers] == [(600, None)] * PERIODS
    few = ASKED % (DAYS * DAY) < 7 * DAY
    check, transfers = judged(risen(0.5)[few], OLD[few], ASKED[few], minimum_rows=50)
    assert check.verdict.outcome == "pass"
    assert all(one.p_value is None and one.low is not None for one in transfers)
    _, single = judged(risen(0.5)[:EACH], OLD[:EACH], ASKED[:EACH])
    assert (single[0].low, single[0].high) == (None, None)


def test_without_any_row_nothing_is_shown():
    nothing = np.empty(0)
    check, transfers = judged(nothing, nothing, np.empty(0, np.int64))
    assert (check.verdict.outcome, transfers) == ("pass", ())


@pytest.mark.parametrize("who", ["challenger", "champion"])
def test_a_loss_that_is_not_finite_is_an_error_that_says_whose(who):
    broken = OLD.copy()
    broken[3] = np.nan
    check, transfers = judged(broken, OLD) if who == "challenger" else judged(OLD, broken)
    assert (check.verdict.outcome, transfers) == ("error", ())
    assert f"rows set aside: log_loss: 1 of the {who}'s 2,400 losses are not finite" in check.verdict.reason


@given(st.integers(0, 2**16), st.floats(0, 0.4), st.sampled_from([0.01, 0.05, 0.2]), st.sampled_from([0.0, 0.1]))
def test_what_is_marked_is_what_holms_procedure_rejects(seed, rise, alpha, tolerance):
    new = OLD + np.random.default_rng(seed).normal(0, 0.3, len(OLD)) + rise * OLD.mean() * (PERIOD % 2)
    _, transfers = judged(new, alpha=alpha, tolerance=tolerance)
    rooms = [(1 + tolerance) * OLD[number == PERIOD] - new[number == PERIOD] for number in range(PERIODS)]
    each = alike([mean(room, np.repeat(np.arange(DAYS), EACH)) for room in rooms])
    p_values = [t.cdf(one.value / one.error, one.freedom) for one in each]
    assert [one.p_value for one in transfers] == pytest.approx(p_values)
    # Adjusted p-values: the largest of (m - i) p over all that are smaller.
    adjusted = {}
    for left, place in enumerate(np.argsort(p_values)):
        adjusted[place] = max([(PERIODS - left) * p_values[place], *adjusted.values()])
    assert [one.forgotten for one in transfers] == [bool(adjusted[place] <= alpha) for place in range(PERIODS)]


def test_numbers_are_sliced_as_a_model_sees_them():
    wind = RANDOM.normal(0, 1, len(ASKED))
    for column in (wind, wind.astype(np.float32)):
        rows_ = Remembered(ASKED, pd.DataFrame({"wind": column, "gust": np.arange(len(ASKED)) % 2 == 0}))
        rule = References(slices=("wind", "gust"))
        _, transfers = judge(rule, GATE, rows_, ChampionLosses(OLD), ChallengerLosses(OLD))
        named = [one.slice for one in transfers]
        assert len({name for name in named if name.startswith("wind=")}) == 4 * PERIODS
        assert {name for name in named if name.startswith("gust")} == {"gust=0", "gust=1"}
        assert [one.rows for one in transfers if one.slice.startswith("wind=")] == [150] * 4 * PERIODS


# -- in an evaluation --------------------------------------------------------------------------------------------------

ESTIMATORS = "tests.example_model.estimator"
REFERENCES = {"share": 0.2, "period": "20d", "minimumRows": 50, "slices": ["origin"]}
RULE = SetAside(share=0.2, keys=("flight",))


def model(estimator, references=REFERENCES, **parts):
    return document(
        estimator=f"{ESTIMATORS}:{estimator}", evaluation={"references": references}, gate={"margin": -1.0}, **parts
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A training set of which rows are set aside, and one of which none are; models fitted on them."""
    folder = tmp_path_factory.mktemp("world")
    for name, rule in (("aside", RULE), ("whole", None)):
        place = training_set(folder / name, model=model("boosted"), frame=rows(days=160, per_day=60, strength=2.0))
        about = TrainingSet.model_validate_json((place / "training_set.json").read_text())
        (place / "training_set.json").write_text(about.model_copy(update={"set_aside": rule}).model_dump_json())
        for estimator in ("boosted", "blind"):
            fit(model(estimator), place, folder / f"{estimator}_{name}")
    return folder


def report(world, tmp_path, challenger, champion, references=REFERENCES):
    champion = world / champion if champion else None
    wanted = model("boosted", references)
    return evaluate(wanted, world / "aside", world / challenger, champion, "3", tmp_path / "report")


def check(found):
    return next((one.verdict for one in found.checks if one.name == "forgetting"), None)


def test_a_challenger_that_knows_nothing_of_earlier_periods_is_rejected_and_one_that_does_passes(world, tmp_path):
    down, up = (
        report(world, tmp_path, *pair) for pair in (("blind_aside", "boosted_aside"), ("boosted_aside", "blind_aside"))
    )
    assert (check(down).outcome, down.verdict.outcome) == ("fail", "fail")
    assert (check(up).outcome, up.verdict.outcome) == ("pass", "pass")
    assert down.verdict.reason == check(down).reason  # the margin lets it pass everything else
    swapped = [one.transfer for one in up.transfers]
    assert [one.transfer for one in down.transfers] == pytest.approx([-value for value in swapped])


def test_losses_are_those_of_both_models_on_the_rows_set_aside(world, tmp_path):
    found = report(world, tmp_path, "boosted_aside", "blind_aside")
    _, frame = training_sets.read(world / "aside")
    one = next(one for one in found.transfers if one.slice == "origin=JFK")
    mine = frame[
        set_aside(frame, RULE)
        & (frame.event_timestamp >= one.since)
        & (frame.event_timestamp < one.until)
        & (frame.origin == "JFK")
    ]
    assert one.rows == len(mine)
    for value, name in ((one.loss, "boosted_aside"), (one.champion_loss, "blind_aside")):
        bundle = Bundle.load(world / name)
        losses = row_losses("log_loss", mine.late.to_numpy(), bundle.predict(bundle.columns(mine)))
        assert value == pytest.approx(losses.mean())


def test_only_whole_periods_before_the_holdout_are_judged_and_no_more_than_are_asked_for(world, tmp_path):
    whole = report(world, tmp_path, "boosted_aside", "blind_aside")
    about, _ = training_sets.read(world / "aside")
    assert max(one.until for one in whole.transfers) <= about.holdout_from
    assert about.holdout_from - max(one.until for one in whole.transfers) < timedelta(days=20)
    newest = report(world, tmp_path, "boosted_aside", "blind_aside", REFERENCES | {"periods": 2})
    assert {one.since for one in newest.transfers} == set(sorted({one.since for one in whole.transfers})[-2:])


def test_without_a_champion_or_without_references_there_is_no_check(world, tmp_path):
    for found in (
        report(world, tmp_path, "boosted_aside", None),
        report(world, tmp_path, "boosted_aside", "blind_aside", None),
    ):
        assert (check(found), found.transfers) == (None, ())


def test_a_champion_that_was_fitted_on_what_is_set_aside_now_shows_nothing(world, tmp_path):
    found = report(world, tmp_path, "blind_aside", "boosted_whole")
    assert (check(found).outcome, found.transfers) == ("pass", ())
    assert "the champion was fitted on rows that are now set aside" in check(found).reason


def test_an_update_of_such_a_champion_knows_them_as_well_as_it_does_and_is_judged(world, tmp_path):
    update = model("logistic", training={"update": {"kind": "warm-start"}})
    fit(update, world / "whole", world / "first")
    fit(update, world / "aside", world / "second", world / "first")
    assert Bundle.load(world / "second").info.set_aside is None  # its ancestor was fitted on them
    found = evaluate(update, world / "aside", world / "second", world / "first", "3", tmp_path / "report")
    assert check(found).outcome == "pass"
    assert len(found.transfers) > 0


def test_a_bundle_says_what_was_set_aside_only_if_something_was(world):
    assert Bundle.load(world / "boosted_aside").info.set_aside == RULE
    assert "set_aside" not in (world / "boosted_whole/bundle.json").read_text()
    assert Bundle.load(world / "boosted_aside").info.rows < 0.85 * Bundle.load(world / "boosted_whole").info.rows


def test_a_champion_of_other_features_is_an_error_already_and_has_no_transfer(world, tmp_path):
    other = tmp_path / "champion"
    shutil.copytree(world / "blind_aside", other)
    about = other / "bundle.json"
    about.write_text(about.read_text().replace('"wind"', '"gusts"'))
    found = evaluate(model("boosted"), world / "aside", world / "boosted_aside", other, "3", tmp_path / "report")
    assert (found.verdict.outcome, check(found)) == ("error", None)


def test_a_card_tells_what_is_kept_only_where_it_was_measured(world, tmp_path):
    trained, told = Bundle.load(world / "boosted_aside").info, report(world, tmp_path, "blind_aside", "boosted_aside")
    one = next(one for one in told.transfers if one.forgotten)
    row = (
        f"| {one.since:%Y-%m-%d} to {one.until:%Y-%m-%d} | {one.slice or 'all'} | {one.rows} | {one.loss:.4g} | "
        f"{one.champion_loss:.4g} | {one.transfer:.4g} [{one.low:.4g}, {one.high:.4g}], forgotten |"
    )
    assert row in model_card(model("boosted"), trained, told)
    assert "What it has kept" not in model_card(model("boosted"), trained, report(world, tmp_path, "blind_aside", None))
