"""ContinualModel: how one model lives."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, StringConstraints, model_validator

from evergrow.contracts import Instant, Task
from evergrow.spec.base import Duration, Entrypoint, Name, Part, Word, write_duration
from evergrow.spec.retraining import Retraining
from evergrow.spec.rollout import Condition, Rollout
from evergrow.spec.updates import Refit, Update
from evergrow.spec.windows import All, Window

API_VERSION = "evergrow.dev/v1alpha1"

METRICS: Mapping[Task, tuple[str, ...]] = {
    "binary-classification": ("log_loss", "brier", "roc_auc", "average_precision", "calibration_error"),
    "regression": ("mae", "rmse", "r2", "poisson_deviance"),
}
"""The metrics of each task. `evergrow.evaluation.metrics` computes them and says which way is better."""

# A gate compares mean losses per row, so its metric must be one.
ROW_LOSSES: Mapping[Task, tuple[str, ...]] = {
    "binary-classification": ("log_loss", "brier"),
    "regression": ("mae", "squared_error", "poisson_deviance"),
}


MINIMUM_BLOCKS = 8
"""Fewer blocks of time tell too little of how losses hang together."""


class Metadata(Part):
    """Who the model is."""

    name: Name
    """Name of the model everywhere: registry, service, folders."""
    labels: Mapping[str, str] = {}
    """Kubernetes labels."""
    annotations: Mapping[str, str] = {}
    """Kubernetes annotations: free text such as the owner."""


class SourceSpec(Part):
    """Where raw data comes from."""

    entrypoint: Entrypoint
    """A class that is an `evergrow.ports.Source`: "models.my_model.data:MySource"."""
    options: Mapping[str, Any] = {}
    """Keyword arguments of that class."""


class Features(Part):
    """What the model sees."""

    service: str
    """Name of the Feast FeatureService, declared in `feature_repo/services.py`."""


class Label(Part):
    """What the model predicts."""

    column: str
    """Column of the `examples` table: 0/1 for binary classification, a number for regression."""
    description: str = ""
    """What it means, for the model card."""
    key: Annotated[tuple[Word, ...], Field(max_length=50)] = ()
    """Columns by which an answered prediction finds its example; default: all that both have."""
    within: Duration = Field(default="1d", validate_default=True)
    """A prediction belongs to the example of its key that is asked nearest in time, at most so far away."""


class Estimator(Part):
    """The scikit-learn estimator."""

    entrypoint: Entrypoint
    """A function that returns an unfitted estimator: "models.my_model.estimator:build"."""
    parameters: Mapping[str, Any] = {}
    """Keyword arguments of that function."""


class SearchRange(Part):
    """A range that one estimator parameter is searched in."""

    low: float
    """Lowest value, included."""
    high: float
    """Highest value, included."""
    log: bool = False
    """Search on a logarithmic scale."""
    integer: bool = False
    """Whole numbers only."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"`low` must be below `high`, found {self.low} and {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"`low` must be above 0 on a log scale, found {self.low}")
        return self


class Search(Part):
    """A bounded hyper-parameter search (Optuna's TPE, seeded), scored on the calibration rows."""

    trials: Annotated[int, Field(ge=1, le=500)]
    """How many parameter sets are tried at most."""
    timeout: Duration | None = None
    """Stop after this long. A search cut by time is not reproducible, and the identity says so."""
    space: Mapping[str, SearchRange] = Field(min_length=1, max_length=100)
    """Range per estimator parameter."""


class Selection(Part):
    """Which features are fitted on, chosen anew at each refit: those by which, shuffled, the loss rises most.

    The loss is the gate's, on the calibration rows.
    """

    keep: Annotated[int, Field(ge=1, le=10_000)]
    """How many at most. Half of what is too many is left out, the weakest first; then the rest is weighed anew."""
    repeats: Annotated[int, Field(ge=1, le=100)] = 3
    """How often each is shuffled; the mean counts."""


class Training(Part):
    """How a model is fitted."""

    estimator: Estimator
    """What is fitted."""
    window: Window = All()
    """Which of the labelled rows are fitted on."""
    update: Update = Refit()
    """What is trained again. All but a refit go on from the version that serves; without one of the same features they
    are a refit, too."""
    calibration: Literal["none", "sigmoid", "isotonic"] = "none"
    """How scores become probabilities (classification only)."""
    calibration_length: Duration = Field(default="14d", validate_default=True)
    """The newest part before the holdout, for calibration, search and selection; fitted on by none of them."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seeds everything random."""
    search: Search | None = None
    """Off unless given."""
    selection: Selection | None = None
    """All features, unless given. An update that goes on from a version keeps what was chosen for that."""

    @property
    def calibrates(self) -> bool:
        """Whether rows are set aside to calibrate, search or select on."""
        return self.calibration != "none" or self.search is not None or self.selection is not None

    @model_validator(mode="after")
    def _update_fits(self) -> Self:
        if self.update.kind == "recalibrate" and self.calibration == "none":
            raise ValueError("`update` recalibrate needs a `calibration`")
        if self.update.kind != "refit" and self.search is not None:
            raise ValueError(f"`search` is for the update refit, found {self.update.kind}")
        return self


class Floor(Part):
    """An absolute limit: the metric's interval must clear it, not only its value."""

    metric: Word
    """One of the task's metrics."""
    at_least: float | None = None
    """The lower end of the interval must reach this."""
    at_most: float | None = None
    """The upper end of the interval must not pass this."""

    @model_validator(mode="after")
    def _one_side(self) -> Self:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("must have exactly one of `atLeast` and `atMost`")
        return self


class Limits(Part):
    """What a model may cost."""

    latency_ms: PositiveFloat = 5.0
    """Median time of a single-row prediction in process, in milliseconds."""
    size_mb: PositiveFloat = 50.0
    """Size of the bundle on disk, in megabytes (10^6 bytes)."""


class Gate(Part):
    """When a challenger may replace the champion."""

    metric: Word
    """A loss that is a mean over rows: log_loss or brier; mae, squared_error or poisson_deviance."""
    margin: float = 0.0
    """How much lower the challenger's mean loss must be, in the metric's unit. Negative: may be that much worse."""
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    """Highest probability of promoting a challenger that is not better by `margin`."""
    block: Duration = Field(default="1d", validate_default=True)
    """Losses are averaged over blocks this long before the test, which then allows for their correlation."""
    floors: Annotated[tuple[Floor, ...], Field(max_length=50)] = ()
    """Absolute limits."""
    limits: Limits = Limits()
    """Latency and size."""


class References(Part):
    """Rows of the past that are set aside for good, on which a challenger shows that it has not forgotten them.

    Which they are depends on when each was asked for and on its keys, and on nothing else, so that they are the same in
    each training: whatever its window or update, they are neither fitted nor calibrated on.
    """

    share: Annotated[float, Field(gt=0, le=0.5)] = 0.05
    """Of all rows, how many are set aside."""
    period: Duration = Field(default="30d", validate_default=True, ge=timedelta(days=1))
    """Each period of this length is judged by itself; periods are counted from 1970."""
    periods: Annotated[int, Field(ge=1, le=1000)] = 12
    """How many are judged: the newest that had ended when the holdout begins."""
    slices: Annotated[tuple[Word, ...], Field(max_length=50)] = ()
    """Columns of the training set by whose values each period is judged too; in a backtest, features."""
    tolerance: Annotated[float, Field(ge=0)] = 0.1
    """By how much the challenger's mean loss may be above the champion's, as a share of the champion's."""
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    """Highest probability of rejecting a challenger that is nowhere worse than that, over all periods and slices."""
    minimum_rows: PositiveInt = 100
    """Sets of fewer rows are reported, and not judged."""


class Evaluation(Part):
    """How a fitted model is judged."""

    holdout: Duration
    """The newest labelled rows, never fitted or calibrated on."""
    metrics: tuple[Word, ...] = Field(min_length=1, max_length=50)
    """What is reported, each with a 95 % interval."""
    slices: tuple[str, ...] = ()
    """Columns of the training set by whose values metrics are reported too."""
    minimum_rows: PositiveInt = 200
    """Fewer holdout rows than this are too little to judge on."""
    gate: Gate
    """When the model may go into service."""
    references: References | None = None
    """Reject what has forgotten earlier periods. Off unless given."""

    @model_validator(mode="after")
    def _periods_have_blocks(self) -> Self:
        needed = MINIMUM_BLOCKS * self.gate.block
        if self.references is not None and self.references.period < needed:
            found = f"{write_duration(self.references.period)} and {write_duration(self.gate.block)}"
            raise ValueError(f"`references.period` must be at least {MINIMUM_BLOCKS} times `gate.block`, found {found}")
        return self


class Scoring(Part):
    """Batch scoring."""

    horizon: Duration = Field(default="1d", validate_default=True)
    """Rows whose prediction instant lies in (as-of, as-of + horizon] are scored."""
    shards: Annotated[int, Field(ge=1, le=100)] = 2
    """Parts scored in parallel."""


class PredictionLogSpec(Part):
    """What is kept of answered predictions, and how safely."""

    durability: Literal["each", "group", "off"] = "group"
    """What an answer waits for. `each`: its record is on disk. `group` and `off`: it has left the server, whose death
    does not undo that; it is on disk `groupMs` later, or when the system likes."""
    group_ms: Annotated[int, Field(ge=1, le=60_000)] = 1000
    """With `group`: the most that a loss of the whole machine costs, in milliseconds of predictions."""
    limit_mb: Annotated[float, Field(gt=0)] = 512.0
    """Most that may wait on a server's disk while the object store is away, in megabytes (10^6 bytes)."""
    when_full: Literal["refuse", "drop"] = "drop"
    """With the limit reached or the disk full: refuse predictions (503), or answer, and count what was not kept."""
    hashed: tuple[str, ...] = ()
    """Columns of personal data, kept as keyed hashes: the server's secret EVERGROW_HASH_KEY."""
    left_out: Annotated[tuple[Word, ...], Field(max_length=1000)] = ()
    """Columns of personal data that are not kept at all."""
    retention: Duration = Field(default="400d", validate_default=True)
    """What was shipped longer ago than this is deleted."""


class ServingSpec(Part):
    """How predictions are answered."""

    on_missing: Literal["flag", "reject"] = "flag"
    """An unknown entity, or a missing or stale feature: predict without it and flag the answer, or refuse (422)."""
    max_batch: Annotated[int, Field(ge=1, le=100_000)] = 1000
    """Rows a request may have."""
    log: PredictionLogSpec = PredictionLogSpec()
    """The record of answered predictions."""


class Fairness(Part):
    """A difference between groups that is watched in production."""

    column: str
    """Column of the predictions, or of the examples, whose values are the groups."""
    metric: Literal["selection_rate", "true_positive_rate", "false_positive_rate", "loss"] = "selection_rate"
    """What is compared; `loss` is the gate's metric."""
    threshold: float = 0.5
    """A score of at least this selects."""
    limit: Annotated[float, Field(gt=0)] = 0.1
    """Largest difference between any two groups that is accepted."""


class Prices(Part):
    """What running the model costs, in the currency of its worth."""

    server_hour: Annotated[float, Field(ge=0)] = 0.0
    """Of an hour of one server."""
    cpu_hour: Annotated[float, Field(ge=0)] = 0.0
    """Of an hour of one CPU that steps of pipelines use or have set aside."""


class Worth(Part):
    """What a prediction is worth in money, by what became of it. Losses are negative."""

    currency: Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")]
    """ISO 4217: "EUR"."""
    threshold: float = 0.5
    """A score of at least this is acted on."""
    true_positive: float = 0.0
    """Acted on, and rightly so."""
    false_positive: float = 0.0
    """Acted on for nothing."""
    false_negative: float = 0.0
    """Not acted on, and should have been."""
    true_negative: float = 0.0
    """Not acted on, and rightly so."""
    per_unit_of_error: Annotated[float, Field(gt=0)] | None = None
    """Of a regression instead: what a unit of absolute error costs."""
    prices: Prices | None = None
    """What serving and training cost; not told if not given."""


class Monitoring(Part):
    """How a model in service is watched: alarms are for harm and for data that is broken, drift explains."""

    false_alarms_per_month: Annotated[float, Field(gt=0, le=4)] = 0.5
    """How many alarms a model that is well may raise, on average: all its checks together share them."""
    harm: Annotated[float, Field(ge=0)] = 0.0
    """By how much the gate's loss may rise above that of the holdout before it counts as harm, in its unit."""
    drift: Annotated[float, Field(gt=0)] = 0.2
    """Population stability index from which a feature, the score or the label counts as drifted."""
    matured: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """A day is judged once this share of the labels that will ever come are in."""
    history: Duration = Field(default="56d", validate_default=True)
    """How far back days are looked at."""
    slices: tuple[str, ...] | None = None
    """Columns by whose values all is looked at, too; default: those of the evaluation."""
    fairness: Annotated[tuple[Fairness, ...], Field(max_length=100)] = ()
    """Groups between which differences are limited."""
    worth: Worth | None = None
    """What predictions are worth; not told if not given."""
    drift_tools: Annotated[tuple[Literal["evidently", "whylogs", "alibi-detect"], ...], Field(max_length=3)] = ()
    """Other tools whose opinion of each feature is asked for, beside evergrow's own; the steps' image holds them."""

    @model_validator(mode="after")
    def _each_tool_once(self) -> Self:
        for tool in self.drift_tools:
            if self.drift_tools.count(tool) > 1:
                raise ValueError(f"`driftTools` must name each tool once, found {tool!r} more than once")
        return self

    def slices_of(self, evaluation: Evaluation) -> tuple[str, ...]:
        """The columns by whose values all is looked at."""
        return evaluation.slices if self.slices is None else self.slices


class ModelSpec(Part):
    """What the model is made of."""

    task: Task
    """What kind of label is predicted."""
    description: str = ""
    """Purpose, for the model card."""
    source: SourceSpec
    """Raw data."""
    features: Features
    """Model inputs."""
    label: Label
    """Model output."""
    training: Training
    """Fitting."""
    evaluation: Evaluation
    """Judging."""
    scoring: Scoring = Scoring()
    """Batch scoring."""
    serving: ServingSpec = ServingSpec()
    """Online predictions."""
    monitoring: Monitoring = Monitoring()
    """Watching it in service."""
    rollout: Rollout = Rollout()
    """So far `deploy` carries out the strategy single alone, and refuses the others."""
    retraining: Retraining = Retraining()
    """When it is trained again."""

    @model_validator(mode="after")
    def _metrics_of_the_task(self) -> Self:
        known = METRICS[self.task]
        named = [(f"evaluation.metrics[{i}]", m) for i, m in enumerate(self.evaluation.metrics)]
        named += [(f"evaluation.gate.floors[{i}].metric", f.metric) for i, f in enumerate(self.evaluation.gate.floors)]
        for path, metric in named:
            if metric not in known:
                raise ValueError(f"`{path}` must be one of {', '.join(known)} for {self.task}, found {metric!r}")
        losses = ROW_LOSSES[self.task]
        if self.evaluation.gate.metric not in losses:
            raise ValueError(
                f"`evaluation.gate.metric` must be one of {', '.join(losses)} for {self.task}, "
                f"found {self.evaluation.gate.metric!r}"
            )
        return self

    @model_validator(mode="after")
    def _labels_can_be_joined(self) -> Self:
        for column in self.label.key:
            if column in self.serving.log.left_out:
                raise ValueError(
                    f"`label.key`: must be columns that predictions are logged with, found {column!r} in log.leftOut"
                )
        return self

    @model_validator(mode="after")
    def _callers_are_logged(self) -> Self:
        for column in self.rollout.sticky:
            if column in self.serving.log.left_out:
                told = f"must be columns that predictions are logged with, found {column!r} in log.leftOut"
                raise ValueError(f"`rollout.sticky`: {told}")
        return self

    @model_validator(mode="after")
    def _worth_fits_the_task(self) -> Self:
        worth = self.monitoring.worth
        if worth is not None and (worth.per_unit_of_error is None) == (self.task == "regression"):
            raise ValueError(
                f"`monitoring.worth.perUnitOfError` is for a regression, and all it has, found {self.task}"
            )
        return self

    @model_validator(mode="after")
    def _fairness_fits_the_task(self) -> Self:
        for i, rule in enumerate(self.monitoring.fairness):
            if self.task == "regression" and rule.metric in ("true_positive_rate", "false_positive_rate"):
                raise ValueError(f"`monitoring.fairness[{i}].metric` needs a classification, found {rule.metric!r}")
        return self

    @model_validator(mode="after")
    def _calibration_fits_the_task(self) -> Self:
        if self.task == "regression" and self.training.calibration != "none":
            raise ValueError(f"`training.calibration` must be none for regression, found {self.training.calibration!r}")
        return self


class ContinualModel(Part):
    """How one model lives: the document that trains it, judges it, serves it and scores with it."""

    api_version: Literal["evergrow.dev/v1alpha1"]
    """Version of this document's format."""
    kind: Literal["ContinualModel"]
    """Always ContinualModel."""
    metadata: Metadata
    """Who the model is."""
    spec: ModelSpec
    """What the model is made of."""

    @property
    def name(self) -> str:
        """The model's name."""
        return self.metadata.name


class LoopStatus(Part):
    """What the loop of a model has come to: its book has all of it."""

    decided: Instant | None = None
    """As of when was decided last; null: never."""
    train: bool = False
    """Whether to train."""
    reason: str = ""
    """Why, with what was seen."""
    training: Instant | None = None
    """As of when the training is that is under way; null: none is."""
    trainings: int = 0
    """That were begun so far."""
    ended: str = ""
    """How the last training ended."""
    frozen: str = ""
    """Who wants nothing to be begun, since when and why; empty: nobody."""
    fruitless: int = 0
    """Trainings in a row that have brought no champion."""
    not_before: Instant | None = None
    """Until when nobody but who asks has a training begun."""


class ModelStatus(Part):
    """What has become of a model on a cluster. Its ModelRollouts say how it came to that."""

    phase: Literal["Pending", "Serving", "RollingOut", "Paused", "Degraded"] = "Pending"
    """Pending: no version serves yet. RollingOut: a candidate is taking over. Paused: its rollout waits for somebody.
    Degraded: what should serve is not ready."""
    serving: PositiveInt | None = None
    """The version that callers are answered by; null: none."""
    rollout: str = ""
    """The ModelRollout by which it is so."""
    since: Instant | None = None
    """When that ended."""
    candidate: PositiveInt | None = None
    """The version that is taking over; null: none."""
    trained_on: Instant | None = None
    """As of when the serving version was trained: it knows no label that became known later."""
    decision: str = ""
    """What was decided last, and why."""
    loop: LoopStatus | None = None
    """Of when it is trained again: what monitoring's last step has decided. Null: nothing yet."""
    conditions: tuple[Condition, ...] = ()
    """For `kubectl wait`."""
    observed_generation: int = 0
    """The `metadata.generation` that the status is of."""
