"""How a new version takes over: the part `rollout` of a model's document, and ModelRollout, one attempt to do so."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, StringConstraints, model_validator

from evergrow.contracts import Instant, Outcome
from evergrow.spec.base import Duration, Name, Part, Word

Percent = Annotated[int, Field(ge=0, le=100)]
Share = Annotated[float, Field(gt=0, lt=1)]

Guardrail = Literal["errors", "latency", "shift"]
Decisive = Literal["loss", "worth", "estimate", "guardrails"]
"""What must have passed before a version is promoted."""


class CanaryStep(Part):
    """A share of the traffic, and the evidence without which it is not raised."""

    weight: Annotated[int, Field(ge=1, le=99)]
    """Percent of the requests that the candidate answers."""
    requests: PositiveInt = 200
    """It has answered at least so many since the step began."""
    duration: Duration = Field(default="10m", validate_default=True)
    """The step has lasted at least so long."""


class Single(Part):
    """Replace what serves as soon as the candidate is ready."""

    kind: Literal["single"] = "single"


class Shadow(Part):
    """The candidate gets copies of requests, and no caller its answers; the pairs are compared."""

    kind: Literal["shadow"] = "shadow"
    share: Annotated[int, Field(ge=1, le=100)] = 100
    """Percent of the requests that are copied."""
    requests: PositiveInt = 1000
    """At least so many are compared."""
    duration: Duration = Field(default="1h", validate_default=True)
    """For at least so long."""


class Canary(Part):
    """The candidate's share grows in steps; each waits for its evidence, and all that came before counts."""

    kind: Literal["canary"] = "canary"
    steps: Annotated[tuple[CanaryStep, ...], Field(max_length=20)] = (
        CanaryStep(weight=5),
        CanaryStep(weight=25),
        CanaryStep(weight=50),
    )
    """In their order; each weight larger than the one before."""

    @model_validator(mode="after")
    def _rising(self) -> Self:
        weights = [step.weight for step in self.steps]
        if not weights or any(b <= a for a, b in pairwise(weights)):
            raise ValueError(f"`steps`: must have rising weights, at least one, found {weights}")
        return self


class BlueGreen(Part):
    """All traffic changes sides at once, after a preview; the old version waits, warm, until the new one did well."""

    kind: Literal["blue-green"] = "blue-green"
    preview: Duration = Field(default="0s", validate_default=True)
    """How long the candidate answers only those who ask for it by header, before the switch."""
    watch: Duration = Field(default="1h", validate_default=True)
    """How long guardrails can still send everyone back after it."""


class AbTest(Part):
    """A fixed share for a fixed number of requests, then one look: the test that a statistician would have planned."""

    kind: Literal["ab-test"] = "ab-test"
    weight: Annotated[int, Field(ge=1, le=99)] = 50
    """Percent of the requests that the candidate answers."""
    requests: PositiveInt | None = None
    """Labelled requests of both together at which the test is read; by default as many as `analysis` needs."""


class Bandit(Part):
    """Versions share the traffic by how likely each is the best (Thompson sampling), while labels come in."""

    kind: Literal["bandit"] = "bandit"
    floor: Annotated[int, Field(ge=1, le=50)] = 5
    """Percent that no version falls below, so that what has changed is seen."""
    every: Duration = Field(default="15m", validate_default=True, ge=timedelta(seconds=1))
    """How often shares are set anew."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """It ends when one version is the best with this probability."""
    requests: PositiveInt = 200
    """Labelled requests of each version before shares differ."""
    halves_after: Duration | None = None
    """Evidence so old counts half, where rewards may change; by default all counts alike."""


Strategy = Annotated[Single | Shadow | Canary | BlueGreen | AbTest | Bandit, Field(discriminator="kind")]


class Errors(Part):
    """Answers that failed."""

    limit: Share = 0.01
    """Share of the candidate's requests that may fail."""


class Latency(Part):
    """Answers that came late."""

    milliseconds: PositiveInt = 1000
    """A slower answer is late."""
    late: Share = 0.01
    """Share of the candidate's answers that may be late."""


class Disagreement(Part):
    """Pairs of scores that are far apart."""

    difference: Annotated[float, Field(gt=0)]
    """Scores of one request by both versions that differ by more are far apart; in the score's unit."""
    share: Share = 0.05
    """Share of the pairs that may be."""


class Analysis(Part):
    """By what a candidate is judged. Every test may be looked at at any time."""

    decides: Decisive = "loss"
    """What must pass before it is promoted: the realised loss of the gate's metric, what predictions are worth, the
    loss estimated without labels, or nothing but the guardrails."""
    alpha: Annotated[float, Field(gt=0, le=0.2)] = 0.05
    """Probability of promoting a version that is not better by more than -`margin`."""
    harm: Annotated[float, Field(gt=0, le=0.2)] = 0.01
    """Probability of aborting a version that keeps all limits."""
    margin: Annotated[float, Field(ge=0)] = 0.0
    """By how much the candidate may be worse and still be promoted, in the unit of what decides."""
    effect: Annotated[float, Field(gt=0)] | None = None
    """The smallest difference worth finding, in the same unit; by default a twentieth of the champion's loss."""
    power: Annotated[float, Field(gt=0.5, lt=1)] = 0.9
    """Probability of finding it before it is given up as inconclusive."""
    labels_within: Duration = Field(default="1d", validate_default=True)
    """A prediction is judged so long after it was asked for, by the labels that are known then; later ones count as
    missing."""
    block: Duration = Field(default="10m", validate_default=True, ge=timedelta(seconds=1))
    """In a shadow, where no draw tells versions apart, the pairs of such a stretch of time are one observation: they
    may depend on each other."""
    guardrails: Annotated[tuple[Guardrail, ...], Field(max_length=3)] = ("errors", "latency", "shift")
    """Checks without labels that may abort at any time, and must have passed before a promotion; that requests are
    split as the weights say is always one."""
    errors: Errors = Errors()
    """Answers that fail."""
    latency: Latency = Latency()
    """Answers that are late."""
    shift: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Largest distance of the candidate's scores from the champion's, as the largest difference of their distribution
    functions."""
    disagreement: Disagreement | None = None
    """In a shadow: guardrail; none if null."""


class Rollout(Part):
    """How a new version takes over."""

    strategy: Strategy = Single()
    """By which steps."""
    analysis: Analysis = Analysis()
    """By which evidence."""
    sticky: Annotated[tuple[Word, ...], Field(max_length=8)] = ()
    """Entity keys by which callers keep to one version; empty: each request is drawn for itself."""
    sticky_for: Duration = Field(default="1d", validate_default=True, ge=timedelta(minutes=1))
    """So long a key keeps its version before it is drawn anew, which evidence needs to go on growing."""
    ready_within: Duration = Field(default="10m", validate_default=True, ge=timedelta(seconds=1))
    """A candidate that is not ready by then is given up; no traffic was ever moved."""
    inconclusive_after: Duration = Field(default="30d", validate_default=True, ge=timedelta(minutes=1))
    """A rollout that cannot decide by then pauses and says so."""
    on_inconclusive: Literal["pause", "abort"] = "pause"
    """What then: somebody decides, or what served before goes on."""
    keep_warm: Duration = Field(default="1d", validate_default=True)
    """How long what served before stays ready after a promotion, so that `evergrow rollback` takes seconds."""


# -- ModelRollout ------------------------------------------------------------------------------------------------------

Phase = Literal["Pending", "Progressing", "Paused", "Promoted", "Aborted", "Superseded"]
"""Pending: the candidate is not ready yet. Promoted, Aborted and Superseded are ends."""


class RolloutSpec(Part):
    """What is to be rolled out."""

    model: Name
    """The ContinualModel."""
    candidates: Annotated[tuple[PositiveInt, ...], Field(min_length=1, max_length=8)]
    """Versions that are new; more than one only with a bandit."""
    rollout: Rollout | None = None
    """Instead of what the model's document says."""
    reason: str = ""
    """Why, for who reads the history."""
    requested_by: str = ""
    """Who or what asked for it."""

    @model_validator(mode="after")
    def _one_but_for_a_bandit(self) -> Self:
        if len(set(self.candidates)) != len(self.candidates):
            raise ValueError(f"`candidates` must name each version once, found {list(self.candidates)}")
        kind = self.rollout.strategy.kind if self.rollout else None
        if len(self.candidates) > 1 and kind not in (None, "bandit"):
            raise ValueError(f"`candidates` must be one but for a bandit, found {list(self.candidates)} for {kind}")
        return self


class Finding(Part):
    """What one check of the analysis says now."""

    check: str
    """"sample ratio", "errors", "latency", "score shift", "paired scores", "estimate", "loss", "worth"."""
    candidate: PositiveInt
    """The version it is about."""
    outcome: Outcome
    """As of verdicts: too little is inconclusive, missing data an error."""
    reason: str
    """With both numbers."""
    effect: float | None = None
    """In the check's unit."""
    low: float | None = None
    """Lower end of its interval, which holds at all times at once."""
    high: float | None = None
    """Upper end."""
    requests: int = 0
    """That it is of."""


class Condition(Part):
    """As Kubernetes has them."""

    type: Literal["Ready", "Progressing", "Paused", "Degraded"]
    """What it says."""
    status: Literal["True", "False", "Unknown"]
    """Whether that is so."""
    reason: Annotated[str, StringConstraints(pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$")]
    """One word in CamelCase."""
    message: str = ""
    """For people."""
    last_transition_time: Instant
    """When `status` changed last."""
    observed_generation: int = 0
    """The `metadata.generation` that it is about."""


class RolloutStatus(Part):
    """What has become of it. It is all that an operator needs to go on after it was killed."""

    phase: Phase = "Pending"
    """Where it is."""
    step: int = 0
    """Which step of the strategy, from 0."""
    stable: PositiveInt | None = None
    """The version that served when it began, and that an abort returns to; null: none did."""
    weights: Mapping[str, Percent] = {}
    """Percent of the traffic by version; they sum to 100."""
    split: str = ""
    """The same for people: "v3 75 / v4 25"."""
    mirror: PositiveInt | None = None
    """The version that gets copies of requests."""
    mirror_percent: Percent = 0
    """Percent of the requests that are copied."""
    dropped: tuple[PositiveInt, ...] = ()
    """Candidates that failed a check and get no traffic any more."""
    rollout: Rollout | None = None
    """How: what the spec says, else what the model's document said when it began."""
    started: Instant | None = None
    """When the candidate was asked for."""
    step_started: Instant | None = None
    """When the step's weights were set."""
    patient_since: Instant | None = None
    """From when on `inconclusiveAfter` counts: the start, or when it was resumed."""
    unready_since: Instant | None = None
    """Since when a candidate that is to have traffic is not ready; null: it is."""
    winner: PositiveInt | None = None
    """The version that was promoted."""
    recorded: Instant | None = None
    """When the registry was told of the winner."""
    ended: Instant | None = None
    """When the phase became an end."""
    reason: str = ""
    """Why it is where it is, with both numbers."""
    findings: tuple[Finding, ...] = ()
    """What each check says."""
    conditions: tuple[Condition, ...] = ()
    """For `kubectl wait`."""
    observed_generation: int = 0
    """The `metadata.generation` that the status is of."""


class RolloutMetadata(Part):
    """Which attempt it is."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
    """Name of the attempt, such as the model's with the version and a few letters."""
    labels: Mapping[str, str] = {}
    """Kubernetes labels."""
    annotations: Mapping[str, str] = {}
    """Kubernetes annotations."""


class ModelRollout(Part):
    """One attempt to put a new version into service: a Job to a CronJob. All of them are the history of what served."""

    api_version: Literal["evergrow.dev/v1alpha1"]
    """Version of this document's format."""
    kind: Literal["ModelRollout"]
    """Always ModelRollout."""
    metadata: RolloutMetadata
    """Which attempt it is."""
    spec: RolloutSpec
    """It cannot be changed: another attempt is another ModelRollout."""
    status: RolloutStatus = RolloutStatus()
    """What has become of it."""

    @property
    def name(self) -> str:
        """The attempt's name."""
        return self.metadata.name
