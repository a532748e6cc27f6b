import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import dblquad, quad
from scipy.special import betaincc
from scipy.stats import beta, binom, dirichlet

from evergrow.statistics.proportions import (
    FACTORS,
    Events,
    Odds,
    RateTest,
    RatioTest,
    Shares,
    ShareTest,
    log_beta_tail,
    log_share_ratio,
    rate_interval,
)

counts = st.lists(st.integers(0, 300), min_size=3, max_size=3)
ALTERNATIVES = ("greater", "less")


# --- shares of traffic


def test_the_evidence_is_the_likelihood_averaged_over_shares_that_are_drawn_about_the_weights():
    def ratio(share: float) -> float:
        return beta.pdf(share, 2.0, 18.0) * share**7 * (1 - share) ** 30 / (0.1**7 * 0.9**30)

    assert math.exp(log_share_ratio((7, 30), (0.1, 0.9), 20.0)) == pytest.approx(quad(ratio, 0, 1)[0], rel=1e-9)


def test_so_it_is_of_three_arms():
    weights, seen = np.array([0.2, 0.3, 0.5]), np.array([3, 1, 5])

    def ratio(b: float, a: float) -> float:
        shares = np.array([a, b, max(1 - a - b, 1e-12)])
        return float(dirichlet.pdf(shares / shares.sum(), 10 * weights) * np.prod((shares / weights) ** seen))

    expected = dblquad(ratio, 0, 1, 0, lambda a: 1 - a)[0]
    assert math.exp(log_share_ratio(seen, weights, 10.0)) == pytest.approx(expected, rel=1e-6)


def test_other_implementations_come_to_the_same_evidence():
    # savvi 0.3.1: t = Multinomial(0.05, np.array([0.5, 0.3, 0.2]), k=100); t.update(counts); np.log(t.odds)
    assert log_share_ratio((70, 20, 30), (0.5, 0.3, 0.2), 100) == pytest.approx(2.1902547536206356, rel=1e-12)
    assert log_share_ratio((120, 70, 50), (0.5, 0.3, 0.2), 100) == pytest.approx(-1.1850114472213278, rel=1e-12)
    # ssrm-test 0.1.5: sequential_bayes_factors(increments, weights, dirichlet_concentration=100)
    weights, test = (0.1, 0.05, 0.85), ShareTest(concentration=100)
    first = test.step(test.start(), (90, 40, 870), weights)
    second = test.step(first, (120, 60, 820), weights)
    found = [math.exp(state.log_evidence) for state in (first, second)]
    assert found == pytest.approx([0.5316778671554131, 0.059222783211597456], rel=1e-9)


@given(counts, counts, st.sampled_from([(1, 1, 1), (5, 15, 80), (0.05, 0.15, 0.8)]))
def test_evidence_does_not_depend_on_how_requests_came_in(first, second, weights):
    test = ShareTest()
    apart = test.step(test.step(test.start(), first, weights), second, weights)
    swapped = test.step(test.step(test.start(), second, weights), first, weights)
    together = test.step(test.start(), [a + b for a, b in zip(first, second, strict=True)], weights)
    assert apart.log_evidence == pytest.approx(together.log_evidence, abs=1e-8)
    assert swapped.log_evidence == pytest.approx(together.log_evidence, abs=1e-8)
    assert apart.counts == together.counts


def test_weights_are_in_any_unit():
    states = [ShareTest().step(Shares(), (90, 880), weights) for weights in ((10, 90), (0.1, 0.9), (1 / 9, 1))]
    assert len({round(state.log_evidence, 9) for state in states}) == 1
    test = ShareTest()
    going_on = test.step(test.step(test.start(), (50, 400), (10, 90)), (40, 480), (0.1, 0.9))
    assert going_on.log_evidence == pytest.approx(states[0].log_evidence, abs=1e-8)


def test_evidence_is_a_martingale_where_traffic_splits_as_it_should_though_weights_change():
    steps, test, mean = ((1, 9), (1, 9), (1, 3), (1, 1), (1, 1), (1, 1)), ShareTest(concentration=5), 0.0
    for arms in itertools.product((0, 1), repeat=len(steps)):
        state, probability = test.start(), 1.0
        for arm, weights in zip(arms, steps, strict=True):
            probability *= weights[arm] / sum(weights)
            state = test.step(state, (1 - arm, arm), weights)
        mean += probability * math.exp(state.log_evidence)
    assert mean == pytest.approx(1.0, abs=1e-12)


def test_as_weights_change_the_evidence_so_far_is_kept_and_the_search_begins_anew():
    test = ShareTest()
    first = test.step(test.start(), (70, 930), (5, 95))
    second = test.step(first, (520, 480), (50, 50))
    third = test.step(second, (30, 20), (50, 50))
    phases = log_share_ratio((70, 930), (0.05, 0.95), 100), log_share_ratio((550, 500), (0.5, 0.5), 100)
    assert phases[0] > 0
    assert third.log_evidence == pytest.approx(sum(phases), abs=1e-9)
    assert third.p_value == pytest.approx(math.exp(-max(s.log_evidence for s in (first, second, third))))


def split(share: float, weights: tuple[float, ...], increments: int, size: int, seed: int, paths: int = 200):
    """Least p-value over increments of so many requests, of which the candidate has this share; [paths]."""
    random, least, test = np.random.default_rng(seed), [], ShareTest()
    for seen in random.binomial(size, share, (paths, increments)):
        state = test.start()
        for candidate in seen:
            state = test.step(state, (candidate, size - candidate), weights)
        least.append(state.p_value)
    return np.array(least)


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_a_right_split_is_called_wrong_no_more_often_than_alpha_at_any_of_all_looks(share):
    for size in (1, 200):
        least = split(share, (share, 1 - share), 60, size, seed=1)
        for alpha in (0.2, 0.05):
            assert (least <= alpha).sum() <= binom.ppf(0.99, len(least), alpha)


def test_a_candidate_that_loses_a_fifth_of_its_traffic_is_seen_and_so_is_one_that_gets_more():
    assert (split(0.04, (5, 95), 60, 250, seed=2, paths=100) <= 0.01).mean() > 0.9
    assert (split(0.06, (5, 95), 60, 250, seed=3, paths=100) <= 0.01).mean() > 0.9


def test_a_mismatch_is_seen_across_steps_of_a_rollout():
    random, test, seen = np.random.default_rng(4), ShareTest(), 0
    for _ in range(100):
        state = test.start()
        for percent in (5, 10, 25, 50):
            candidate = random.binomial(2000, percent * 0.75 / (percent * 0.75 + 100 - percent))
            state = test.step(state, (candidate, 2000 - candidate), (percent, 100 - percent))
        seen += state.p_value <= 0.01
    assert seen > 90


def test_a_request_of_an_arm_without_weight_is_certain_proof_and_its_absence_is_none():
    test = ShareTest()
    none = test.step(test.start(), (40, 60, 0), (40, 60, 0))
    assert none.log_evidence == pytest.approx(test.step(test.start(), (40, 60), (40, 60)).log_evidence)
    one = test.step(none, (0, 0, 1), (40, 60, 0))
    assert (one.log_evidence, one.p_value) == (math.inf, 0.0)
    assert Shares.model_validate_json(one.model_dump_json()) == one


# --- one rate


@settings(max_examples=60)
@given(st.floats(0.05, 500), st.floats(0.05, 500), st.floats(0.001, 0.999), st.booleans())
def test_the_log_of_a_tail_is_that_of_the_tail_where_there_is_one_in_float(a, b, x, upper):
    tail = (beta.sf if upper else beta.cdf)(x, a, b)
    if 1e-280 < tail < 1 - 1e-12:
        assert log_beta_tail(a, b, x, upper) == pytest.approx(math.log(tail), rel=1e-9, abs=1e-9)


def test_the_log_of_a_tail_goes_on_where_float_is_at_its_end():
    assert log_beta_tail(1.0, 1e6, 0.5, upper=True) == pytest.approx(1e6 * math.log(0.5), rel=1e-12)
    assert log_beta_tail(1e6, 1.0, 0.5, upper=False) == pytest.approx(1e6 * math.log(0.5), rel=1e-12)
    assert betaincc(1.0, 1e6, 0.5) == 0.0


@pytest.mark.parametrize("alternative", ALTERNATIVES)
@pytest.mark.parametrize(("events", "rows", "limit"), [(3, 40, 0.02), (0, 25, 0.1), (20, 30, 0.5), (2, 2, 0.01)])
def test_the_evidence_is_the_likelihood_averaged_over_rates_beyond_the_limit(events, rows, limit, alternative):
    a, b = 1.0, max(1.0, 1 / (4 * limit))
    ends = (limit, 1) if alternative == "greater" else (0, limit)

    def likelihood(rate: float) -> float:
        return beta.pdf(rate, a, b) * (rate / limit) ** events * ((1 - rate) / (1 - limit)) ** (rows - events)

    expected = quad(likelihood, *ends)[0] / quad(lambda rate: beta.pdf(rate, a, b), *ends)[0]
    assert RateTest(limit, alternative).log_evidence(events, rows) == pytest.approx(math.log(expected), abs=1e-6)


def test_a_published_implementation_comes_to_the_same_evidence_of_a_rate():
    # confseq 0.0.11: beta_binomial_log_mixture(k - n q, n q (1 - q), v, q, 1 - q, 0.05, true) with q the limit and the
    # prior (r / (1 - q), r / q), r being what the library finds best for v.
    for k, n, q, r, log in (
        (9, 150, 0.01, 0.14810634906850531, 7.48063340897986),  # v = 1
        (3, 500, 0.05, 1.5325634906850529, -2.98737362094064),  # v = 10
    ):
        assert RateTest(q, prior=(r / (1 - q), r / q)).log_evidence(k, n) == pytest.approx(log, abs=1e-9)


@settings(max_examples=50)
@given(st.integers(0, 40), st.integers(0, 40), st.floats(0.01, 0.99))
def test_rates_below_are_rates_of_the_opposite_above(events, others, limit):
    below = RateTest(limit, "less", prior=(2.0, 3.0)).log_evidence(events, events + others)
    above = RateTest(1 - limit, "greater", prior=(3.0, 2.0)).log_evidence(others, events + others)
    assert below == pytest.approx(above, abs=1e-9)


@pytest.mark.parametrize("alternative", ALTERNATIVES)
@pytest.mark.parametrize("limit", [0.02, 0.3, 0.9])
def test_evidence_is_one_on_average_at_the_limit_and_less_within_it(limit, alternative):
    test, within = RateTest(limit, alternative), (0.5 if alternative == "greater" else 1.0)
    evidence = np.exp([test.log_evidence(k, 12) for k in range(13)])
    assert binom.pmf(np.arange(13), 12, limit) @ evidence == pytest.approx(1.0, abs=1e-9)
    inside = limit * within if alternative == "greater" else limit + (1 - limit) / 2
    assert binom.pmf(np.arange(13), 12, inside) @ evidence < 1


@settings(max_examples=30)
@given(st.lists(st.floats(-0.1, 0.1), min_size=5, max_size=5))
def test_so_it_is_where_the_rate_changes_about_a_mean_that_is_within(swings):
    rates, test, mean = 0.2 + np.array(swings) - np.mean(swings), RateTest(0.2), 0.0
    for draw in itertools.product((0, 1), repeat=5):
        probability = np.prod(np.where(draw, np.clip(rates, 0, 1), 1 - np.clip(rates, 0, 1)))
        mean += probability * math.exp(test.log_evidence(sum(draw), 5))
    assert mean <= 1 + 1e-9


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 90)), min_size=1, max_size=6))
def test_evidence_of_a_rate_depends_on_the_counts_alone_and_the_p_value_on_the_most_of_it(increments):
    test = RateTest(0.05)
    state, logs = test.start(), [0.0]
    for events, others in increments:
        state = test.step(state, events, events + others)
        logs.append(state.log_evidence)
    whole = test.step(test.start(), sum(e for e, _ in increments), sum(e + o for e, o in increments))
    assert (state.events, state.rows, state.log_evidence) == (whole.events, whole.rows, whole.log_evidence)
    assert state.p_value == pytest.approx(math.exp(-max(logs)))
    assert Events.model_validate_json(state.model_dump_json()) == state


def thresholds(test: RateTest, alpha: float, rows: int) -> np.ndarray:
    """Fewest (for "less", most) events at each number of rows at which the test rejects, [rows]."""
    found, k, upper = [], 0, test.alternative == "greater"
    for n in range(1, rows + 1):
        while k <= n and (test.log_evidence(k, n) >= -math.log(alpha)) != upper:
            k += 1
        found.append(k if upper else k - 1)
    return np.array(found)


def first_rejection(test: RateTest, alpha: float, rate: float, rows: int, paths: int, seed: int) -> np.ndarray:
    """Rows at which the test first rejects, looked at after each; inf if it never does; [paths]."""
    seen = np.cumsum(np.random.default_rng(seed).random((paths, rows)) < rate, axis=1)
    limit = thresholds(test, alpha, rows)
    over = seen >= limit if test.alternative == "greater" else seen <= limit
    return np.where(over.any(axis=1), over.argmax(axis=1) + 1.0, np.inf)


def wald(limit: float, rate: float, alpha: float, paths: int, rows: int, seed: int) -> float:
    """Mean rows of the best test there is: the ratio of the true rate's likelihood to the limit's."""
    events = np.random.default_rng(seed).random((paths, rows)) < rate
    logs = np.cumsum(np.where(events, math.log(rate / limit), math.log((1 - rate) / (1 - limit))), axis=1)
    return float((np.argmax(logs >= -math.log(alpha), axis=1) + 1).mean())


def test_a_rate_of_five_times_its_limit_is_seen_about_as_early_as_can_be():
    found = first_rejection(RateTest(0.01), 0.01, 0.05, rows=900, paths=2000, seed=5)
    assert np.isfinite(found).all()
    assert found.mean() <= 1.3 * wald(0.01, 0.05, 0.01, paths=2000, rows=900, seed=5)


def test_twice_the_limit_is_seen_too_and_so_is_a_rate_of_half_of_it():
    twice = first_rejection(RateTest(0.05), 0.01, 0.1, rows=1500, paths=1000, seed=6)
    assert np.minimum(twice, 1500).mean() <= 1.5 * wald(0.05, 0.1, 0.01, paths=1000, rows=1500, seed=6)
    half = first_rejection(RateTest(0.1, "less"), 0.01, 0.05, rows=1500, paths=1000, seed=7)
    assert np.minimum(half, 1500).mean() <= 1.5 * wald(0.1, 0.05, 0.01, paths=1000, rows=1500, seed=7)


@pytest.mark.parametrize("alternative", ALTERNATIVES)
def test_a_rate_at_its_limit_is_rejected_no_more_often_than_alpha_at_any_of_all_looks(alternative):
    found = first_rejection(RateTest(0.05, alternative), 0.05, 0.05, rows=1500, paths=2000, seed=8)
    assert np.isfinite(found).sum() <= binom.ppf(0.99, 2000, 0.05)


@settings(max_examples=60)
@given(st.integers(0, 60), st.integers(1, 2000), st.sampled_from([0.2, 0.01]))
def test_a_limit_is_outside_the_interval_just_when_its_test_rejects_it(events, others, alpha):
    rows = events + others
    low, high = rate_interval(events, rows, alpha)
    assert low <= events / rows <= high
    for limit in (low * 0.98, low * 1.02, high * 0.98, min(high * 1.02, 1.0), events / rows):
        if 0 < limit < 1 and limit not in (low, high):
            rejected = any(RateTest(limit, a).log_evidence(events, rows) >= math.log(2 / alpha) for a in ALTERNATIVES)
            assert rejected == (not low <= limit <= high)


@settings(max_examples=60)
@given(st.integers(0, 400), st.integers(0, 4000))
def test_evidence_against_a_limit_falls_as_the_limit_nears_the_rate(events, others):
    """Which is why the limits that are not rejected are an interval."""
    rows = max(events + others, 1)
    for alternative, away in (("greater", 1e-6), ("less", 1 - 1e-6)):
        limits = [q for q in np.linspace(away, events / rows, 40) if 1e-6 <= q <= 1 - 1e-6]
        logs = [RateTest(q, alternative).log_evidence(events, rows) for q in limits]
        if (away < events / rows) == (alternative == "greater"):
            assert (np.diff(logs) <= 1e-6).all()


def test_the_interval_holds_a_rate_at_all_times():
    random, misses = np.random.default_rng(9), 0
    for seen in np.cumsum(random.random((100, 400)) < 0.03, axis=1):
        ends = [rate_interval(int(seen[n - 1]), n, 0.2) for n in (5, 10, 20, 40, 80, 120, 200, 300, 400)]
        misses += not all(low <= 0.03 <= high for low, high in ends)
    assert misses <= binom.ppf(0.99, 100, 0.2)
    assert rate_interval(0, 0, 0.05) == (0.0, 1.0)


def test_the_interval_closes_on_the_rate():
    widths = [high - low for low, high in (rate_interval(n // 100, n, 0.05) for n in (100, 1000, 10_000, 100_000))]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 0.003


# --- two rates


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.floats(0, 0.5), st.sampled_from([0.05, 0.5])), min_size=3, max_size=3),
    st.sampled_from([1.0, 1.5]),
    st.sampled_from(ALTERNATIVES),
)
def test_evidence_of_a_ratio_is_one_on_average_at_the_limit_whatever_the_rates_are(requests, limit, alternative):
    """Over all draws and all events of each request; its rate is r for the stable version, limit × r for the other."""
    test, mean = RatioTest(limit, alternative), 0.0
    for arms in itertools.product((0, 1, None), repeat=len(requests)):  # whose event it is, or none
        state, probability = test.start(), 1.0
        for arm, (rate, p) in zip(arms, requests, strict=True):
            ours, theirs = p * limit * rate, (1 - p) * rate
            probability *= {0: theirs, 1: ours, None: 1 - ours - theirs}[arm]
            if arm is not None:
                state = test.step(state, arm, 1 - arm, p)
        mean += probability * math.exp(state.log_evidence)
    assert mean == pytest.approx(1.0, abs=1e-9)


def test_evidence_of_a_ratio_is_less_than_one_on_average_within_the_limit():
    test = RatioTest(limit=2.0)
    ours = 0.2 * 1.5 / (0.2 * 1.5 + 0.8)
    evidence = [math.exp(test.step(test.start(), k, 10 - k, 0.2).log_evidence) for k in range(11)]
    assert binom.pmf(np.arange(11), 10, ours) @ evidence < 1


def test_the_evidence_is_the_likelihood_of_events_averaged_over_the_factors():
    def share(ratio: float) -> float:
        return ratio * 0.3 / (ratio * 0.3 + 0.7)

    likelihood = [share(2 * f) ** 5 * (1 - share(2 * f)) ** 4 for f in FACTORS]
    expected = np.mean(likelihood) / (share(2.0) ** 5 * (1 - share(2.0)) ** 4)
    test = RatioTest(limit=2.0)
    assert math.exp(test.step(test.start(), 5, 4, 0.3).log_evidence) == pytest.approx(expected, rel=1e-12)


@given(st.integers(0, 50), st.integers(0, 50), st.floats(0.01, 0.99), st.floats(0.2, 5))
def test_a_lower_ratio_is_a_higher_one_seen_from_the_other_side(ours, theirs, p, limit):
    less = RatioTest(limit, "less").step(Odds(), ours, theirs, p)
    greater = RatioTest(1 / limit, "greater").step(Odds(), theirs, ours, 1 - p)
    assert less.log_evidence == pytest.approx(greater.log_evidence, abs=1e-9)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), min_size=2, max_size=5), st.randoms())
def test_evidence_of_a_ratio_does_not_depend_on_how_events_came_in(increments, random):
    def after(rows) -> Odds:
        state = RatioTest().start()
        for ours, theirs in rows:
            state = RatioTest().step(state, ours, theirs, 0.1)
        return state

    shuffled, whole = random.sample(increments, len(increments)), [tuple(np.sum(increments, axis=0))]
    for other in (after(shuffled), after(whole)):
        assert other.log_evidence == pytest.approx(after(increments).log_evidence, abs=1e-9)
    state = after(increments)
    assert Odds.model_validate_json(state.model_dump_json()) == state


def canary(stable: float, ratio: float, p: float, blocks: int, size: int, paths: int, seed: int, limit: float = 1.0):
    """Least p-values of paths whose stable rate swings by the hour, [paths]."""
    random, least, test = np.random.default_rng(seed), [], RatioTest(limit)
    rates = stable * (1 + 0.9 * np.sin(np.arange(blocks)))
    ours = random.binomial(size, p * rates * ratio, (paths, blocks))
    theirs = random.binomial(size, (1 - p) * rates, (paths, blocks))
    for row in zip(ours, theirs, strict=True):
        state = test.start()
        for candidate, other in zip(*row, strict=True):
            state = test.step(state, candidate, other, p)
        least.append(state.p_value)
    return np.array(least)


@pytest.mark.parametrize("p", [0.05, 0.5])
def test_a_candidate_at_the_limit_is_rejected_no_more_often_than_alpha_though_rates_swing(p):
    for limit in (1.0, 2.0):
        least = canary(0.02, limit, p, blocks=60, size=300, paths=400, seed=10, limit=limit)
        assert (least <= 0.05).sum() <= binom.ppf(0.99, 400, 0.05)


def test_a_candidate_of_twice_the_errors_is_seen_and_one_within_its_limit_is_not():
    assert (canary(0.02, 2.0, 0.5, blocks=60, size=300, paths=100, seed=11) <= 0.01).all()
    assert (canary(0.02, 2.0, 0.5, blocks=60, size=300, paths=100, seed=12, limit=3.0) <= 0.01).sum() == 0


@pytest.mark.parametrize("p", [0.05, 0.5])
@pytest.mark.parametrize("ratio", [1.25, 2.0, 5.0, 50.0])
def test_a_higher_ratio_is_seen_with_at_most_half_more_events_than_the_best_test_needs(p, ratio):
    random, paths = np.random.default_rng(13), 200
    ours = ratio * p / (ratio * p + 1 - p)
    growth = ours * math.log(ours / p) + (1 - ours) * math.log((1 - ours) / (1 - p))
    events = random.random((paths, math.ceil(40 / growth) + 60)) < ours

    def needed(factors) -> float:
        shares = [f * p / (f * p + 1 - p) for f in factors]
        logs = [np.cumsum(np.where(events, math.log(s / p), math.log((1 - s) / (1 - p))), axis=1) for s in shares]
        over = np.logaddexp.reduce(logs, axis=0) - math.log(len(factors)) >= math.log(100)
        assert over.any(axis=1).all()
        return float((over.argmax(axis=1) + 1).mean())

    assert needed(FACTORS) <= 1.5 * needed([ratio])


def test_the_p_value_remembers_the_most_that_was_ever_said_and_the_counts_all_that_was_seen():
    shares, ratios = ShareTest(), RatioTest()
    state = shares.step(shares.step(shares.start(), (90, 10), (1, 1)), (10, 90), (1, 1))
    assert state.log_evidence < 0 < state.most
    assert state.p_value == math.exp(-shares.step(shares.start(), (90, 10), (1, 1)).log_evidence)
    odds = ratios.step(ratios.step(ratios.start(), 90, 10, 0.5), 10, 90, 0.5)
    assert odds.log_evidence < 0 < odds.most
    assert odds.p_value == math.exp(-ratios.step(ratios.start(), 90, 10, 0.5).log_evidence)
    assert (odds.candidate, odds.stable, state.counts) == (100, 100, (100, 100))


# --- bad input


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda: ShareTest(0.0), r"`concentration` must be above 0, found 0\.0"),
        (lambda: ShareTest().step(Shares(), (1, 2), (1, 1, 1)), r"`weights` must be one a count, found 3 and 2 counts"),
        (lambda: ShareTest().step(Shares(), (1, 2), (-1, 2)), r"`weights` must be at least 0, found -1"),
        (lambda: ShareTest().step(Shares(), (1, 2), (0, 0)), r"`weights` must not all be 0, found \(0, 0\)"),
        (
            lambda: ShareTest().step(Shares(), (1, -2), (1, 1)),
            r"`counts` must be a whole number of at least 0, found -2",
        ),
        (lambda: ShareTest().step(Shares(), (1, 0.5), (1, 1)), r"`counts` must be a whole number of at least 0, found"),
        (lambda: RateTest(0.0), r"`limit` must be in \(0, 1\), found 0\.0"),
        (lambda: RateTest(0.1, "both"), r'`alternative` must be "greater" or "less", found \'both\''),
        (lambda: RateTest(0.1, prior=(1.0, 0.0)), r"`prior` must be above 0, found \(1\.0, 0\.0\)"),
        (lambda: RateTest(0.1).step(Events(), 3, 2), r"`events` must be a whole number of at least 0, found -1"),
        (lambda: rate_interval(1, 2, 1.0), r"`alpha` must be in \(0, 1\), found 1\.0"),
        (lambda: RatioTest(0.0), r"`limit` must be above 0, found 0\.0"),
        (lambda: RatioTest(1.0, "both"), r'`alternative` must be "greater" or "less", found \'both\''),
        (lambda: RatioTest().step(Odds(), 1, 1, 1.0), r"`propensity` must be in \(0, 1\), found 1\.0"),
        (lambda: RatioTest().step(Odds(), -1, 1, 0.5), r"`candidate and stable` must be a whole number of at least 0"),
    ],
)
def test_bad_input_is_named_with_its_rule_and_its_value(bad, message):
    with pytest.raises(ValueError, match=message):
        bad()
