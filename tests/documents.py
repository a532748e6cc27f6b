"""Documents that say everything that can be said, what is wrong with each rule, and changes that a slip might make."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from hypothesis import strategies as st

Document = dict[str, Any]

_SPEC: Document = {
    "task": "binary-classification",
    "source": {"entrypoint": "models.tips.data:Tips"},
    "features": {"service": "tips"},
    "label": {"column": "generous"},
    "training": {"estimator": {"entrypoint": "models.tips.estimator:build"}},
    "evaluation": {"holdout": "30d", "metrics": ["log_loss"], "gate": {"metric": "log_loss"}},
}
_SEARCH: Document = {
    "trials": 20,
    "timeout": "1h",
    "space": {"depth": {"low": 2, "high": 8, "integer": True}, "rate": {"low": 0.001, "high": 0.3, "log": True}},
}
_ANALYSIS: Document = {
    "decides": "worth",
    "margin": 0.5,
    "effect": 0.25,
    "block": "1h",
    "errors": {"limit": 0.05},
    "latency": {"milliseconds": 200},
    "shift": 0.3,
}
STRATEGIES: Mapping[str, Document] = {
    "single": {"kind": "single"},
    "shadow": {"kind": "shadow", "share": 50, "requests": 500, "duration": "2h"},
    "canary": {"kind": "canary", "steps": [{"weight": 5}, {"weight": 25, "requests": 300, "duration": "1h"}]},
    "blue-green": {"kind": "blue-green", "preview": "10m", "watch": "2h"},
    "ab-test": {"kind": "ab-test", "weight": 30, "requests": 2000},
    "bandit": {"kind": "bandit", "floor": 10, "every": "5m", "confidence": 0.9, "halvesAfter": "7d"},
}
"""One of each kind, with what it can say."""


TRIGGERS: tuple[Document, ...] = (
    {"kind": "asked"},
    {"kind": "data-volume", "rows": 500},
    {"kind": "model-age", "olderThan": "30d"},
    {"kind": "schedule", "cron": "30 3 1 * mon", "timeZone": "Europe/Zurich"},
    {"kind": "performance", "by": ["realised", "estimated"], "lookedWithin": "36h"},
    {"kind": "data-change", "of": ["schema", "nulls"], "columns": ["bill"], "atLeast": 2, "lookedWithin": "3d"},
)
"""One of each kind, with what it can say."""
_RETRAINING: Document = {
    "triggers": list(TRIGGERS),
    "needed": 2,
    "cooldown": "12h",
    "longest": "14d",
    "quiet": [{"since": "22:30", "until": "06:00", "days": ["saturday", "sunday"], "timeZone": "UTC"}],
    "budget": {"per": "7d", "trainings": 8, "cpuHours": 4.5},
}


WINDOWS: tuple[Document, ...] = (
    {"kind": "all"},
    {"kind": "fixed", "since": "2024-01-01T00:00:00Z", "until": "2024-03-01T12:30:00.5+01:00"},
    {"kind": "sliding", "length": "90d12h"},
    {"kind": "dynamic", "least": "14d", "alpha": 0.1},
    {"kind": "season", "period": "7d", "within": "6h", "recent": "3d"},
    {"kind": "decay", "halfLife": "60d"},
    {"kind": "reservoir", "recent": "28d", "rows": 5000},
    {"kind": "similar", "recent": "14d"},
    {"kind": "hard", "recent": "28d", "share": 0.25},
)
"""One of each kind, with what it can say."""


def _laid_over(base: Document, over: Document) -> Document:
    both = {k: _laid_over(base[k], v) for k, v in over.items() if isinstance(v, dict) and isinstance(base.get(k), dict)}
    return {**base, **over, **both}


def model(over: Document | None = None) -> Document:
    """A ContinualModel that says as little as it may, with parts of its `spec` laid over."""
    spec = _laid_over(copy.deepcopy(_SPEC), copy.deepcopy(over or {}))
    return {
        "apiVersion": "evergrow.dev/v1alpha1",
        "kind": "ContinualModel",
        "metadata": {"name": "tips"},
        "spec": spec,
    }


def attempt(over: Document | None = None) -> Document:
    """A ModelRollout that says as little as it may, with parts of its `spec` laid over."""
    return {
        "apiVersion": "evergrow.dev/v1alpha1",
        "kind": "ModelRollout",
        "metadata": {"name": "tips-v4"},
        "spec": {"model": "tips", "candidates": [4], **copy.deepcopy(over or {})},
    }


_EVERYWHERE: Document = {
    "description": "Who tips well.",
    "source": {"options": {"days": 3, "limit": None, "rate": 1e-05, "nested": {"of": ["anything"]}}},
    "label": {"description": "A fifth or more.", "key": ["waiter", "guest"], "within": "2h"},
    "training": {
        "estimator": {"parameters": {"max_iter": 200, "class_weight": None}},
        "window": {"kind": "sliding", "length": "90d12h"},
        "seed": 7,
        "search": _SEARCH,
    },
    "evaluation": {"slices": ["city"], "minimumRows": 100, "gate": {"margin": -0.01, "alpha": 0.1, "block": "1d"}},
    "scoring": {"horizon": "2d", "shards": 4},
    "serving": {
        "onMissing": "reject",
        "log": {"durability": "each", "limitMb": 64.5, "hashed": ["guest"], "leftOut": ["card"]},
    },
    "monitoring": {"harm": 0.01, "slices": [], "driftTools": ["whylogs", "evidently"], "history": "30d"},
    "retraining": _RETRAINING,
}
_CLASSIFICATION = {
    "training": {"calibration": "isotonic"},
    "evaluation": {
        "metrics": ["log_loss", "roc_auc"],
        "references": {
            "share": 0.1,
            "period": "28d",
            "periods": 6,
            "slices": ["city"],
            "tolerance": 0.2,
            "alpha": 0.1,
            "minimumRows": 50,
        },
        "gate": {"floors": [{"metric": "roc_auc", "atLeast": 0.6}, {"metric": "brier", "atMost": 0.3}]},
    },
    "monitoring": {
        "fairness": [{"column": "sex", "metric": "true_positive_rate"}],
        "worth": {"currency": "EUR", "truePositive": 2, "falsePositive": -1.5, "prices": {"serverHour": 0.05}},
    },
}
_REGRESSION = {
    "task": "regression",
    "evaluation": {
        "metrics": ["mae", "rmse"],
        "references": {},
        "gate": {"metric": "squared_error", "floors": [{"metric": "r2", "atLeast": 0.1}]},
    },
    "monitoring": {
        "fairness": [{"column": "sex", "metric": "loss"}],
        "worth": {"currency": "EUR", "perUnitOfError": 3},
    },
}
MODELS: tuple[Document, ...] = (
    model(),
    model(_laid_over(_EVERYWHERE, _CLASSIFICATION)),
    model(_laid_over(_EVERYWHERE, _REGRESSION)),
    *(
        model({"rollout": {"strategy": strategy, "analysis": _ANALYSIS, "sticky": ["guest"], "stickyFor": "2h"}})
        for strategy in STRATEGIES.values()
    ),
    *(model({"training": {"window": window}}) for window in WINDOWS),
)
ROLLOUTS: tuple[Document, ...] = (
    attempt(),
    attempt({"rollout": {}, "reason": "a new feature", "requestedBy": "somebody"}),
    attempt({"rollout": {"analysis": {"guardrails": [], "effect": None, "disagreement": None}}}),
    *(attempt({"rollout": {"strategy": s, "onInconclusive": "abort"}}) for s in STRATEGIES.values()),
    attempt({"candidates": [4, 5], "rollout": {"strategy": STRATEGIES["bandit"]}}),
    attempt({"candidates": [4, 5, 6]}),
)


# -- what each rule refuses --------------------------------------------------------------------------------------------


class Wrong(NamedTuple):
    """A document that a rule refuses, where, and what is found."""

    part: str
    """The part that the rule is of."""
    validator: str
    """The one of the models; empty for a rule that comes of types."""
    document: Document
    path: str
    message: str
    """Of both, but for indices and quotes."""


def _strategy(**strategy: Any) -> Document:
    return attempt({"rollout": {"strategy": strategy}})


def _regression(over: Document) -> Document:
    return model(
        _laid_over({"task": "regression", "evaluation": {"metrics": ["mae"], "gate": {"metric": "mae"}}}, over)
    )


def _triggers(*triggers: Document) -> Document:
    return model({"retraining": {"triggers": list(triggers)}})


def _gate(**gate: Any) -> Document:
    return model({"evaluation": {"gate": gate}})


def _range(**range_: Any) -> Document:
    return model({"training": {"search": {"trials": 3, "space": {"depth": range_}}}})


_LOSSES = "log_loss, brier"
_METRICS = f"{_LOSSES}, roc_auc, average_precision, calibration_error"
WRONG: tuple[Wrong, ...] = (
    Wrong("ModelSpec", "_metrics_of_the_task", model({"evaluation": {"metrics": ["brier", "mae"]}}),
          "spec.evaluation.metrics",
          f"`evaluation.metrics` must be one of {_METRICS} for binary-classification, found mae"),
    Wrong("ModelSpec", "_metrics_of_the_task", _gate(floors=[{"metric": "r2", "atLeast": 0.1}]),
          "spec.evaluation.gate.floors",
          f"`evaluation.gate.floors.metric` must be one of {_METRICS} for binary-classification, found r2"),
    Wrong("ModelSpec", "_metrics_of_the_task", _gate(metric="roc_auc"), "spec.evaluation.gate.metric",
          f"`evaluation.gate.metric` must be one of {_LOSSES} for binary-classification, found roc_auc"),
    Wrong("ModelSpec", "_metrics_of_the_task", _regression({"evaluation": {"metrics": ["brier"]}}),
          "spec.evaluation.metrics",
          "`evaluation.metrics` must be one of mae, rmse, r2, poisson_deviance for regression, found brier"),
    Wrong("ModelSpec", "_metrics_of_the_task", _regression({"evaluation": {"gate": {"metric": "rmse"}}}),
          "spec.evaluation.gate.metric",
          "`evaluation.gate.metric` must be one of mae, squared_error, poisson_deviance for regression, found rmse"),
    Wrong("ModelSpec", "_metrics_of_the_task",
          _regression({"evaluation": {"gate": {"floors": [{"metric": "brier", "atMost": 1}]}}}),
          "spec.evaluation.gate.floors",
          "`evaluation.gate.floors.metric` must be one of mae, rmse, r2, poisson_deviance for regression, found brier"),
    Wrong("ModelSpec", "_labels_can_be_joined",
          model({"label": {"key": ["waiter", "guest"]}, "serving": {"log": {"leftOut": ["guest"]}}}),
          "spec.label.key",
          "`label.key`: must be columns that predictions are logged with, found guest in log.leftOut"),
    Wrong("ModelSpec", "_callers_are_logged",
          model({"rollout": {"sticky": ["waiter", "guest"]}, "serving": {"log": {"leftOut": ["guest"]}}}),
          "spec.rollout.sticky",
          "`rollout.sticky`: must be columns that predictions are logged with, found guest in log.leftOut"),
    Wrong("ModelSpec", "_worth_fits_the_task",
          model({"monitoring": {"worth": {"currency": "EUR", "perUnitOfError": 2}}}),
          "spec.monitoring.worth.perUnitOfError",
          "`monitoring.worth.perUnitOfError` is for a regression, and all it has, found binary-classification"),
    Wrong("ModelSpec", "_worth_fits_the_task", _regression({"monitoring": {"worth": {"currency": "EUR"}}}),
          "spec.monitoring.worth.perUnitOfError",
          "`monitoring.worth.perUnitOfError` is for a regression, and all it has, found regression"),
    Wrong("ModelSpec", "_fairness_fits_the_task",
          _regression({"monitoring": {"fairness": [{"column": "sex", "metric": "false_positive_rate"}]}}),
          "spec.monitoring.fairness",
          "`monitoring.fairness.metric` needs a classification, found false_positive_rate"),
    Wrong("ModelSpec", "_calibration_fits_the_task", _regression({"training": {"calibration": "sigmoid"}}),
          "spec.training.calibration",
          "`training.calibration` must be none for regression, found sigmoid"),
    Wrong("Training", "_update_fits", model({"training": {"update": {"kind": "recalibrate"}}}),
          "spec.training.calibration", "`update` recalibrate needs a `calibration`"),
    Wrong("Training", "_update_fits",
          model({"training": {"update": {"kind": "partial-fit"},
                              "search": {"trials": 2, "space": {"C": {"low": 0.1, "high": 1}}}}}),
          "spec.training.search", "`search` is for the update refit, found partial-fit"),
    Wrong("Fixed", "_ordered",
          model({"training": {"window": {"kind": "fixed", "since": "2024-03-01T00:00:00Z",
                                         "until": "2024-03-01T00:00:00Z"}}}),
          "spec.training.window.until", "`until` must be after `since`"),
    Wrong("SearchRange", "_ordered", _range(low=3, high=1), "spec.training.search.space[depth].low",
          "`low` must be below `high`, found 3 and 1"),
    Wrong("SearchRange", "_ordered", _range(low=0, high=1, log=True), "spec.training.search.space[depth].low",
          "`low` must be above 0 on a log scale, found 0"),
    Wrong("Evaluation", "_periods_have_blocks", model({"evaluation": {"references": {"period": "7d23h"}}}),
          "spec.evaluation.references.period",
          "`references.period` must be at least 8 times `gate.block`, found 7d23h and 1d"),
    Wrong("Evaluation", "_periods_have_blocks",
          model({"evaluation": {"references": {"period": "1d23h59m59s"}, "gate": {"block": "6h"}}}),
          "spec.evaluation.references.period",
          "`references.period` must be at least 8 times `gate.block`, found 1d23h59m59s and 6h"),
    Wrong("Floor", "_one_side", _gate(floors=[{"metric": "brier"}]), "spec.evaluation.gate.floors[0]",
          "must have exactly one of `atLeast` and `atMost`"),
    Wrong("Floor", "_one_side", _gate(floors=[{"metric": "brier", "atLeast": 0.1, "atMost": 0.2}]),
          "spec.evaluation.gate.floors[0]", "must have exactly one of `atLeast` and `atMost`"),
    Wrong("Monitoring", "_each_tool_once", model({"monitoring": {"driftTools": ["whylogs", "whylogs"]}}),
          "spec.monitoring.driftTools", "`driftTools` must name each tool once, found whylogs more than once"),
    Wrong("Retraining", "_enough_triggers", model({"retraining": {"triggers": [{"kind": "asked"}], "needed": 2}}),
          "spec.retraining.needed", "`needed` must be at most the number of triggers, found 2 of 1"),
    Wrong("Canary", "_rising", _strategy(kind="canary", steps=[]), "spec.rollout.strategy.steps",
          "`steps`: must have rising weights, at least one, found []"),
    Wrong("Canary", "_rising", _strategy(kind="canary", steps=[{"weight": 5}, {"weight": 5}]),
          "spec.rollout.strategy.steps", "`steps`: must have rising weights, at least one, found [5, 5]"),
    Wrong("Canary", "_rising",
          model({"rollout": {"strategy": {"kind": "canary", "steps": [{"weight": 9}, {"weight": 2}]}}}),
          "spec.rollout.strategy.steps", "`steps`: must have rising weights, at least one, found [9, 2]"),
    Wrong("RolloutSpec", "_one_but_for_a_bandit", attempt({"candidates": [4, 4]}), "spec.candidates",
          "`candidates` must name each version once, found [4, 4]"),
    Wrong("RolloutSpec", "_one_but_for_a_bandit", attempt({"candidates": [4, 5], "rollout": {}}), "spec.candidates",
          "`candidates` must be one but for a bandit, found [4, 5] for single"),
)  # fmt: skip
"""At least one for each rule of a validator."""

WRONG_TYPES: tuple[tuple[Document, str], ...] = (
    (_strategy(kind="single", steps=[{"weight": 5}]),
     "spec.rollout.strategy.steps: Forbidden: `steps` is for kind canary, found single"),
    (_strategy(kind="canary", requests=5),
     "spec.rollout.strategy.requests: Forbidden: `requests` is for kind shadow or ab-test or bandit, found canary"),
    (model({"training": {"window": {"kind": "sliding"}}}),
     "spec.training.window.length: Required value: `length` is required for kind sliding"),
    (model({"training": {"window": {"kind": "all", "length": "3d"}}}),
     "spec.training.window.length: Forbidden: `length` is for kind sliding, found all"),
    (model({"training": {"window": {"kind": "fixed", "since": "2024-01-01", "until": "2024-03-01T00:00:00Z"}}}),
     "spec.training.window.since in body should match"),
    (model({"training": {"window": {"kind": "decay", "halfLife": "59s"}}}),
     "input should be greater than or equal to 1m, found 59s"),
    (_triggers({"kind": "schedule", "cron": "0 3 * * *"}, {"kind": "schedule", "timeZone": "UTC"}),
     "spec.retraining.triggers[1].cron: Required value: `cron` is required for kind schedule"),
    (_triggers({"kind": "asked", "cron": "0 3 * * *"}),
     "spec.retraining.triggers[0].cron: Forbidden: `cron` is for kind schedule, found asked"),
    (_triggers({"kind": "schedule", "cron": "0 3 * *"}), "spec.retraining.triggers[0].cron in body should match"),
    (_triggers({"kind": "schedule", "cron": "0 3 * * *", "timeZone": "europe/zurich"}),
     "spec.retraining.triggers[0].timeZone in body should match"),
    (_triggers(*[{"kind": "asked"}] * 21), "spec.retraining.triggers: Too many: 21: must have at most 20 items"),
    (model({"retraining": {"quiet": [{"since": "22:00", "until": "24:00"}]}}),
     "spec.retraining.quiet[0].until in body should match"),
    (_strategy(kind="bandit", every="0s"), "input should be greater than or equal to 1s, found 0s"),
    (attempt({"rollout": {"stickyFor": "59s"}}),
     "spec.rollout.stickyFor: Invalid value: \"string\": input should be greater than or equal to 1m, found 59s"),
    (model({"evaluation": {"holdout": "30 days"}}), "spec.evaluation.holdout in body should match"),
    (model({"evaluation": {"gate": {"alpha": 0.7}}}), "spec.evaluation.gate.alpha in body should be less than 0.5"),
    (model({"evaluation": {"references": {"share": 0}}}),
     "spec.evaluation.references.share in body should be greater than 0"),
    (model({"evaluation": {"references": {"share": 0.6}}}),
     "spec.evaluation.references.share in body should be less than or equal to 0.5"),
    (model({"evaluation": {"references": {"period": "12h"}}}),
     "input should be greater than or equal to 1d, found 12h"),
    (model({"evaluation": {"holdot": "3d"}}), 'unknown field "spec.evaluation.holdot"'),
    (model({"task": "clustering"}), 'spec.task: Unsupported value: "clustering": supported values: '),
    (_strategy(kind="rolling"), 'spec.rollout.strategy.kind: Unsupported value: "rolling"'),
    (_strategy(share=5), "spec.rollout.strategy.kind: Required value"),
    (attempt({"candidates": []}), "spec.candidates in body should have at least 1 items"),
    (attempt({"candidates": [0]}), "spec.candidates[0] in body should be greater than 0"),
    ({**model(), "metadata": {"name": "x" * 51}}, "metadata.name: Too long: may not be more than 50 bytes"),
)  # fmt: skip
"""Documents that are refused by type, and what an API server says."""


# -- changes -----------------------------------------------------------------------------------------------------------

_INTEGERS = (-1, 0, 1, 2, 5, 8, 49, 50, 51, 99, 100, 101, 500, 501, 60_000, 60_001, 2**32 - 1, 2**32)
_NUMBERS = (-1.5, 0.0, 0.001, 0.05, 0.2, 0.21, 0.3, 0.5, 0.95, 1.0, 1.5, 4.0, 4.5)
_LENGTHS = ("", "0s", "1s", "59s", "60s", "0d59s", "0m61s", "1m", "0h", "1d", "0d", "2h1d", "1234567d", "1d ", "1 d")
_WORDS = (
    "", "log_loss", "brier", "roc_auc", "mae", "squared_error", "rmse", "guest", "card", "loss", "true_positive_rate",
    "regression", "binary-classification", "none", "sigmoid", "all", "sliding", *STRATEGIES, "pause", "abort", "euro",
    "a.b:c", "a.b", "Tips", "tips-", "evidently", "whylogs", "x" * 51, "x" * 254, "é",
    "asked", "data-change", "schedule", "0 3 * * mon", "0 3 * *", "Asia/Kathmandu", "UTC", "utc", "23:59", "24:00",
    "realised", "skew", "monday", "fixed", "season", "reservoir", "2024-02-01T00:00:00Z", "2024-02-01",
)  # fmt: skip
# Keys that some parts have, so that a part may get one of another.
_FIELDS: Document = {
    "kind": "canary", "steps": [{"weight": 3}], "share": 5, "requests": 7, "duration": "1h", "weight": 3, "floor": 4,
    "every": "1m", "watch": "1h", "length": "3d", "atLeast": 0.5, "atMost": 0.5, "perUnitOfError": 2.0, "log": True,
    "effect": 0.5, "rows": 5, "recent": "9d", "halfLife": "9d", "until": "2025-01-01T00:00:00Z",
    "cron": "0 3 * * *", "lookedWithin": "1d", "unknown": 1,
}  # fmt: skip


def _places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all values, but for those within a map that may hold anything."""
    yield path
    inner: Any = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    if path[-1:] not in (("options",), ("parameters",)):
        for key, value in inner:
            yield from _places(value, (*path, key))


def _others(value: Any) -> Sequence[Any]:
    """Other values of the same JSON type."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return _INTEGERS
    if isinstance(value, float):
        return _NUMBERS
    if isinstance(value, str):
        return _LENGTHS if re.fullmatch(r"(\d+[dhms])+", value) else _WORDS
    if isinstance(value, list):
        return [[], value[::-1], value * 2, value[1:], value * 60]
    if isinstance(value, dict):
        added = [{**value, key: copy.deepcopy(given)} for key, given in _FIELDS.items()]
        return [*added, *({k: v for k, v in value.items() if k != key} for key in value)]
    return [value]


def _with(document: Document, path: tuple[Any, ...], value: Any) -> Document:
    made = copy.deepcopy(document)
    *parents, last = ("spec", *path)
    node = made
    for key in parents:
        node = node[key]
    node[last] = copy.deepcopy(value)
    return made


def _at(document: Document, path: tuple[Any, ...]) -> Any:
    node = document["spec"]
    for key in path:
        node = node[key]
    return node


def all_changes(documents: Sequence[Document]) -> list[Document]:
    """Each of the documents with each single change, where no other document has the same change in the same place."""
    found = {}
    for document in documents:
        for path in _places(document["spec"]):
            # Where the same change means another thing: in another task, strategy, trigger or window.
            task = document["spec"].get("task") if path[:1] in (("evaluation",), ("monitoring",)) else None
            strategy = _at(document, path[:2]) if path[1:2] == ("strategy",) else None
            trigger = _at(document, path[:3])["kind"] if path[1:2] == ("triggers",) and path[2:] else None
            window = document["spec"]["training"]["window"]["kind"] if path[1:2] == ("window",) and path[2:] else None
            place = [document["kind"], task, strategy, trigger, window, *(key for key in path if isinstance(key, str))]
            for value in _others(_at(document, path)):
                found.setdefault(json.dumps([place, value]), _with(document, path, value))
    return list(found.values())


@st.composite
def changed(draw: st.DrawFn, documents: Sequence[Document]) -> Document:
    """One of the documents with one to three changes that keep values' types: another value, a key more or less."""
    document = draw(st.sampled_from(documents))
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(_places(document["spec"]))))
        document = _with(document, path, draw(st.sampled_from(_others(_at(document, path)))))
    return document


_ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 100) | st.floats(-1, 9) | st.sampled_from(["5", "1h", "true", "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(sorted(_FIELDS)), inner, max_size=3),
    max_leaves=4,
)


@st.composite
def garbled(draw: st.DrawFn, documents: Sequence[Document]) -> Document:
    """One of the documents with anything at all in one place."""
    document = draw(st.sampled_from(documents))
    return _with(document, draw(st.sampled_from(list(_places(document["spec"])))), draw(_ANYTHING))
