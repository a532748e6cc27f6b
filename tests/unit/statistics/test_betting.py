import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import logsumexp
from scipy.stats import binom, invgauss, norm

from evergrow.statistics.betting import (
    LIMIT,
    MULTIPLES,
    SHARES,
    BettingTest,
    Capital,
    Capitals,
    PlannedTest,
    differences,
    extremes,
    horizon,
    overlap,
    planned_rows,
    unit_means,
)

TEST = BettingTest.planned(effect=0.1, variance=1.0, bound=-2.0)
MIRROR = BettingTest.planned(effect=0.1, variance=1.0, bound=2.0, alternative="less")

values = st.lists(st.floats(-2, 2), min_size=1, max_size=12)


# --- values: what a row says of the effect


@settings(max_examples=30)
@given(st.data())
def test_over_all_draws_a_rows_value_is_the_effect_on_it_on_average_wherever_it_is_centred(data):
    without, with_it, centre = (np.array(data.draw(st.lists(st.floats(0, 1), min_size=3, max_size=3))) for _ in "012")
    p = np.array(data.draw(st.lists(st.floats(0.05, 0.95), min_size=3, max_size=3)))
    mean = np.zeros(3)
    for draw in itertools.product((0, 1), repeat=3):
        a = np.array(draw)
        probability = np.prod(np.where(a, p, 1 - p))
        mean += probability * differences(a, p, np.where(a, with_it, without), centre)
    assert mean == pytest.approx(with_it - without, abs=1e-9)


def test_outcomes_are_cut_off_at_their_bounds():
    found = differences([1, 0, 1], 0.5, [7.0, -3.0, 0.5], 0.0, low=0.0, high=1.0)
    assert found.tolist() == [2.0, 0.0, 1.0]


@settings(max_examples=50)
@given(st.floats(0.01, 0.99), st.floats(-1, 3))
def test_the_extremes_are_those_of_all_draws_and_outcomes(p, centre):
    found = [
        float(overlap(p) * differences([a], p, [y], centre)[0]) for a in (0, 1) for y in (-1.0, *([centre] * 1), 3.0)
    ]
    least, most = extremes(p, centre, -1.0, 3.0)
    assert (least, most) == (pytest.approx(min(found)), pytest.approx(max(found)))


def test_extremes_of_several_steps_and_centres_hold_for_each_of_them():
    assert extremes((0.05, 0.5), (0.1, 0.3), 0.0, 1.0) == (pytest.approx(-1.8), pytest.approx(3.42))


def test_weights_make_rows_of_every_propensity_equally_precise_for_their_weight():
    random, p = np.random.default_rng(0), np.array([0.02, 0.1, 0.5, 0.9])
    a = random.random((200_000, 4)) < p
    x = differences(a, p, 0.3 + 0.2 * random.normal(size=a.shape), 0.3)
    assert x.var(axis=0) * overlap(p) == pytest.approx(np.full(4, 4 * 0.2**2), rel=0.04)


@given(st.lists(st.tuples(st.integers(0, 4), st.floats(-5, 5)), min_size=1, max_size=20))
def test_the_mean_of_each_unit_is_over_its_own_rows(rows):
    units, x = np.array([u for u, _ in rows]), np.array([v for _, v in rows])
    expected = [x[units == unit].mean() for unit in sorted(set(units.tolist()))]
    assert unit_means(x, units).tolist() == pytest.approx(expected)


# --- capital


def product(test: BettingTest, x, weights, null=None) -> float:
    """The capital by multiplying, bet by bet."""
    null, sign = test.null if null is None else null, 1 if test.alternative == "greater" else -1
    whole = 0.0
    for bet, share in zip(test.bets, test.shares, strict=True):
        capital = share
        for value, weight in zip(x, weights, strict=True):
            capital *= 1 + bet * weight * sign * (value - null)
        whole += capital
    return whole


@given(st.lists(st.tuples(st.floats(-2, 2), st.floats(0, 1)), min_size=1, max_size=12), st.sampled_from([TEST, MIRROR]))
def test_capital_is_what_the_bets_come_to_when_multiplied_out(rows, test):
    x, weights = np.array(rows).T
    state = test.step(test.start(), x, weights)
    assert math.exp(state.log_capital) == pytest.approx(product(test, x, weights), rel=1e-9)


def test_a_published_implementation_comes_to_the_same_capital():
    # confseq 0.0.11: betting_mart(x, 0.5, lambdas_fn_positive=lambda x, m: np.full(len(x), bet), theta=1)[-1]
    x = [0.9, 0.1, 0.7, 0.4, 1.0, 0.3, 0.8, 0.6, 0.2, 0.95]
    for bet, capital in ((0.3, 1.270296100173427), (0.6, 1.4784703659815306), (1.0, 1.5801065280000002)):
        test = BettingTest(null=0.5, bound=0.0, bets=(bet,), shares=(1.0,))
        assert math.exp(test.step(test.start(), x).log_capital) == pytest.approx(capital, rel=1e-12)


@given(values, st.randoms())
def test_the_order_of_values_in_a_block_does_not_matter(x, random):
    shuffled = random.sample(x, len(x))
    ours, theirs = (TEST.step(TEST.start(), block) for block in (x, shuffled))
    assert np.array(ours.logs) == pytest.approx(np.array(theirs.logs), abs=1e-12)


@given(values, values)
def test_two_blocks_come_to_the_same_capital_as_one(first, second):
    apart = TEST.step(TEST.step(TEST.start(), first), second)
    together = TEST.step(TEST.start(), first + second)
    assert np.array(apart.logs) == pytest.approx(np.array(together.logs), abs=1e-12)
    assert (apart.rows, apart.weight) == (together.rows, together.weight)
    assert apart.most >= together.most - 1e-12


@given(st.lists(values.filter(len), max_size=6), st.integers(0, 2**32 - 1))
def test_several_blocks_at_once_are_to_the_bit_what_they_are_one_after_the_other(blocks, seed):
    plan = PlannedTest(effect=0.1, variance=1.0, bounds=(-2.0, 2.0))
    weights = [np.random.default_rng(seed).uniform(size=len(block)) for block in blocks]
    apart = plan.start()
    for block, weight in zip(blocks, weights, strict=True):
        apart = plan.step(apart, block, weight)
    numbers = np.repeat(3 * np.arange(len(blocks)), [len(block) for block in blocks])
    whole = plan.step(plan.start(), np.concatenate([[], *blocks]), np.concatenate([[], *weights]), numbers)
    assert whole == apart
    assert whole.model_dump_json() == apart.model_dump_json()


@given(values)
def test_the_other_alternative_is_the_mirror_image(x):
    ours, theirs = TEST.step(TEST.start(), x), MIRROR.step(MIRROR.start(), [-v for v in x])
    assert ours.logs[0] == pytest.approx(theirs.logs[0], abs=1e-12)
    assert TEST.bound_of_mean(ours, 0.1) == pytest.approx(-MIRROR.bound_of_mean(theirs, 0.1), abs=1e-9)


def test_the_p_value_is_the_least_of_one_over_the_capital_so_far():
    state, capitals = TEST.start(), [1.0]
    for value in (2.0, 2.0, -2.0, -2.0, 1.0):
        state = TEST.step(state, value)
        capitals.append(math.exp(state.log_capital))
    assert state.p_value == pytest.approx(1 / max(capitals))
    assert TEST.step(TEST.start(), -1.0).p_value == 1.0


def test_the_state_goes_through_json():
    wide = BettingTest.planned(effect=1.0, variance=1.0, bound=-2.0)  # not all of its nulls are safe to bet against
    for test in (TEST, wide):
        state = test.step(test.start(), [0.1, -0.7], [0.2, 1.0])
        assert Capital.model_validate_json(state.model_dump_json()) == state


def test_bets_are_the_planned_effect_over_the_variance_and_its_multiples_but_never_unsafe():
    assert TEST.bets == pytest.approx([0.1, 0.2, LIMIT / 2])
    free = BettingTest.planned(effect=0.1, variance=10.0, bound=-2.0)
    assert free.bets == pytest.approx([0.01 * k for k in MULTIPLES])


@pytest.mark.parametrize(("null", "reach"), [(0.5, 2.5), (0.0, 2.0), (-0.5, 2.0)])
def test_a_bet_can_lose_the_most_where_weight_and_value_are_worst(null, reach):
    """A value of weight 1 that is least; or, where the null is below 0, a large one of hardly any weight."""
    greater = BettingTest.planned(effect=1.0, variance=1.0, bound=-2.0, null=null)
    less = BettingTest.planned(effect=1.0, variance=1.0, bound=2.0, null=-null, alternative="less")
    assert greater.reach == less.reach == reach
    assert max(greater.bets) == max(less.bets) == pytest.approx(LIMIT / reach)


# --- the null is safe


@settings(max_examples=60)
@given(st.data(), st.sampled_from([TEST, MIRROR]))
def test_capital_is_a_supermartingale_whatever_two_values_the_next_one_takes(data, test):
    """The extreme distributions of a given mean have two values; each node of the tree has its own, and a weight."""
    sign = 1 if test.alternative == "greater" else -1

    def expected(capitals: np.ndarray, depth: int) -> float:
        if depth == 0:
            return float(capitals.sum())
        weight = data.draw(st.floats(0, 1))
        low, high = data.draw(st.floats(-2, 0)), data.draw(st.floats(0, 50))
        chance = -low / (high - low) if high > low else 1.0  # of the high one: the mean is 0
        return sum(
            p * expected(capitals * np.exp(test.gains(sign * x, weight)), depth - 1)
            for p, x in ((chance, high), (1 - chance, low))
        )

    assert expected(np.array(test.shares), 4) == pytest.approx(1.0, abs=1e-9)


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(-1, 1), st.sampled_from([0.05, 0.5, 0.7])), min_size=6, max_size=6)
)
def test_over_all_draws_capital_is_at_most_one_where_the_weighted_mean_of_the_effects_is_not_above_zero(rows):
    """Outcomes are fixed, effects are any whose weighted sum is 0; only the draws vary: 2⁶ of them."""
    without, effect, p = np.array(rows).T
    weights = overlap(p)
    effect = effect - (weights @ effect) / weights.sum()
    low, high = float((without + np.minimum(effect, 0)).min()), float((without + np.maximum(effect, 0)).max())
    test = BettingTest.planned(0.3, 0.5, extremes(p, 0.5, min(low, 0.4), max(high, 0.6))[0])
    mean = 0.0
    for draw in itertools.product((0, 1), repeat=6):
        a = np.array(draw)
        x = differences(a, p, without + a * effect, 0.5)
        mean += np.prod(np.where(a, p, 1 - p)) * product(test, x, weights)
    assert mean <= 1 + 1e-9


def swinging(random: np.random.Generator, paths: int, blocks: int) -> np.ndarray:
    """Values of effects -0.5, 0.5, -0.5, …: no running mean is ever above 0."""
    effect = np.where(np.arange(blocks) % 2 == 1, 0.5, -0.5)
    return np.where(random.random((paths, blocks)) < (1 + effect) / 2, 1.0, -1.0)


def test_fixed_bets_are_not_fooled_by_effects_that_swing_and_bets_that_learn_are():
    x = swinging(np.random.default_rng(1), 2000, 300)
    test = BettingTest.planned(effect=0.2, variance=1.0, bound=-1.0)
    fixed = logsumexp(np.cumsum(test.gains(x), axis=1) + np.log(SHARES), axis=2).max(axis=1)
    assert (fixed >= -math.log(0.05)).mean() <= 0.05
    # Bets on the mean of the values at the same place of the cycle so far, if it is above 0: predictable, as allowed.
    seen = np.cumsum(x.reshape(2000, 150, 2), axis=1) / np.arange(1, 151)[None, :, None]
    before = np.concatenate([np.zeros((2000, 1, 2)), seen[:, :-1]], axis=1).reshape(2000, 300)
    learnt = np.cumsum(np.log1p(np.clip(before, 0, 0.5) * x), axis=1).max(axis=1)
    assert (learnt >= -math.log(0.05)).mean() > 0.99


def traffic(random: np.random.Generator, paths: int, blocks: int, rows: int, p: float, effect: float):
    """Draws and losses in [0, 1], [paths, blocks, rows]: hours hang together, entities differ, rows have noise."""
    hours = random.normal(size=(paths, blocks))
    for t in range(1, blocks):
        hours[:, t] = 0.9 * hours[:, t - 1] + math.sqrt(1 - 0.9**2) * hours[:, t]
    entities, who = random.normal(size=(paths, 30)), random.integers(0, 30, (paths, blocks * rows))
    own = np.take_along_axis(entities, who, axis=1).reshape(paths, blocks, rows)
    a = random.random((paths, blocks, rows)) < p
    noise = 0.1 * random.normal(size=a.shape)
    return a, np.clip(0.45 + 0.1 * hours[:, :, None] + 0.1 * own + noise, 0, 0.8) + effect * a


PLAN = PlannedTest(effect=0.03, variance=4 * 0.03, bounds=extremes((0.05, 0.5), (0.3, 0.6), 0.0, 1.0))


def outcomes(plan: PlannedTest, p: float, effect: float, paths: int, seed: int, rows: int = 20):
    """Share of paths on which each test ever rejects, first verdicts, and weight seen until then, up to the horizon."""
    blocks = math.ceil(plan.horizon / overlap(p) / rows)
    a, y = traffic(np.random.default_rng(seed), paths, blocks, rows, p, effect)
    earlier = np.cumsum(y.mean(axis=2), axis=1) / np.arange(1, blocks + 1)
    centre = np.clip(np.concatenate([np.full((paths, 1), 0.5), earlier[:, :-1]], axis=1), 0.3, 0.6)
    x = differences(a, p, y, centre[:, :, None])
    times = {}
    for test, alpha in ((plan.greater, plan.alpha), (plan.less, plan.miss)):
        logs = logsumexp(np.cumsum(test.gains(x, overlap(p)).sum(axis=2), axis=1) + np.log(SHARES), axis=2)
        over = logs >= -math.log(alpha)
        times[test.alternative] = np.where(over.any(axis=1), over.argmax(axis=1) + 1, np.inf)
    until = np.minimum(np.minimum(times["greater"], times["less"]), blocks)
    return times["greater"], times["less"], until * rows * float(overlap(p))


@pytest.mark.parametrize("alpha", [0.05, 0.01])
@pytest.mark.parametrize("p", [0.05, 0.5])
def test_of_many_harmless_candidates_no_more_are_rejected_than_alpha_at_any_of_all_looks(p, alpha):
    plan = PlannedTest(PLAN.effect, PLAN.variance, PLAN.bounds, alpha=alpha)
    greater, _, _ = outcomes(plan, p, 0.0, paths=400 if p < 0.1 else 2000, seed=2)
    assert np.isfinite(greater).sum() <= binom.ppf(0.99, len(greater), alpha)


@pytest.mark.parametrize("p", [0.05, 0.5])
def test_of_candidates_as_bad_as_planned_no_more_are_called_good_than_was_set_and_most_are_caught(p):
    greater, less, _ = outcomes(PLAN, p, PLAN.effect, paths=400 if p < 0.1 else 1000, seed=3)
    assert np.isfinite(less).sum() <= binom.ppf(0.99, len(less), PLAN.miss)
    caught = (greater <= less) & np.isfinite(greater)
    assert caught.mean() >= PLAN.power - 0.03


def test_draws_that_are_kept_from_block_to_block_are_no_news_and_must_not_be_bet_on():
    """Why there is to be one value for each independent draw: entities that keep their version look like effects."""
    random = np.random.default_rng(4)
    entities, kept = random.normal(size=(500, 30, 1)), random.random((500, 30, 1)) < 0.5
    losses = np.clip(0.5 + 0.2 * entities + 0.05 * random.normal(size=(500, 30, 40)), 0, 1)
    test = BettingTest.planned(0.05, 4 * 0.04, extremes(0.5, 0.5, 0.0, 1.0)[0])

    def rejected(assigned) -> float:
        x = differences(np.broadcast_to(assigned, losses.shape), 0.5, losses, 0.5)
        logs = logsumexp(np.cumsum(test.gains(x).sum(axis=1), axis=1) + np.log(SHARES), axis=2)
        return float((logs.max(axis=1) >= -math.log(0.05)).mean())

    assert rejected(kept) > 0.2
    assert rejected(random.random(losses.shape) < 0.5) <= 0.07


# --- how fast


def test_the_fixed_number_of_rows_has_the_power_and_one_row_less_has_not():
    rows, alpha, power = planned_rows(0.02, 0.36, 0.05, 0.9), 0.05, 0.9
    reached = [norm.sf(norm.isf(alpha) - 0.02 / math.sqrt(0.36 / n)) for n in (rows, rows - 1)]
    assert reached[0] >= power > reached[1]


@pytest.mark.parametrize("bet", [None, 0.3, 0.03])
def test_the_horizon_is_the_quantile_of_the_first_passage_of_a_brownian_motion(bet):
    effect, variance, alpha = 0.1, 0.2, 0.01
    lam = effect / variance if bet is None else bet
    drift, spread, level = lam * effect - lam**2 * variance / 2, lam * math.sqrt(variance), math.log(2 / alpha)
    mean, shape = level / drift, level**2 / spread**2
    expected = invgauss(mu=mean / shape, scale=shape).ppf(0.95)
    assert horizon(effect, variance, alpha, 0.95, bet) == pytest.approx(expected, abs=1.01)


@pytest.mark.parametrize(("times", "most"), [(0, 1.0), (1, 1.0), (2, 0.4), (4, 0.15), (-1, 0.4)])
def test_a_decision_takes_no_more_rows_than_a_test_of_fixed_size_and_far_fewer_if_it_is_clear(times, most):
    _, _, weight = outcomes(PLAN, 0.5, times * PLAN.effect, paths=500, seed=5, rows=10)
    assert weight.mean() <= most * planned_rows(PLAN.effect, PLAN.variance)


def test_a_mean_of_many_rows_is_too_timid_a_bet():
    """Bets on means of blocks are valid whatever draws share within them, and slow where rows are drawn one by one."""
    greater, _, _ = outcomes(PLAN, 0.5, PLAN.effect, paths=300, seed=6)
    a, y = traffic(np.random.default_rng(6), 300, 60, 20, 0.5, PLAN.effect)
    means = differences(a, 0.5, y, 0.5).mean(axis=2)
    test = BettingTest.planned(PLAN.effect, PLAN.variance / 20, PLAN.bounds[0])
    assert test.bets[0] == pytest.approx(LIMIT / test.reach)  # all that is safe, and a fraction of Kelly's
    logs = logsumexp(np.cumsum(test.gains(means), axis=1) + np.log(SHARES), axis=2)
    assert (logs.max(axis=1) >= -math.log(PLAN.alpha)).mean() < 0.5 < np.isfinite(greater).mean()


# --- bounds of the mean


def exact_bound(test: BettingTest, x, weights, alpha: float) -> float:
    """The mean at which the capital itself is 1 / alpha."""
    mean = float(x @ weights / weights.sum())
    return brentq(lambda m: math.log(product(test, x, weights, null=m)) + math.log(alpha), mean - 2, mean)


@pytest.mark.parametrize("mean", [-0.5, 0.0, 0.07, 0.2])
@pytest.mark.parametrize("rows", [200, 1500])
def test_the_bound_from_what_is_kept_is_that_of_the_capital_itself_and_never_tighter(mean, rows):
    random = np.random.default_rng(rows)
    weights = random.uniform(0.2, 1, rows)
    x = np.clip(random.normal(mean, 0.7, rows), -2, 2)
    test = BettingTest.planned(effect=0.1, variance=0.8, bound=-2.0)
    found, exact = test.bound_of_mean(test.step(test.start(), x, weights), 0.05), exact_bound(test, x, weights, 0.05)
    assert exact - 0.01 <= found <= exact + 1e-9


@settings(max_examples=200)
@given(st.lists(st.floats(-2, 2), min_size=20, max_size=40), st.floats(0.001, 0.5), st.sampled_from([TEST, MIRROR]))
def test_the_null_is_beyond_the_bound_just_when_the_capital_rejects_it(x, alpha, test):
    state = test.step(test.start(), x * 5)
    bound = test.bound_of_mean(state, alpha)
    beyond = bound >= test.null if test.alternative == "greater" else bound <= test.null
    assert beyond == (state.log_capital >= -math.log(alpha))


def test_the_running_mean_of_effects_that_change_stays_within_the_interval_at_all_times():
    random, blocks, rows, paths, misses = np.random.default_rng(7), 40, 30, 80, 0
    plan = PlannedTest(effect=0.1, variance=4 * 0.25, bounds=extremes((0.1, 0.5), 0.5, 0.0, 1.0))
    for _ in range(paths):
        state, seen, weight = plan.start(), 0.0, 0.0
        for t in range(blocks):
            p, effect = (0.1, 0.1) if t < 10 else (0.5, 0.3 * math.sin(t / 5))
            a = random.random(rows) < p
            y = (random.random(rows) < 0.4 + effect * a).astype(float)
            w = float(overlap(p))
            state = plan.step(state, differences(a, p, y, 0.5), w)
            seen, weight = seen + w * rows * effect, weight + w * rows
            low, high = plan.interval(state, 0.2)
            if not low <= seen / weight <= high:
                misses += 1
                break
    assert misses <= binom.ppf(0.99, paths, 0.2)
    assert -0.2 < low < high < 0.3


def test_nothing_is_bounded_before_anything_is_known():
    assert TEST.bound_of_mean(TEST.start(), 0.05) == -math.inf
    assert MIRROR.bound_of_mean(MIRROR.start(), 0.05) == math.inf
    assert TEST.bound_of_mean(TEST.step(TEST.start(), [0.3, 0.1], 0.0), 0.05) == -math.inf
    assert PLAN.interval(PLAN.start(), 0.05) == (-math.inf, math.inf)


def test_a_mean_far_beyond_the_plan_is_bounded_by_the_last_null_that_is_safe_to_bet_against():
    state = TEST.step(TEST.start(), np.full(200, 40.0))
    assert TEST.bound_of_mean(state, 0.05) == TEST.further[-1]
    wide = BettingTest.planned(effect=1.0, variance=1.0, bound=-2.0)
    bound = wide.bound_of_mean(wide.step(wide.start(), np.full(200, 40.0)), 0.05)
    assert bound == 1.0
    assert all(bet * (bound + 2) <= 0.9 for bet in wide.bets)


def test_the_interval_is_wrong_with_half_of_alpha_on_either_side():
    state = PLAN.step(PLAN.start(), np.tile([0.6, -0.6], 400))
    low, high = PLAN.interval(state, 0.1)
    assert low == PLAN.greater.bound_of_mean(state.greater, 0.05) < 0
    assert high == PLAN.less.bound_of_mean(state.less, 0.05) > 0


# --- verdicts


def test_what_may_be_missed_is_spent_on_calling_an_effect_harmless_and_on_the_horizon_by_halves():
    plan = PlannedTest(PLAN.effect, PLAN.variance, PLAN.bounds, alpha=0.02, power=0.8)
    assert plan.miss == pytest.approx(0.1)
    assert plan.horizon == horizon(plan.effect, plan.variance, 0.02, 0.9, plan.greater.bets[0])
    assert (plan.greater.null, plan.less.null) == (0.0, plan.effect)


def after(plan: PlannedTest, value: float, rows: int) -> str:
    return plan.verdict(plan.step(plan.start(), np.full(rows, value)))


def test_a_mean_far_above_zero_is_called_greater_and_one_below_the_effect_is_called_less():
    assert after(PLAN, 0.2, 400) == "greater"
    assert after(PLAN, -0.2, 400) == "less"
    assert after(PLAN, 0.2, 2) == after(PLAN, -0.2, 2) == "open"


def test_a_mean_between_zero_and_the_effect_is_inconclusive_at_the_horizon_and_not_before():
    halfway = PLAN.effect / 2
    assert after(PLAN, halfway, 100) == "open"
    state = PLAN.start()
    noise = np.tile([halfway + 0.5, halfway - 0.5], PLAN.horizon)
    assert PLAN.verdict(PLAN.step(state, noise[: PLAN.horizon - 1])) == "open"
    assert PLAN.verdict(PLAN.step(state, noise[: PLAN.horizon + 1])) == "inconclusive"


def test_the_horizon_counts_rows_by_their_weight():
    noise = np.tile([PLAN.effect / 2 + 0.5, PLAN.effect / 2 - 0.5], PLAN.horizon)
    assert PLAN.verdict(PLAN.step(PLAN.start(), noise, 0.19)) == "open"


def test_where_both_reject_the_candidate_is_worse():
    assert after(PLAN, PLAN.effect / 2, 20_000) == "greater"


def test_the_state_of_both_goes_through_json():
    state = PLAN.step(PLAN.start(), [0.1, -0.2], 0.19)
    assert Capitals.model_validate_json(state.model_dump_json()) == state


# --- bad input


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda: differences([1, 2], 0.5, [0.0, 0.0], 0.0), r"`assigned` must be 0 or 1, found 2"),
        (lambda: differences([1, 0], [0.5, 1.0], [0.0, 0.0], 0.0), r"`propensity` must be in \(0, 1\), found 1"),
        (lambda: differences([1, 0], 0.0, [0.0, 0.0], 0.0), r"`propensity` must be in \(0, 1\), found 0"),
        (lambda: differences([1], 0.5, [math.nan], 0.0), r"`outcome` must be finite, found nan"),
        (lambda: differences([1], 0.5, [0.0], math.inf), r"`centre` must be finite, found inf"),
        (lambda: TEST.step(TEST.start(), [0.0, -2.5]), r"`weights × values` must be at least -2, found -2\.5"),
        (lambda: MIRROR.step(MIRROR.start(), 2.5), r"`weights × values` must be at most 2, found 2\.5"),
        (lambda: TEST.step(TEST.start(), math.nan), r"`values` must be finite, found nan"),
        (lambda: TEST.step(TEST.start(), 0.0, 1.5), r"`weights` must be in \[0, 1\], found 1\.5"),
        (lambda: BettingTest.planned(0.0, 1.0, -1.0), r"`effect` must be above 0, found 0\.0"),
        (lambda: BettingTest.planned(0.1, -1.0, -1.0), r"`variance` must be above 0, found -1\.0"),
        (lambda: BettingTest(0.0, 1.0, (0.1,), (1.0,)), r"`bound` must be finite and beyond the null 0, found 1"),
        (lambda: BettingTest.planned(0.1, 1.0, 0.0), r"`bound` must be finite and beyond the null 0, found 0"),
        (lambda: BettingTest(0.0, -1.0, (0.6,), (1.0,)), r"`bets` must be in \(0, 0\.5\], found \(0\.6,\)"),
        (lambda: BettingTest(0.0, -1.0, (0.1, 0.2), (0.5, 0.6)), r"`shares` must be above 0 and add up to 1"),
        (lambda: BettingTest(0.0, -1.0, (0.1,), (1.0,), "both"), r'`alternative` must be "greater" or "less", found'),
        (lambda: planned_rows(0.1, 1.0, alpha=0.0), r"`alpha` must be in \(0, 1\), found 0\.0"),
        (lambda: horizon(0.1, 1.0, 0.05, 1.0), r"`power` must be in \(0, 1\), found 1\.0"),
        (lambda: PlannedTest(0.1, 1.0, (-1.0, 1.0), alpha=2.0), r"`alpha` must be in \(0, 1\), found 2\.0"),
    ],
)
def test_bad_input_is_named_with_its_rule_and_its_value(bad, message):
    with pytest.raises(ValueError, match=message):
        bad()
