"""What the models' validators say of several fields at once, said in CEL, by which an API server decides.

CEL is the Common Expression Language. A rule's message is the validator's, without the index of an item. What an API
server may spend on a rule is limited, and reckoned by the longest document that could come: so lists and words that
rules look through are bounded in the models.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from evergrow.spec.base import Part, write_duration
from evergrow.spec.model import (
    METRICS,
    MINIMUM_BLOCKS,
    ROW_LOSSES,
    Evaluation,
    Floor,
    ModelSpec,
    Monitoring,
    SearchRange,
    Training,
)
from evergrow.spec.retraining import Retraining
from evergrow.spec.rollout import Canary, RolloutSpec
from evergrow.spec.windows import Fixed


@dataclass(frozen=True)
class Rule:
    """A rule about `self`, the object or value that it stands at."""

    holds: str
    """CEL: what must be true."""
    message: str
    """What is said if it is not."""
    found: str = ""
    """CEL, values with commas between them: what is said to have been found; nothing if empty."""
    form: str = "%s"
    """How that is said, with a %s for each value."""
    at: str = ""
    """The field at fault, from here: ".gate.metric"."""
    reason: str = ""
    """FieldValueForbidden or FieldValueRequired; if empty, the value is invalid."""

    def only_if(self, condition: str) -> Rule:
        """The rule where a condition holds, also CEL."""
        return replace(self, holds=f"!({condition}) || ({self.holds})")

    def dump(self) -> dict[str, Any]:
        """As `x-kubernetes-validations` has it."""
        # One `format`, as the API server thinks texts that are put together with `+` to be boundlessly long.
        told = f"{json.dumps(f'{self.message}, found {self.form}')}.format([{self.found}])" if self.found else ""
        parts = {
            "rule": self.holds,
            "message": self.message,
            "messageExpression": told,
            "fieldPath": self.at,
            "reason": self.reason,
        }
        return {key: value for key, value in parts.items() if value}


def at_least(shortest: timedelta) -> Rule:
    """A lower bound of a duration. CEL knows durations, but no days, which are therefore looked at apart.

    Raises:
        ValueError: the bound is not in (0s, 1d].
    """
    if not timedelta() < shortest <= timedelta(days=1):
        raise ValueError(f"the bound of a duration must be in (0s, 1d], found {shortest}")
    return Rule(
        holds="self.matches('[1-9][0-9]*d') "
        f"|| duration(self.find('[^d]*$') + '0s') >= duration('{shortest.total_seconds():.0f}s')",
        message=f"input should be greater than or equal to {write_duration(shortest)}",
        found="self",
    )


def _seconds(duration: str) -> str:
    """CEL: a duration, in seconds. Days come first, and are counted apart."""
    days = f"({duration}.contains('d') ? int({duration}.find('^[0-9]+')) : 0)"
    return f"({days} * 86400 + duration({duration}.find('[^d]*$') + '0s').getSeconds())"


def _metrics() -> Iterator[Rule]:
    """A rule for each task and each place where metrics are named."""
    for task, losses in ROW_LOSSES.items():
        for path, metrics, known in (
            ("evaluation.metrics", "self.evaluation.metrics", METRICS[task]),
            ("evaluation.gate.floors.metric", "self.evaluation.gate.floors.map(f, f.metric)", METRICS[task]),
            ("evaluation.gate.metric", "[self.evaluation.gate.metric]", losses),
        ):
            yield Rule(
                f"{metrics}.all(m, m in {json.dumps(known)})",
                f"`{path}` must be one of {', '.join(known)} for {task}",
                found=f"{metrics}.filter(m, !(m in {json.dumps(known)}))[0]",
                at=f".{path}".replace(".floors.metric", ".floors"),
            ).only_if(f"self.task == {json.dumps(task)}")


_RATES = '["true_positive_rate", "false_positive_rate"]'
_LABELS = Rule(
    "!self.label.key.exists(c, c in self.serving.log.leftOut)",
    "`label.key`: must be columns that predictions are logged with",
    found="self.label.key.filter(c, c in self.serving.log.leftOut)[0]",
    form="%s in log.leftOut",
    at=".label.key",
)
_CALLERS = Rule(
    "!self.rollout.sticky.exists(c, c in self.serving.log.leftOut)",
    "`rollout.sticky`: must be columns that predictions are logged with",
    found="self.rollout.sticky.filter(c, c in self.serving.log.leftOut)[0]",
    form="%s in log.leftOut",
    at=".rollout.sticky",
)
_WORTH = Rule(
    'has(self.monitoring.worth.perUnitOfError) == (self.task == "regression")',
    "`monitoring.worth.perUnitOfError` is for a regression, and all it has",
    found="self.task",
    at=".monitoring.worth.perUnitOfError",
).only_if("has(self.monitoring.worth)")
_FAIRNESS = Rule(
    f"!self.monitoring.fairness.exists(f, f.metric in {_RATES})",
    "`monitoring.fairness.metric` needs a classification",
    found=f"self.monitoring.fairness.filter(f, f.metric in {_RATES})[0].metric",
    at=".monitoring.fairness",
).only_if('self.task == "regression"')
_CALIBRATION = Rule(
    'self.training.calibration == "none"',
    "`training.calibration` must be none for regression",
    found="self.training.calibration",
    at=".training.calibration",
).only_if('self.task == "regression"')

RULES: Mapping[type[Part], Mapping[str, Sequence[Rule]]] = {
    ModelSpec: {
        "_metrics_of_the_task": tuple(_metrics()),
        "_labels_can_be_joined": (_LABELS,),
        "_callers_are_logged": (_CALLERS,),
        "_worth_fits_the_task": (_WORTH,),
        "_fairness_fits_the_task": (_FAIRNESS,),
        "_calibration_fits_the_task": (_CALIBRATION,),
    },
    Training: {
        "_update_fits": (
            Rule(
                "has(self.calibration) && self.calibration != 'none'",
                "`update` recalibrate needs a `calibration`",
                at=".calibration",
            ).only_if("has(self.update) && self.update.kind == 'recalibrate'"),
            Rule(
                "!has(self.search)", "`search` is for the update refit", found="self.update.kind", at=".search"
            ).only_if("has(self.update) && self.update.kind != 'refit'"),
        )
    },
    Fixed: {
        "_ordered": (
            Rule("self.since < self.until", "`until` must be after `since`", at=".until").only_if(
                "has(self.since) && has(self.until)"
            ),
        )
    },
    SearchRange: {
        "_ordered": (
            Rule(
                "self.low < self.high",
                "`low` must be below `high`",
                found="self.low, self.high",
                form="%s and %s",
                at=".low",
            ),
            Rule(
                "self.low > 0.0",
                "`low` must be above 0 on a log scale",
                found="self.low",
                at=".low",
            ).only_if("self.log"),
        ),
    },
    Evaluation: {
        "_periods_have_blocks": (
            Rule(
                f"{_seconds('self.references.period')} >= {MINIMUM_BLOCKS} * {_seconds('self.gate.block')}",
                f"`references.period` must be at least {MINIMUM_BLOCKS} times `gate.block`",
                found="self.references.period, self.gate.block",
                form="%s and %s",
                at=".references.period",
            ).only_if("has(self.references)"),
        ),
    },
    Floor: {
        "_one_side": (
            Rule("has(self.atLeast) != has(self.atMost)", "must have exactly one of `atLeast` and `atMost`"),
        ),
    },
    Monitoring: {
        "_each_tool_once": (
            Rule(
                "self.driftTools.all(t, self.driftTools.exists_one(u, u == t))",
                "`driftTools` must name each tool once",
                found="self.driftTools.filter(t, !self.driftTools.exists_one(u, u == t))[0]",
                form="%s more than once",
                at=".driftTools",
            ).only_if("has(self.driftTools)"),
        ),
    },
    Retraining: {
        "_enough_triggers": (
            Rule(
                "size(self.triggers) == 0 || self.needed <= size(self.triggers)",
                "`needed` must be at most the number of triggers",
                found="self.needed, size(self.triggers)",
                form="%s of %s",
                at=".needed",
            ).only_if("has(self.triggers)"),
        ),
    },
    Canary: {
        "_rising": (
            Rule(
                "size(self.steps) > 0 && self.steps.map(s, s.weight).isSorted() "
                "&& self.steps.all(s, self.steps.exists_one(t, t.weight == s.weight))",
                "`steps`: must have rising weights, at least one",
                found="self.steps.map(s, s.weight)",
                at=".steps",
            ).only_if("has(self.steps)"),
        ),
    },
    RolloutSpec: {
        "_one_but_for_a_bandit": (
            Rule(
                "self.candidates.all(c, self.candidates.exists_one(d, d == c))",
                "`candidates` must name each version once",
                found="self.candidates",
                at=".candidates",
            ),
            Rule(
                "size(self.candidates) < 2",
                "`candidates` must be one but for a bandit",
                found="self.candidates, self.rollout.strategy.kind",
                form="%s for %s",
                at=".candidates",
            ).only_if('has(self.rollout) && self.rollout.strategy.kind != "bandit"'),
        ),
    },
}
"""The rules of each part, by the validator whose they are."""
