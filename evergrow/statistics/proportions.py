"""Is a rate within its limit, and does traffic split as it should? Tests of counts, valid at every look.

All are ratios of likelihoods of the counts so far, averaged over alternatives: supermartingales from 1 under the null,
which therefore ever reach 1/α with probability at most α (Ville's inequality). They depend on the counts alone, not on
how these came in, and each is a mixture of fixed bets (see `betting`): a rejected limit is one that the mean of the
rates so far is beyond, even if the rate changes with time.

    test = RateTest(limit=0.01)  # an error rate, or the share of answers slower than their limit
    state = test.start()
    state = test.step(state, events=3, rows=120)
    if state.p_value <= 0.01: ...
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import betaln, gammaln, xlog1py, xlogy

from evergrow.contracts import Value
from evergrow.statistics.betting import Alternative

CONCENTRATION = 100.0
"""Of the shares that traffic may really have, about those it should have: within twice the requests of the best test
for any one mismatch, from a lost tenth to all (measured)."""
SCALE = 4.0
"""A rate beyond its limit is expected within some four limits of it."""
_NEAR = 1e-9  # to 0 or 1: no limit beyond is looked at
FACTORS = (1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)
"""How many times beyond its limit the ratio of two rates may really be; each has the same share of the bets."""


class Evidence(Value):
    """Base of the states: what has been seen, and how much it said against the null.

    Attributes:
        log_evidence: log of the likelihood ratio by now; the capital, in `betting`.
        most: the largest that it ever was, ≥ 0.
    """

    log_evidence: float = 0.0
    most: float = 0.0

    @property
    def p_value(self) -> float:
        """At most α with probability at most α under the null, at any time."""
        return math.exp(-self.most)


# --- shares of traffic


class Shares(Evidence):
    """State of a `ShareTest`.

    Attributes:
        weights: of the arms, as they are by now.
        counts: requests of each arm since they are.
        before: log evidence of all that came with other weights.
    """

    weights: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()
    before: float = 0.0


@dataclass(frozen=True)
class ShareTest:
    """Test that requests go to k arms in proportion to their weights (sample ratio mismatch).

    The likelihood of shares around the weights, Dirichlet(concentration × weights), over that of the weights
    themselves: M. Lindon & A. Malek, Anytime-valid inference for multinomial count data, NeurIPS 2022. As weights
    change, evidence is kept and the search for the shares begins anew. Each request is to be a draw of its own; rows
    that share one count once.

    Attributes:
        concentration: of the shares that are looked for about the weights: large for small mismatches, which are then
            seen earlier, and large ones later.
    """

    concentration: float = CONCENTRATION

    def __post_init__(self) -> None:
        if not 0 < self.concentration < math.inf:
            raise ValueError(f"`concentration` must be above 0, found {self.concentration}")

    def start(self) -> Shares:
        """Before the first request."""
        return Shares()

    def step(self, state: Shares, counts: Sequence[int], weights: Sequence[float]) -> Shares:
        """The state after some more requests.

        Args:
            state: the state before them.
            counts: how many each arm had, [k].
            weights: that held for them, in any unit, [k]; an arm of weight 0 is to have none.

        Raises:
            ValueError: a count is below 0 or no integer, a weight is below 0, not finite, or all are 0, their numbers
                differ.
        """
        shares, more = _normal(weights), _counts("counts", counts)
        if len(shares) != len(more):
            raise ValueError(f"`weights` must be one a count, found {len(shares)} and {len(more)} counts")
        before, so_far = state.before, state.counts
        if len(shares) != len(state.weights) or not np.allclose(shares, state.weights, rtol=1e-12, atol=0):
            before, so_far = state.log_evidence, (0,) * len(more)
        total = tuple(a + b for a, b in zip(so_far, more, strict=True))
        log = before + log_share_ratio(total, shares, self.concentration)
        return Shares(log_evidence=log, most=max(state.most, log), weights=shares, counts=total, before=before)


def log_share_ratio(counts: Sequence[int], shares: Sequence[float], concentration: float) -> float:
    """Log of the Bayes factor: Γ(c) / Γ(c + n) Π Γ(c s + k) / Γ(c s) / s^k, over the arms of share s and count k.

    >>> round(math.exp(log_share_ratio((1, 0), (0.5, 0.5), 2.0)), 12)
    1.0
    """
    k, s = np.asarray(counts, np.float64), np.asarray(shares, np.float64)
    if k[s == 0].any():
        return math.inf
    k, s = k[s > 0], s[s > 0]
    c = concentration
    each = gammaln(c * s + k) - gammaln(c * s) - xlogy(k, s)
    return float(gammaln(c) - gammaln(c + k.sum()) + each.sum())


# --- one rate


class Events(Evidence):
    """State of a `RateTest`: so many events in so many rows."""

    events: int = 0
    rows: int = 0


@dataclass(frozen=True)
class RateTest:
    """Test that a rate is at most its limit (or at least, if the alternative is "less").

    The likelihood of the rates beyond the limit, by a Beta distribution cut off there, over that of the limit:
    H. Robbins, Statistical methods related to the law of the iterated logarithm, Annals of Mathematical Statistics 41,
    1970; S. R. Howard, A. Ramdas, J. McAuliffe & J. Sekhon, Time-uniform, nonparametric, nonasymptotic confidence
    sequences, Annals of Statistics 49, 2021 (one-sided beta-binomial mixture). Right for any rate that is within the
    limit given the past, however events hang together otherwise.

    Attributes:
        limit: in (0, 1).
        alternative: where the rate is if the null is wrong.
        prior: of the Beta distribution; (1, 1 / (4 limit)) unless given, of rates within a few limits.
    """

    limit: float
    alternative: Alternative = "greater"
    prior: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not 0 < self.limit < 1:
            raise ValueError(f"`limit` must be in (0, 1), found {self.limit}")
        if self.alternative not in ("greater", "less"):
            raise ValueError(f'`alternative` must be "greater" or "less", found {self.alternative!r}')
        if self.prior is not None and not 0 < min(self.prior) <= max(self.prior) < math.inf:
            raise ValueError(f"`prior` must be above 0, found {self.prior}")

    def start(self) -> Events:
        """Before the first row."""
        return Events()

    def step(self, state: Events, events: int, rows: int) -> Events:
        """The state after some more rows.

        Args:
            state: the state before them.
            events: in them, such as errors, or answers that took too long.
            rows: how many.

        Raises:
            ValueError: events are not an integer from 0 to rows.
        """
        some, none = _counts("events", (events, rows - events))
        n, k = state.rows + some + none, state.events + some
        log = self.log_evidence(k, n)
        return Events(log_evidence=log, most=max(state.most, log), events=k, rows=n)

    def log_evidence(self, events: int, rows: int) -> float:
        """Log of ∫ θ^k (1 - θ)^(n - k) dBeta(θ | θ beyond the limit) / (limit^k (1 - limit)^(n - k))."""
        a, b = self.prior or (1.0, max(1.0, 1 / (SCALE * self.limit)))
        k, rest, upper = events, rows - events, self.alternative == "greater"
        after = float(betaln(a + k, b + rest)) + log_beta_tail(a + k, b + rest, self.limit, upper)
        prior = float(betaln(a, b)) + log_beta_tail(a, b, self.limit, upper)
        return after - prior - float(xlogy(k, self.limit) + xlog1py(rest, -self.limit))


def rate_interval(events: int, rows: int, alpha: float) -> tuple[float, float]:
    """The mean of a rate so far lies between these at all times with probability 1 - alpha; half on either side.

    The limits that `RateTest` rejects neither way, by bisection: a limit is outside just when the test at alpha / 2
    rejects it by the counts so far. Not intersected over time: a rate that changes moves.

    >>> tuple(round(end, 4) for end in rate_interval(10, 1000, 0.05))
    (0.0031, 0.023)
    """
    some, _ = _counts("events", (events, rows - events))
    if not 0 < alpha < 1:
        raise ValueError(f"`alpha` must be in (0, 1), found {alpha}")
    if not rows:
        return 0.0, 1.0
    level = -math.log(alpha / 2)

    def rejected(limit: float, alternative: Alternative) -> bool:
        return RateTest(limit, alternative).log_evidence(some, rows) >= level

    rate = some / rows
    lower = _last(lambda limit: rejected(limit, "greater"), _NEAR, rate) if rate > _NEAR else None
    upper = _last(lambda limit: rejected(limit, "less"), 1 - _NEAR, rate) if rate < 1 - _NEAR else None
    return 0.0 if lower is None else lower, 1.0 if upper is None else upper


def _last(holds: Callable[[float], bool], outer: float, inner: float) -> float | None:
    """The last place from `outer` on at which it holds, up to `inner`, where it does not; None if not even there."""
    if not holds(outer):
        return None
    for _ in range(50):
        middle = (outer + inner) / 2
        outer, inner = (middle, inner) if holds(middle) else (outer, middle)
    return outer


def log_beta_tail(a: float, b: float, x: float, upper: bool) -> float:
    """Log of the probability that a Beta(a, b) is above x (or below), right where the probability itself is 0 in float.

    The continued fraction of the regularised incomplete beta function (DLMF 8.17.22), by Lentz's method.

    >>> round(log_beta_tail(1.0, 5000.0, 0.5, upper=True) / math.log(0.5))
    5000
    """
    return _log_below(b, a, 1 - x, x) if upper else _log_below(a, b, x, 1 - x)


def _log_below(a: float, b: float, x: float, y: float) -> float:
    """Log of I_x(a, b), y being 1 - x."""
    if x > (a + 1) / (a + b + 2):  # where the fraction is slow
        other = _log_below(b, a, y, x)
        return math.log1p(-math.exp(other)) if other < 0 else -math.inf
    return a * math.log(x) + b * math.log(y) - math.log(a) - float(betaln(a, b)) - math.log(_fraction(a, b, x))


def _fraction(a: float, b: float, x: float) -> float:
    """1 + d1 / (1 + d2 / (1 + …)), whose terms are those of I_x(a, b)."""
    value = front = 1.0
    back = 0.0
    for step in range(1, 100_000):
        m = step // 2
        if step % 2:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        back = 1 / (1 + term * back)
        front = 1 + term / front
        value *= front * back
        if abs(front * back - 1) < 1e-15:
            break
    return value


# --- two rates


class Odds(Evidence):
    """State of a `RatioTest`: events of either version, and the log likelihood ratio of each factor."""

    candidate: int = 0
    stable: int = 0
    logs: tuple[float, ...] = (0.0,) * len(FACTORS)


@dataclass(frozen=True)
class RatioTest:
    """Test that the candidate's rate is at most `limit` times the stable version's, for events that are rare.

    Of the events, the candidate's share is r p / (r p + 1 - p) if its rate is r times the stable's and it has share p
    of the traffic: whatever the rates are, and however they change, so that only the events need to be counted. The
    likelihood of ratios beyond the limit is averaged over FACTORS. Comparing Poisson counts by their sum is due to
    J. Przyborowski & H. Wilenski, Homogeneity of results in testing samples from Poisson series, Biometrika 31, 1940;
    for experiments that are watched, to M. Lindon & A. Malek, NeurIPS 2022. Rows without the event would tell little
    more: at rates of 1 % and 2 % this test grows by 98.5 % of what the best one does that sees them all, at 10 % and
    20 % by 85 %. Where events are not rare, bet on differences (`betting`).

    Attributes:
        limit: of the ratio, > 0.
        alternative: where the ratio is if the null is wrong.
    """

    limit: float = 1.0
    alternative: Alternative = "greater"

    def __post_init__(self) -> None:
        if not 0 < self.limit < math.inf:
            raise ValueError(f"`limit` must be above 0, found {self.limit}")
        if self.alternative not in ("greater", "less"):
            raise ValueError(f'`alternative` must be "greater" or "less", found {self.alternative!r}')

    def start(self) -> Odds:
        """Before the first event."""
        return Odds()

    def step(self, state: Odds, candidate: int, stable: int, propensity: float) -> Odds:
        """The state after some more events.

        Args:
            state: the state before them.
            candidate: events of the candidate.
            stable: events of the stable version.
            propensity: probability with which requests went to the candidate meanwhile, in (0, 1).

        Raises:
            ValueError: a count is below 0 or no integer, the propensity is not in (0, 1).
        """
        if not 0 < propensity < 1:
            raise ValueError(f"`propensity` must be in (0, 1), found {propensity}")
        ours, theirs = _counts("candidate and stable", (candidate, stable))
        limit = _share(self.limit, propensity)
        logs = []
        for factor, log in zip(FACTORS, state.logs, strict=True):
            share = _share(self.limit * (factor if self.alternative == "greater" else 1 / factor), propensity)
            logs.append(log + ours * math.log(share / limit) + theirs * math.log((1 - share) / (1 - limit)))
        log = float(np.logaddexp.reduce(logs)) - math.log(len(FACTORS))
        return Odds(
            log_evidence=log,
            most=max(state.most, log),
            candidate=state.candidate + ours,
            stable=state.stable + theirs,
            logs=tuple(logs),
        )


def _share(ratio: float, propensity: float) -> float:
    """The candidate's share of the events."""
    return ratio * propensity / (ratio * propensity + 1 - propensity)


def _normal(weights: Sequence[float]) -> tuple[float, ...]:
    for weight in weights:
        if not 0 <= weight < math.inf:
            raise ValueError(f"`weights` must be at least 0, found {weight}")
    whole = math.fsum(weights)
    if not whole > 0:
        raise ValueError(f"`weights` must not all be 0, found {tuple(weights)}")
    return tuple(weight / whole for weight in weights)


def _counts(name: str, counts: Sequence[int]) -> tuple[int, ...]:
    for count in counts:
        if count != int(count) or count < 0:
            raise ValueError(f"`{name}` must be a whole number of at least 0, found {count}")
    return tuple(int(count) for count in counts)
