import json
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import toeplitz
from scipy.stats import binom, multivariate_normal, norm
from scipy.stats import t as student

from evergrow.statistics import sequential
from evergrow.statistics.sequential import (
    CLIPS,
    COLLAPSE,
    MONTH,
    RISES,
    Detector,
    Reference,
    State,
    Windows,
    calibrate,
    calibration,
    detect,
    fit_days,
    learn,
    log_evidence,
    normal,
    window_variance,
)

REFERENCE = 28
YEARLY = 1 / 12


def quiet(
    random: np.random.Generator,
    paths: int = 1,
    days: int = REFERENCE + 31,
    per_day: int = 1,
    effect: float = 0.03,
    correlation: float = 0.0,
    tail: float | None = None,
    weekend: float = 0.0,
    volume: float = 0.0,
    rows: float = 1000.0,
):
    """Mean losses and rows of blocks, [paths, days · per_day]: effects of days, AR(1), and the noise of rows."""
    noise = random.normal(size=(paths, days))
    if tail:
        noise = random.standard_t(tail, (paths, days)) / np.sqrt(tail / (tail - 2))
    days_effect = noise.copy()
    for t in range(1, days):
        days_effect[:, t] = correlation * days_effect[:, t - 1] + np.sqrt(1 - correlation**2) * noise[:, t]
    n = np.repeat(rows / per_day * np.exp(volume * random.normal(size=(paths, days))), per_day, axis=1)
    means = 0.45 + np.repeat(effect * days_effect, per_day, axis=1) + 0.5 / np.sqrt(n) * random.normal(size=n.shape)
    return means + weekend * (np.arange(n.shape[1]) // per_day % 7 >= 5), n


def detector(seed: int = 0, per_day: int = 1, **settings) -> Detector:
    means, rows = quiet(np.random.default_rng(seed), days=REFERENCE, per_day=per_day)
    return Detector(Reference.of(means[0], rows[0], per_day), **settings)


def first_alarm(found) -> int | None:
    return next((i for i, finding in enumerate(found) if finding.alarm), None)


# --- the rate of false alarms is the setting


QUIET = {
    "rows are independent": {"effect": 0.0},
    "days differ": {},
    "days differ and hang together": {"correlation": 0.3},
    "some days are extreme": {"tail": 3},
    "weekends are harder": {"correlation": 0.3, "weekend": 0.04},
    "volume varies": {"correlation": 0.3, "volume": 0.7},
}


def false_alarms(per_day: int, alarms_per_month: float, months: int, days: int = REFERENCE, **kind) -> int:
    """Months of so many, each after a reference of its own, in which there was an alarm."""
    means, rows = quiet(np.random.default_rng(1), paths=months, days=days + 30, per_day=per_day, **kind)
    cut = days * per_day
    null = learn(means[:, :cut], rows[:, :cut], per_day)
    found = log_evidence(null, means[:, cut:], rows[:, cut:], cut).max(axis=1)
    calibrations = [calibration(days, per_day, share) for share in null.share]
    return int((found >= [c.threshold(alarms_per_month) for c in calibrations]).sum())


@pytest.mark.parametrize("kind", QUIET)
def test_of_a_thousand_quiet_months_no_more_have_an_alarm_than_was_set(kind):
    assert false_alarms(1, YEARLY, 1000, **QUIET[kind]) <= binom.ppf(0.975, 1000, 1 - np.exp(-YEARLY))


@pytest.mark.parametrize("kind", ["rows are independent", "some days are extreme", "volume varies"])
def test_nor_do_they_where_blocks_are_parts_of_days(kind):
    assert false_alarms(4, YEARLY, 1000, **QUIET[kind]) <= binom.ppf(0.975, 1000, 1 - np.exp(-YEARLY))


@pytest.mark.parametrize("days", [14, 90])
def test_nor_do_they_after_a_reference_of_other_length(days):
    found = false_alarms(1, YEARLY, 1000, days=days, correlation=0.3)
    assert found <= binom.ppf(0.975, 1000, 1 - np.exp(-YEARLY))


@pytest.mark.parametrize("weekend", [0.0, 0.04])
def test_nor_fewer_where_days_hang_together_as_they_were_designed_to(weekend):
    found = false_alarms(1, YEARLY, 1000, correlation=0.4, weekend=weekend)
    low, high = binom.ppf([0.025, 0.975], 1000, 1 - np.exp(-YEARLY))
    assert low <= found <= high


def test_a_quiet_year_after_one_reference_has_an_alarm_no_more_often_than_a_steady_rate_would_give_one():
    means, rows = quiet(np.random.default_rng(2), paths=400, days=REFERENCE + 365, correlation=0.3)
    null = learn(means[:, :REFERENCE], rows[:, :REFERENCE], 1)
    found = log_evidence(null, means[:, REFERENCE:], rows[:, REFERENCE:], REFERENCE).max(axis=1)
    share = (found >= calibration(REFERENCE, 1, 0.5).threshold(YEARLY)).mean()
    assert 0.25 < share < 1 - np.exp(-1)


# --- the parts, by other means


def covariance(blocks: int, effect: float, persistence: float, noise: float, rows) -> np.ndarray:
    return effect * toeplitz(persistence ** np.arange(blocks)) + np.diag(noise / rows)


def test_a_windows_variance_is_that_of_its_covariance_matrix():
    rows = np.random.default_rng(3).uniform(1, 50, 12)
    weights = rows / rows.sum()
    expected = weights @ covariance(12, 0.7, 0.6, 3.0, rows) @ weights
    found = window_variance(rows[None], np.array([0.7]), np.array([0.6]), np.array([3.0]))
    assert found[0] == pytest.approx(expected, rel=1e-12)


def test_days_are_fitted_as_by_the_dense_restricted_likelihood():
    random = np.random.default_rng(4)
    values, rows = random.normal(size=15), random.uniform(50, 500, 15)
    typical = 15 / (1 / rows).sum()
    answers, weights = [], []
    for share in sequential._SHARES:
        for correlation in sequential._CORRELATIONS:
            matrix = covariance(15, 1 - share, correlation, share * typical, rows) + 1e-9 * np.eye(15)
            contrasts = np.linalg.svd(np.ones((1, 15)))[2][1:]  # orthonormal, free of the mean
            inner = contrasts @ matrix @ contrasts.T
            reduced = contrasts @ values
            scale = reduced @ np.linalg.solve(inner, reduced) / 14
            weights.append(multivariate_normal(cov=scale * inner).logpdf(reduced))
            answers.append(scale * np.array([1 - share, (1 - share) * correlation, share * typical]))
    posterior = np.exp(np.array(weights) - max(weights))
    effect, together, noise = posterior @ np.array(answers) / posterior.sum()
    found = fit_days(values[None], rows[None], np.zeros(1))
    assert [f[0] for f in found] == pytest.approx([effect, together / effect, noise], rel=1e-5)


def test_the_evidence_is_the_sum_of_likelihood_ratios_over_every_start():
    means, rows = quiet(np.random.default_rng(5), paths=2, days=REFERENCE + 7)
    null = learn(means[:, :REFERENCE], rows[:, :REFERENCE], 1)
    found = log_evidence(null, means[:, REFERENCE:], rows[:, REFERENCE:], REFERENCE, margin=0.005)
    for path in range(2):
        sd = np.sqrt(null.day[path])
        n, total = rows[path, REFERENCE:], 0.0
        deviation = means[path, REFERENCE:] - null.mean[path] - null.profile[path]
        storm = np.sqrt(null.between[path] + null.within[path] / n)
        for start in range(7):
            w = n[start:] / n[start:].sum()
            matrix = covariance(7 - start, null.effect[path], null.persistence[path], null.noise[path], n[start:])
            week = null.weekly[path] * (1 / (7 - start) - 1 / 7)
            variance = w @ matrix @ w + null.error[path] + week
            for clip, rise in zip(CLIPS, RISES, strict=True):
                excess = w @ np.clip(deviation, -clip * storm, clip * storm)[start:] - 0.005
                t, f = excess / np.sqrt(variance), null.freedom[path]
                excess = np.sign(t) * np.sqrt(f * np.log1p(t**2 / f) * variance)
                total += np.exp((rise * sd * excess - (rise * sd) ** 2 / 2) / variance) / 4
            whole = (w @ deviation[start:] - 0.005) / np.sqrt(variance)
            total += np.exp(COLLAPSE * (whole - COLLAPSE / 2)) / 4
        assert found[path, -1] == pytest.approx(np.log(total), rel=1e-9)


@pytest.mark.parametrize("freedom", [12.0, 27.0, 90.0])
def test_a_students_t_becomes_the_normal_value_that_is_as_rare(freedom):
    t = np.linspace(-6, 6, 49)
    expected = -np.sign(t) * norm.ppf(student.sf(np.abs(t), freedom))
    assert normal(t, np.array(freedom)) == pytest.approx(expected, abs=0.1 + 0.5 / freedom)


def test_variances_learned_from_few_days_have_few_degrees_of_freedom_and_a_profile_costs_some():
    chance = learn(*quiet(np.random.default_rng(16), paths=50, days=REFERENCE), 1)
    harder = learn(*quiet(np.random.default_rng(16), paths=50, days=REFERENCE, weekend=0.3), 1)
    assert np.all((chance.freedom > REFERENCE - 8) & (chance.freedom <= REFERENCE - 1))
    assert harder.freedom == pytest.approx(REFERENCE - 7, abs=0.5)


def test_starts_thin_out_with_age_and_stand_for_those_that_were_dropped():
    null = learn(*quiet(np.random.default_rng(6), days=REFERENCE), 1)
    windows = Windows.none(1)
    for block in range(5000):
        windows.add(block, np.array([0.45]), np.array([100.0]), null)
    ages = 5000 - windows.starts
    assert set(range(1, 9)) <= set(ages.tolist())
    assert len(ages) < 100
    assert ages[0] == 5000
    assert np.all(np.diff(windows.starts) <= np.maximum(1, ages[:-1] / 4))


def test_the_profile_of_a_week_is_learned_and_chance_is_not():
    means, rows = quiet(np.random.default_rng(7), paths=300, days=REFERENCE)
    by_chance = learn(means, rows, 1)
    harder = learn(*quiet(np.random.default_rng(7), paths=300, days=REFERENCE, weekend=0.3), 1)
    assert np.abs(by_chance.profile).mean() < 0.008
    assert harder.profile[:, 5:].mean() == pytest.approx(0.3 * 5 / 7, rel=0.05)
    assert np.median(harder.day) == pytest.approx(np.median(by_chance.day), rel=0.25)


def test_what_was_put_into_losses_is_found_in_them():
    null = learn(*quiet(np.random.default_rng(8), paths=300, days=100, per_day=8, correlation=0.3), 8)
    assert np.median(null.within) == pytest.approx(0.25, rel=0.03)
    assert np.median(null.between) == pytest.approx(0.03**2, rel=0.1)
    assert np.median(null.day) == pytest.approx(0.03**2 + 0.25 / 1000, rel=0.1)
    assert np.median(null.share) == pytest.approx(0.25 / 1000 / (0.03**2 + 0.25 / 1000), rel=0.1)
    assert np.mean(null.persistence**8) == pytest.approx(0.3, abs=0.06)
    assert np.median(null.error) == pytest.approx((0.03**2 * 1.3 / 0.7 + 0.25 / 1000) / 100, rel=0.3)


def test_a_calibration_is_the_same_each_time_and_reads_both_ways():
    found, again = calibrate(28, 1, 0.5), calibrate.__wrapped__(28, 1, 0.5)
    assert found.log_evidence.tolist() == again.log_evidence.tolist()
    for rate in (2.0, 1.0, YEARLY, 1 / 60, 1 / 600):
        assert found.days(found.threshold(rate)) == pytest.approx(MONTH / rate)
    assert found.threshold(YEARLY) > found.threshold(1.0)


# --- what is found


def test_a_rise_of_two_deviations_of_a_day_is_seen_within_days_and_dated():
    found, since, delays = 0, [], []
    for seed in range(20):
        means, rows = quiet(np.random.default_rng(100 + seed), days=60)
        means[0, 20:] += 0.07
        one = detect(detector(seed), means[0], rows[0])
        at = next((i for i, f in enumerate(one) if f.alarm and i >= 20), None)
        found += at is not None
        if at is not None:
            delays.append(at + 1 - 20)
            since.append(one[at].since)
    assert found == 20
    assert np.median(delays) <= 5
    assert abs(np.median(since) - 20) <= 1


def test_a_fall_is_no_alarm_and_coming_back_from_it_is_none():
    means, rows = quiet(np.random.default_rng(9), days=90)
    means[0, 30:60] -= 0.1
    assert first_alarm(detect(detector(), means[0], rows[0])) is None


@pytest.mark.parametrize(("rise", "alarms"), [(0.03, 0), (0.2, 10)])
def test_a_rise_within_the_margin_is_tolerated_and_one_beyond_it_is_not(rise, alarms):
    seen = 0
    for seed in range(10):
        means, rows = quiet(np.random.default_rng(200 + seed), days=40)
        found = detect(detector(seed, margin=0.06), means[0] + rise, rows[0])
        seen += first_alarm(found) is not None
    assert seen == alarms


def test_the_interval_holds_the_true_rise_at_the_alarm():
    covered = alarms = 0
    for seed in range(150):
        means, rows = quiet(np.random.default_rng(300 + seed), days=REFERENCE + 40, correlation=0.3)
        means[0, REFERENCE:] += 0.08
        one = Detector(Reference.of(means[0, :REFERENCE], rows[0, :REFERENCE]))
        found = detect(one, means[0, REFERENCE:], rows[0, REFERENCE:])
        if (at := first_alarm(found)) is not None:
            alarms += 1
            covered += found[at].low <= 0.08 <= found[at].high
    assert alarms > 130
    assert covered >= 0.95 * alarms


def test_a_collapse_is_seen_within_hours_if_blocks_are_hours():
    means, rows = quiet(np.random.default_rng(10), days=3, per_day=8)
    means[0, 8:] += 0.4
    found = detect(detector(per_day=8), means[0], rows[0])
    assert 8 <= first_alarm(found) <= 9


def test_one_storm_is_no_alarm_and_two_weeks_of_them_are_one():
    means, rows = quiet(np.random.default_rng(11), days=20)
    one, many = means[0].copy(), means[0].copy()
    one[5] += 0.2
    many[5:] += 0.2
    assert first_alarm(detect(detector(), one, rows[0])) is None
    assert first_alarm(detect(detector(), many, rows[0])) is not None


def test_after_an_alarm_the_test_starts_again():
    means, rows = quiet(np.random.default_rng(12), days=40)
    means[0, 5:] += 0.15
    one = detector()
    state, alarms = one.start(), []
    for block, (mean, n) in enumerate(zip(means[0], rows[0], strict=True)):
        state, finding = one.step(state, mean, n)
        if finding.alarm:
            alarms.append(block)
            assert state.starts == ()
        else:
            assert all(s >= REFERENCE + (alarms[-1] + 1 if alarms else 0) for s in state.starts)
    assert len(alarms) > 5


@pytest.mark.parametrize("per_day", [1, 8])
def test_a_state_that_went_through_json_goes_on_as_one_that_did_not(per_day):
    one = detector(per_day=per_day)
    means, rows = quiet(np.random.default_rng(13), days=30, per_day=per_day)
    cut = REFERENCE * per_day
    expected = log_evidence(one.reference.null(), means, rows, cut)
    calibrated, state = one.reference.calibration(), one.start()
    for t, (mean, n) in enumerate(zip(means[0], rows[0], strict=True)):
        state, finding = one.step(State.model_validate_json(state.model_dump_json()), mean, n)
        assert not finding.alarm
        assert finding.evidence == pytest.approx(calibrated.days(expected[0, t]), rel=1e-9)


def test_a_reference_goes_through_json():
    reference = detector().reference
    assert Reference.model_validate(json.loads(reference.model_dump_json())) == reference


def test_a_block_without_rows_lets_time_pass_and_tells_nothing():
    one = detector()
    state, finding = one.step(one.start(), float("nan"), 0)
    assert (state.block, finding) == (REFERENCE + 1, None)
    state, before = one.step(state, 0.6, 1000)
    state, after = one.step(state, float("nan"), 0)
    assert state.block == REFERENCE + 3
    assert (after.evidence, after.mean, after.since) == (before.evidence, before.mean, 1)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.01, 100), st.floats(-10, 10), st.floats(0.1, 50), st.sampled_from([1, 4]))
def test_the_unit_of_the_loss_and_the_count_of_rows_do_not_matter(unit, origin, more, per_day):
    means, rows = quiet(np.random.default_rng(14), days=REFERENCE + 10, per_day=per_day, volume=0.3, weekend=0.05)
    cut = REFERENCE * per_day

    def evidence(means, rows, margin):
        null = learn(means[:, :cut], rows[:, :cut], per_day)
        return log_evidence(null, means[:, cut:], rows[:, cut:], cut, margin)

    expected = evidence(means, rows, 0.01)
    assert evidence(unit * means + origin, more * rows, 0.01 * unit) == pytest.approx(expected, rel=1e-5, abs=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(0, 0.5))
def test_a_worse_block_is_never_less_evidence(seed, worse):
    means, rows = quiet(np.random.default_rng(seed), days=5)
    more = means.copy()
    more[0, -1] += worse
    null = detector().reference.null()
    assert log_evidence(null, more, rows, 28)[0, -1] >= log_evidence(null, means, rows, 28)[0, -1]


def test_the_reason_shows_both_numbers_and_since_when():
    means, rows = quiet(np.random.default_rng(15), days=12)
    begin = datetime(2013, 6, 4, tzinfo=UTC)
    one = detector(margin=0.01, alarms_per_month=YEARLY, metric="log_loss", begin=begin)
    found = detect(one, means[0] + 0.1, rows[0])
    alarm = found[first_alarm(found)]
    assert alarm.reason == (
        f"mean log_loss {alarm.mean:.3f} since 2013-07-02, reference {alarm.mean - alarm.rise:.3f} + 0.01; "
        f"evidence 1 in {alarm.evidence:,.0f}, alarm at 1 in 365 days"
    )
    assert alarm.mean == pytest.approx(0.55, abs=0.04)
    hourly = detect(detector(per_day=4, begin=begin), np.full(3, 0.9), np.full(3, 250))
    assert "since 2013-07-02 00:00" in hourly[0].reason
    assert "since block 0," in detect(detector(), [0.6], [1000])[0].reason


@pytest.mark.parametrize("bad", [0, -1, 2.5, float("nan")])
def test_an_impossible_rate_of_alarms_is_refused(bad):
    with pytest.raises(ValueError, match="`alarms_per_month` must be in"):
        detector(alarms_per_month=bad)


def test_an_impossible_margin_reference_or_loss_is_refused():
    with pytest.raises(ValueError, match="`margin` must be at least 0, found -1"):
        detector(margin=-1)
    with pytest.raises(ValueError, match="at least 8 days, found 7"):
        Reference.of(np.ones(9), [1, 1, 1, 0, 1, 0, 1, 1, 1])
    with pytest.raises(ValueError, match="`means` and `rows` must be finite"):
        Reference.of([np.nan] * 9, np.ones(9))
    with pytest.raises(ValueError, match="two lists of one length"):
        Reference.of(np.ones(9), np.ones(8))
    with pytest.raises(ValueError, match="`per_day` must be from 1 to 24, found 48"):
        Reference.of(np.ones(900), np.ones(900), per_day=48)
    one = detector()
    with pytest.raises(ValueError, match="`mean` must be finite, found nan"):
        one.step(one.start(), float("nan"), 10)


def test_a_constant_loss_is_a_reference_and_any_rise_of_it_is_harm():
    reference = Reference.of(np.full(28, 0.3), np.full(28, 100))
    found = detect(Detector(reference), [0.3, 0.3, 0.4], [100, 100, 100])
    assert [f.alarm for f in found] == [False, False, True]
