"""From the prediction log, labels and counters to findings: what a rollout is judged by. Pure, and nothing is kept.

    log rows ────────────────────► guarded ──► Told ──┐
    log rows, labels as of now ──► decided ──► Told ──┼─► Evidence
    requests that were counted ───────────────────────┘

Checks of a candidate come in one order: sample ratio, errors, latency, score shift, paired scores, estimate, loss,
worth. What does not decide is told and drops nobody: it never fails.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evergrow.contracts import EVENT_TIMESTAMP, Outcome
from evergrow.monitoring.performance import SCORE, VERSION
from evergrow.rollout import answers as log
from evergrow.rollout import bandit, gains, guardrails
from evergrow.rollout.evidence import Evidence
from evergrow.rollout.gains import OUTCOME, PROPENSITY, Plan
from evergrow.rollout.guardrails import FEWEST, Answered
from evergrow.rollout.machine import moves_of
from evergrow.rollout.prior import Prior, checks, decisive, outcomes
from evergrow.spec import ContinualModel
from evergrow.spec.rollout import AbTest, Bandit, Finding, Rollout, RolloutStatus

Floats = NDArray[np.float64]

ORDER = ("sample ratio", "errors", "latency", "score shift", "paired scores", "estimate", "loss", "worth")
SETTLED = timedelta(minutes=2)
"""How old answers are before draws are counted. Servers ship what they answered a minute later, each at its own time:
of the newest minutes the log has one version's answers, and not yet the other's."""
ARRIVE = 0.9
"""Share of the copies that must have reached a shadow. A slow one loses some, by intention."""


@dataclass(frozen=True)
class Told:
    """What the log tells of candidates.

    Attributes:
        requests: see `Evidence`.
        answered: by each candidate since the rollout began; none failed, for the log does not have those.
        findings: of all checks but those of `errors` and `latency`.
        shares: see `Evidence`.
        best: see `Evidence`.
    """

    requests: Mapping[int, int] = field(default_factory=dict)
    answered: Mapping[int, Answered] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    shares: Mapping[int, int] | None = None
    best: int | None = None


@dataclass(frozen=True)
class Case:
    """What is judged, and by what.

    Attributes:
        document: of the model.
        rollout: how the new version takes over.
        status: of the rollout.
        stable: the version that serves.
        candidates: those that were not dropped.
        prior: what was known before.
        now: the instant.
        settled: see SETTLED.
    """

    document: ContinualModel
    rollout: Rollout
    status: RolloutStatus
    stable: int
    candidates: tuple[int, ...]
    prior: Prior
    now: datetime
    settled: timedelta = SETTLED

    @property
    def shadow(self) -> bool:
        """Whether candidates get copies and no caller."""
        return self.rollout.strategy.kind == "shadow"

    @property
    def planned(self) -> tuple[float, ...]:
        """Probabilities with which the candidate is drawn, as far as the strategy knows them before."""
        return tuple(m.weight / 100 for m in moves_of(self.rollout, self.status) if 0 < m.weight < 100)


def judge(
    document: ContinualModel,
    status: RolloutStatus,
    candidates: Sequence[int],
    answers: pd.DataFrame,
    counters: Mapping[int, Answered],
    prior: Prior,
    now: datetime,
    settled: timedelta = SETTLED,
) -> Evidence:
    """What is known now.

    Args:
        document: of the model.
        status: of the rollout, which has begun: with `rollout` and `started`.
        candidates: versions to judge; those that were dropped are left out.
        answers: rows of the prediction log since `started`, of all versions that share the traffic: `answers.COLUMNS`,
            the keys of `sticky`, features where the estimate decides, and, where labels are needed,
            `label` and `label_first_known_at` as of `now`, [n]. For a blue-green rollout, of some time before, too.
        counters: requests since `started` by version, as the gateway or the servers counted them.
        prior: what was known before the first request.
        now: the instant.
        settled: answers younger than this are not counted as draws yet.
    """
    if status.rollout is None or status.stable is None:
        return Evidence()
    alive = tuple(one for one in candidates if one not in status.dropped)
    case = Case(document, status.rollout, status, status.stable, alive, prior, now, settled)
    return with_counters(case, of_log(case, answers), counters)


def with_counters(case: Case, told: Told, counters: Mapping[int, Answered]) -> Evidence:
    """The evidence: what the log tells, and what was counted."""
    found = [*told.findings, *(f for one in case.candidates for f in _counted(case, one, told, counters.get(one)))]
    found.sort(key=lambda f: (case.candidates.index(f.candidate), ORDER.index(f.check)))
    return Evidence(told.requests, tuple(found), told.shares, told.best)


def _counted(case: Case, candidate: int, told: Told, counted: Answered | None) -> Iterator[Finding]:
    """Errors are not in the log; late answers are, and few who count requests count those."""
    analysis = case.rollout.analysis
    if counted is not None:
        failed = guardrails.errors(analysis, candidate, counted)
    else:
        reason = f"requests of version {candidate} that failed are not counted: no gateway or server tells of them"
        failed = _missing("errors", candidate, reason) if "errors" in analysis.guardrails else None
    timed = counted if counted and counted.late is not None else told.answered.get(candidate, Answered(0, 0, 0))
    late = guardrails.latency(analysis, candidate, timed)
    yield from (one for one in (failed, late) if one is not None)


def of_log(case: Case, answers: pd.DataFrame) -> Told:
    """What the log tells; see `judge`."""
    try:
        rows = log.read(answers, case.rollout.sticky, case.rollout.analysis.block)
    except log.NoKeyError as error:
        return unreadable(case, str(error))
    return together(guarded(case, rows), decided(case, rows))


def unreadable(case: Case, reason: str) -> Told:
    """What a log tells that does not say who was drawn."""
    return Told(findings=tuple(_missing("sample ratio", one, reason) for one in case.candidates))


def together(guards: Told, decides: Told) -> Told:
    """What `guarded` and `decided` told."""
    return replace(guards, findings=(*guards.findings, *decides.findings), shares=decides.shares, best=decides.best)


def guarded(case: Case, rows: pd.DataFrame) -> Told:
    """What needs no label: `rows` are of `answers.read`."""
    every = rows[rows[EVENT_TIMESTAMP] <= pd.Timestamp(case.now)]
    rows = _begun(case, every)
    draws, late = _draws(case, rows), case.rollout.analysis.latency.milliseconds
    return Told(
        requests={one: _requests(case, rows, one) for one in case.candidates},
        answered={one: log.answered(rows, one, late) for one in case.candidates},
        findings=tuple(f for one in case.candidates for f in _guards(case, every, rows, draws, one)),
    )


def decided(case: Case, rows: pd.DataFrame) -> Told:
    """What decides, of the blocks whose time has come: it is the same until another one's has (`judged_until`).

    Args:
        case: what is judged.
        rows: of `answers.read`, with `label` and `label_first_known_at` where labels are needed.
    """
    rows = _begun(case, rows[rows[EVENT_TIMESTAMP] < pd.Timestamp(judged_until(case))])
    draws = _draws(case, rows)
    if isinstance(case.rollout.strategy, Bandit):
        return _arms_told(case, case.rollout.strategy, draws)
    return Told(findings=tuple(f for one in case.candidates for f in _compared(case, rows, draws, one)))


def judged_until(case: Case) -> datetime:
    """The end of the last block whose time has come."""
    analysis = case.rollout.analysis
    wait = timedelta(0) if decisive(case.rollout) == "estimate" else analysis.labels_within
    return log.start_of_block(case.now - max(wait, case.settled), analysis.block)


def _begun(case: Case, rows: pd.DataFrame) -> pd.DataFrame:
    found: pd.DataFrame = rows[rows[EVENT_TIMESTAMP] >= pd.Timestamp(case.status.started or case.now)]
    return found


def _draws(case: Case, rows: pd.DataFrame) -> pd.DataFrame:
    return log.drawn(rows[rows[EVENT_TIMESTAMP] <= pd.Timestamp(case.now - case.settled)])


def _requests(case: Case, rows: pd.DataFrame, candidate: int) -> int:
    """That it was drawn for, or got copies of, since the move began."""
    since = pd.Timestamp(case.status.step_started or case.now)
    mine = log.copies(rows, candidate) if case.shadow else log.drawn(rows)
    return log.requests(mine[(mine[EVENT_TIMESTAMP] >= since) & (mine[VERSION] == candidate)])


# -- guardrails --


def _guards(
    case: Case, every: pd.DataFrame, rows: pd.DataFrame, draws: pd.DataFrame, candidate: int
) -> Iterator[Finding]:
    analysis, strategy = case.rollout.analysis, case.rollout.strategy
    if strategy.kind == "shadow":
        yield _copies(draws, log.copies(rows, candidate), strategy.share, case, candidate)
    else:
        yield guardrails.sample_ratio(analysis, candidate, log.splits(draws, candidate))
    mine = log.copies(rows, candidate) if case.shadow else log.drawn(rows)
    mine = mine[mine[VERSION] == candidate]
    shifted = guardrails.score_shift(analysis, candidate, *_both_scores(case, every, mine, candidate))
    if shifted is not None:
        yield shifted
    if case.shadow and analysis.disagreement is not None:
        both = log.pairs(rows, case.stable, candidate)
        ours, theirs = both[f"{SCORE}_candidate"].to_numpy(np.float64), both[SCORE].to_numpy(np.float64)
        yield guardrails.paired_scores(analysis, candidate, analysis.disagreement, ours, theirs)


def _both_scores(case: Case, every: pd.DataFrame, mine: pd.DataFrame, candidate: int) -> tuple[Floats, Floats]:
    """Scores of the candidate, and of the stable version over the same time.

    Who takes over all traffic at once has no such time: its scores are compared with those before it.
    """
    theirs = log.drawn(every)
    if not len(mine):
        return np.empty(0), np.empty(0)
    first, at = mine[EVENT_TIMESTAMP].iloc[0], theirs[EVENT_TIMESTAMP]
    theirs = theirs[at < first] if case.rollout.strategy.kind == "blue-green" else theirs[at >= first]
    known = {**log.scores(theirs[theirs[VERSION] == case.stable]), **log.scores(mine)}
    return known.get(candidate, np.empty(0)), known.get(case.stable, np.empty(0))


def _copies(draws: pd.DataFrame, copies: pd.DataFrame, share: int, case: Case, candidate: int) -> Finding:
    """Whether copies arrive. Lost ones are no fault of the route: they make the rollout wait, and do not end it."""
    since = pd.Timestamp(case.status.step_started or case.now)
    until = pd.Timestamp(case.now - case.settled)
    asked = log.requests(draws[draws[EVENT_TIMESTAMP] >= since])
    got, expected = log.requests(copies[copies[EVENT_TIMESTAMP] <= until]), asked * share / 100
    told = (
        f"{got:,} copies arrived, {expected:,.0f} by the share of {share} %, at least {ARRIVE:.0%} of them are needed"
    )
    enough = asked >= FEWEST and got >= ARRIVE * expected
    outcome: Outcome = "pass" if enough else "inconclusive"
    return Finding(check="sample ratio", candidate=candidate, outcome=outcome, reason=told, requests=asked)


# -- what decides --


def _compared(case: Case, rows: pd.DataFrame, draws: pd.DataFrame, candidate: int) -> Iterator[Finding]:
    """By each check that is wanted; only what decides may fail."""
    wanted = checks(case.document, case.rollout)
    if not wanted:
        return
    both = log.pairs(rows, case.stable, candidate) if case.shadow else log.against(draws, case.stable, candidate)
    for check in wanted:
        if check in case.prior.missing:
            found = _missing(check, candidate, case.prior.missing[check])
        else:
            found = _gain(case, case.prior.plans[check], both, candidate)
        yield found if check == decisive(case.rollout) else _told_only(found)


def _told_only(found: Finding) -> Finding:
    outcome = "inconclusive" if found.outcome == "fail" else found.outcome
    return found.model_copy(update={"outcome": outcome, "reason": f"{found.reason}; this decides nothing"})


def _gain(case: Case, plan: Plan, both: pd.DataFrame, candidate: int) -> Finding:
    """By draws or, of a shadow, by pairs."""
    rows = _in_time(case, both)
    analysis, strategy = case.rollout.analysis, case.rollout.strategy
    if case.shadow:
        rows = rows.assign(**{OUTCOME: _pair_gains(case, plan, rows, candidate)})
    else:
        rows = rows.assign(**{OUTCOME: _outcomes(case, plan.check, rows)})
    known = rows[rows[OUTCOME].notna()]
    if len(rows) and not len(known):
        return _missing(plan.check, candidate, _unlabelled(rows))
    if case.shadow:
        found = gains.by_pairs(
            analysis, plan, candidate, known[OUTCOME].to_numpy(np.float64), known[log.BLOCK].to_numpy(np.int64)
        )
    elif isinstance(strategy, AbTest):
        found = gains.at_horizon(analysis, plan, strategy, candidate, rows)
    else:
        found = gains.by_draws(analysis, plan, candidate, rows, rows[log.BLOCK].to_numpy(np.int64), case.planned)
    if 2 * len(known) < len(rows):
        told = f"{found.reason}; only {len(known):,} of {len(rows):,} answers have a label that came in time"
        return found.model_copy(update={"reason": told})
    return found


def _in_time(case: Case, rows: pd.DataFrame) -> pd.DataFrame:
    """With the labels that came while they had time."""
    return log.in_time(rows, case.rollout.analysis.block, case.rollout.analysis.labels_within)


def _outcomes(case: Case, check: str, rows: pd.DataFrame) -> Floats:
    found = np.empty(len(rows))
    for version in rows[VERSION].unique():
        here = (rows[VERSION] == version).to_numpy()
        found[here] = outcomes(case.document, check, rows[here], case.prior.foreseen.get(int(version)))
    return found


def _pair_gains(case: Case, plan: Plan, both: pd.DataFrame, candidate: int) -> Floats:
    """What the candidate's answer would have gained over the one that was given, above 0 if it is better."""
    foreseen = case.prior.foreseen
    theirs = outcomes(case.document, plan.check, both, foreseen.get(case.stable))
    copied = both.assign(**{SCORE: both[f"{SCORE}_candidate"]})
    ours = outcomes(case.document, plan.check, copied, foreseen.get(candidate))
    return ours - theirs if plan.better == "higher" else theirs - ours


# -- bandit --


def _arms_told(case: Case, strategy: Bandit, draws: pd.DataFrame) -> Told:
    """The shares that the rewards so far ask for, and the version that they are sure of."""
    check = decisive(case.rollout) or "loss"
    if check in case.prior.missing:
        return Told(findings=tuple(_missing(check, one, case.prior.missing[check]) for one in case.candidates))
    versions = (case.stable, *case.candidates)
    rows = _in_time(case, log.first_of_each(draws[draws[VERSION].isin(versions)]))
    rows = rows.assign(**{OUTCOME: _outcomes(case, check, rows)})
    known = rows[rows[OUTCOME].notna()]
    arms = _arms(case, strategy, case.prior.plans[check], known, versions)
    best = bandit.best(strategy, arms)
    if len(rows) and not len(known):
        found = [_missing(check, one, _unlabelled(rows)) for one in case.candidates]
    else:
        found = [_valued(case, check, one, arms, best) for one in case.candidates]
    return Told(findings=tuple(found), shares=bandit.shares(strategy, arms), best=best)


def _arms(
    case: Case, strategy: Bandit, plan: Plan, known: pd.DataFrame, versions: Sequence[int]
) -> dict[int, bandit.Arm]:
    """What is known of each version's rewards, cut as planned."""
    of = {one: known[known[VERSION] == one] for one in versions}
    sign = 1.0 if plan.better == "higher" else -1.0
    now, half = pd.Timestamp(judged_until(case)), strategy.halves_after
    ages: dict[int, Floats] | None = None
    if half is not None:
        ages = {
            v: (now - r[EVENT_TIMESTAMP]).dt.total_seconds().to_numpy() / half.total_seconds() for v, r in of.items()
        }
    return bandit.arms_of(
        {v: sign * np.clip(r[OUTCOME].to_numpy(np.float64), plan.low, plan.high) for v, r in of.items()},
        {v: r[PROPENSITY].to_numpy(np.float64) for v, r in of.items()},
        {v: r[log.BLOCK].to_numpy(np.intp) for v, r in of.items()},
        ages,
    )


def _valued(case: Case, check: str, candidate: int, arms: Mapping[int, bandit.Arm], best: int | None) -> Finding:
    """What a candidate would have earned had it answered everyone, against the stable version's. It never fails."""
    ours, theirs = arms[candidate], arms[case.stable]
    if not min(ours.requests, theirs.requests):
        told = f"{ours.requests:,} and {theirs.requests:,} labelled requests of versions {candidate}, {case.stable}"
        return Finding(check=check, candidate=candidate, outcome="inconclusive", reason=told, requests=ours.requests)
    gain, error = ours.mean - theirs.mean, float(np.hypot(ours.error, theirs.error))
    told = f"value {ours.mean:.4g} against {theirs.mean:.4g}, {gain:+.4g} ± {error:.2g}, n={ours.requests:,}"
    told += f"; version {best} is the best" if best is not None else "; no version is surely the best yet"
    outcome: Outcome = "pass" if best == candidate else "inconclusive"
    return Finding(check=check, candidate=candidate, outcome=outcome, reason=told, effect=gain, requests=ours.requests)


def _unlabelled(rows: pd.DataFrame) -> str:
    return f"none of {len(rows):,} answers has a label that came in time"


def _missing(check: str, candidate: int, reason: str) -> Finding:
    return Finding(check=check, candidate=candidate, outcome="error", reason=reason)
