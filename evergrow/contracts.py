"""The values that flow through the system, in the order they come to be.

``TrainingSet → TrainedModel → EvaluationReport → ModelVersion → Prediction → Observation → Decision``

All are frozen and closed, and travel as JSON. Instants are timezone-aware; a naive one is refused.
Every file-backed value is a directory: the JSON of the value beside the data it describes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sized
from datetime import UTC, date, datetime
from typing import Any, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

Instant = AwareDatetime
"""A moment in time, always timezone-aware."""

Outcome = Literal["pass", "fail", "inconclusive", "error"]
"""How a check ended. No data is an error, too little is inconclusive; neither ever passes."""

Task = Literal["binary-classification", "regression"]

# The columns of every example table: when the prediction is asked, and when its label became known.
EVENT_TIMESTAMP = "event_timestamp"
CREATED_TIMESTAMP = "created_timestamp"
KNOWN_AT = "known_at"


def instant(text: str) -> datetime:
    """Parse ISO 8601 into an aware instant; a date or a time without offset is UTC.

    >>> instant("2013-10-01")
    datetime.datetime(2013, 10, 1, 0, 0, tzinfo=datetime.timezone.utc)
    >>> instant("2013-10-01T02:00:00+02:00").isoformat()
    '2013-10-01T00:00:00+00:00'
    """
    parsed = datetime.fromisoformat(text)
    return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)


def start_of(day: date) -> datetime:
    """The first instant of a day of UTC.

    >>> start_of(date(2013, 10, 1)).isoformat()
    '2013-10-01T00:00:00+00:00'
    """
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def digest(value: Any) -> str:
    """SHA-256 (64 hex digits) of a JSON-able value, whatever the order of its keys.

    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _none(value: object) -> bool:
    return value is None


def _empty(value: Sized) -> bool:
    return not value


class Value(BaseModel):
    """Base of everything that flows: frozen, closed, JSON in and out."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class Verdict(Value):
    """How a check ended, with a reason that shows both numbers."""

    outcome: Outcome
    reason: str

    @classmethod
    def when(cls, holds: bool, reason: str) -> Self:
        """Pass when `holds`, else fail.

        >>> Verdict.when(3 > 2, "3 > 2").outcome
        'pass'
        """
        return cls(outcome="pass" if holds else "fail", reason=reason)

    @classmethod
    def worst(cls, verdicts: Iterable[Verdict]) -> Verdict:
        """The worst of several (error, fail, inconclusive, pass); of none, an error.

        The reason joins the reasons of all that share the worst outcome.

        >>> Verdict.worst([Verdict.when(True, "a"), Verdict.when(False, "b")])
        Verdict(outcome='fail', reason='b')
        >>> Verdict.worst([]).outcome
        'error'
        """
        verdicts = list(verdicts)
        for outcome in ("error", "fail", "inconclusive", "pass"):
            reasons = [v.reason for v in verdicts if v.outcome == outcome]
            if reasons:
                return Verdict(outcome=outcome, reason="; ".join(reasons))
        return Verdict(outcome="error", reason="nothing was checked")


class Check(Value):
    """One named line of a gate."""

    name: str
    verdict: Verdict


class Feature(Value):
    """One input of a model, in the order the model takes them."""

    name: str
    kind: Literal["numeric", "categorical"]


class Identity(Value):
    """What determines a model's bytes; the same identity is never trained twice."""

    code: str = Field(description="digest of the code that fits: evergrow's and the model's own folder")
    data: str = Field(description="digest of the training set's rows")
    features: str = Field(description="digest of the feature service's definition")
    parameters: str = Field(description="digest of everything in the document that shapes training")
    seed: int

    @property
    def digest(self) -> str:
        """SHA-256 of all parts."""
        return digest(self.model_dump())


class SetAside(Value):
    """Which rows are set aside for good: a share of all, drawn by when each was asked for and by its keys."""

    share: float
    keys: tuple[str, ...]


class TrainingSet(Value):
    """Rows with features and labels as they were known at `as_of`.

    On disk: a directory with `rows.parquet` and this value as `training_set.json`. `rows.parquet` is sorted
    by `event_timestamp` and then the keys; its columns are `event_timestamp`, `known_at`, the entity keys,
    request-time values, features and the label. Every label in it was known at `as_of`.
    """

    model: str
    task: Task
    as_of: Instant
    label: str
    keys: tuple[str, ...]
    features: tuple[Feature, ...]
    slices: tuple[str, ...] = ()
    rows: int
    first: Instant = Field(description="earliest event_timestamp of a row that is not set aside")
    last: Instant = Field(description="latest event_timestamp")
    holdout_from: Instant = Field(description="rows from here on are held out: never fitted or calibrated on")
    calibration_from: Instant = Field(description="rows from here to holdout_from calibrate probabilities")
    data_digest: str
    features_digest: str
    source_digest: str = Field(description="digest of the lake the rows came from")
    set_aside: SetAside | None = Field(
        default=None, exclude_if=_none, description="which rows before the holdout are never fitted or calibrated on"
    )


class Golden(Value):
    """Requests whose right answers are known: a server must reproduce them before it is ready."""

    features: tuple[dict[str, float | str | None], ...]
    scores: tuple[float, ...]
    tolerance: float


class TrainedModel(Value):
    """A fitted model as a directory: its bundle. `bundle.json` is this value.

    Beside it: `model.skops` (the fitted scikit-learn estimator), `model.onnx` where the conversion was proved equal
    on the golden rows, `golden.json`, and `background.npy` (rows that explanations are relative to).
    """

    model: str
    task: Task
    identity: Identity
    features: tuple[Feature, ...]
    categories: Mapping[str, tuple[str, ...]] = Field(
        description="per categorical feature its levels in code order; an unseen level is missing"
    )
    left_out: Mapping[str, float] = Field(
        default={},
        exclude_if=_empty,
        description="features that it was not fitted on and does not look at: by how much the mean loss rose as each "
        "was shuffled, before it was left out",
    )
    calibration: Mapping[str, Any] = Field(description="{kind: none|sigmoid|isotonic, ...its numbers}")
    trained_on: tuple[Instant, Instant] = Field(description="first and last event_timestamp fitted on")
    as_of: Instant
    rows: int
    backend: Literal["onnx", "scikit-learn"]
    backend_reason: str = Field(description="why that backend: the largest difference seen, or what failed")
    prior: float = Field(description="mean of the label over the rows fitted on")
    package: str = Field(default="", description="the estimator's own package: its classes are trusted on reading")
    feature_service: str
    requirements: tuple[str, ...] = Field(description="name==version of what is needed to load and predict")
    parent: str = Field(default="", description="identity of the model that its training went on from; empty: none")
    set_aside: SetAside | None = Field(
        default=None, exclude_if=_none, description="rows that neither it nor what it went on from was fitted on"
    )


class Metric(Value):
    """A number with its interval, over some rows."""

    name: str
    value: float
    low: float
    high: float
    rows: int


class Slice(Value):
    """Metrics over the rows where `column` equals `value` (column "month" is the row's month, UTC)."""

    column: str
    value: str
    metrics: tuple[Metric, ...]


class Transfer(Value):
    """What a challenger has kept of an earlier period, on rows of it that are set aside."""

    since: Instant
    until: Instant
    slice: str = Field(default="", description='"origin=EWR"; empty: all rows')
    rows: int
    loss: float = Field(description="the challenger's mean")
    champion_loss: float = Field(description="the champion's, on the same rows")
    transfer: float = Field(description="mean of champion's loss - challenger's loss; below 0: it has become worse")
    low: float | None = Field(description="lower end of the transfer's 95 % interval; None of too few blocks of time")
    high: float | None = Field(description="upper end of it")
    p_value: float | None = Field(description="that the loss has risen by no more than is tolerated; None: not judged")
    forgotten: bool = Field(description="whether it is shown that the loss has risen by more than is tolerated")


class EvaluationReport(Value):
    """What a model achieved on held-out rows, compared with the champion on the same rows.

    On disk: a directory with this value as `report.json` and `report.html`.
    """

    model: str
    identity: str
    model_digest: str
    task: Task
    as_of: Instant
    holdout: tuple[Instant, Instant]
    rows: int
    primary: str
    metrics: tuple[Metric, ...]
    champion: str = Field(description='"prior" (the constant prediction) or the champion\'s version')
    champion_metrics: tuple[Metric, ...]
    slices: tuple[Slice, ...]
    months: tuple[Slice, ...]
    transfers: tuple[Transfer, ...] = ()
    curves: Mapping[str, Any] = Field(description="roc, calibration, confusion, importance, residuals: numbers")
    checks: tuple[Check, ...]
    verdict: Verdict

    @property
    def backward_transfer(self) -> float | None:
        """Mean over earlier periods, in the metric's unit; below 0: worse than the champion. None without any."""
        whole = [one.transfer for one in self.transfers if not one.slice]
        return sum(whole) / len(whole) if whole else None


class ModelVersion(Value):
    """One registered version. Aliases move; everything else is immutable."""

    model: str
    version: int
    identity: str
    model_digest: str
    run_id: str
    created: Instant
    aliases: tuple[str, ...] = ()
    tags: Mapping[str, str] = Field(default_factory=dict)


class Prediction(Value):
    """One answered prediction."""

    request_id: str
    model: str
    version: int
    keys: Mapping[str, Any]
    event_timestamp: Instant
    score: float
    flags: tuple[str, ...] = Field(
        default=(), description='what the score was made without, e.g. "stale:origin_delays"'
    )


class Comparison(Value):
    """How far one column's values of now are from those of a reference, by one test.

    The tools behind `evergrow.ports.DriftTool` answer in these; a test that has no p-value has none.
    """

    column: str
    test: str = Field(description='name of the distance or test, in lower case: "psi", "ks", "chi2"')
    effect: float = Field(description="the distance or statistic itself: 0 where nothing differs")
    p_value: float | None = None
    rows: int = Field(description="values of now that are not missing")
    reference_rows: int = Field(description="values of the reference that are not missing")


ObservationKind = Literal[
    "schema",
    "nulls",
    "ranges",
    "categories",
    "jump",
    "volume",
    "freshness",
    "feature-drift",
    "multivariate-drift",
    "prediction-drift",
    "label-drift",
    "labels",
    "performance",
    "estimated-performance",
    "skew",
    "bias",
    "explanation-drift",
]


class Observation(Value):
    """One thing that was seen of a model in service: where, how large, by which test, against which limit.

    Its verdict fails where something is wrong. Only the failure of an `alarm` is anyone's to act on: harm, or data that
    is broken. All else explains.
    """

    model: str
    version: int | None = Field(description="None: of all versions that served")
    kind: ObservationKind
    subject: str = Field(description="the column, view, metric or group that it is about")
    slice: str = Field(default="", description='"origin=EWR"; empty: all rows')
    since: Instant
    until: Instant
    rows: int
    reference: str = Field(description='what it is compared with: "holdout of version 3"')
    test: str
    effect: float = Field(description="in the test's own unit, or that of the metric")
    low: float | None = Field(default=None, description="lower end of the effect's 95 % interval")
    high: float | None = Field(default=None, description="upper end of it")
    p_value: float | None = None
    threshold: float = Field(description="what the effect is held against")
    alarm: bool
    verdict: Verdict


Purpose = Literal["data", "training", "monitoring", "scoring"]
"""What the steps of pipelines are run for."""


class Spent(Value):
    """What one run of one step took, whether it ended well or not."""

    model: str
    purpose: Purpose
    step: str
    at: Instant = Field(description="when it ended")
    seconds: float = Field(description="from its first line to its last")
    cpu_seconds: float = Field(description="that it used, its child processes included")
    cpus: float = Field(default=0.0, description="that were set aside for it; 0 on one machine")


class Decision(Value):
    """What is to be done about what was seen, and why."""

    model: str
    as_of: Instant
    action: Literal["none", "alert"]
    reasons: tuple[str, ...]


class Route(Value):
    """Who answers a model's callers.

    A caller whose request has the header `x-evergrow-version` is answered by that version, if it is among `warm`.
    """

    model: str
    weights: Mapping[int, int] = Field(description="percent by version; they sum to 100")
    mirror: int | None = Field(default=None, description="the version that gets copies of requests")
    mirror_percent: int = Field(default=0, description="of the requests that are copied to it")
    warm: tuple[int, ...] = Field(default=(), description="versions that can be asked for by name")
    sticky: bool = Field(default=False, description="whether the header `x-evergrow-entity` decides who answers")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        total = sum(self.weights.values())
        if total != 100 or min(self.weights.values()) < 0:
            raise ValueError(f"`weights` must be at least 0 and sum to 100, found {dict(self.weights)}")
        if (self.mirror is None) != (self.mirror_percent == 0):
            raise ValueError(f"`mirror_percent` must be 0 without `mirror`, found {self.mirror_percent}")
        return self
