"""Put a version that passed its gate into service, or ask for the rollout that its document wants."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from evergrow.contracts import EvaluationReport, ModelVersion
from evergrow.environment import Environment
from evergrow.errors import ConflictError, RegistryError, RolloutError, SpecError
from evergrow.integrations.mlflow import CHAMPION, MlflowRegistry
from evergrow.integrations.places import place_of, rollouts_of, serving_of
from evergrow.integrations.spending import metered
from evergrow.journal import note, step
from evergrow.ports import ModelRegistry, Rollouts, Serving
from evergrow.rollout.asking import asked_for, carried_out
from evergrow.rollout.attempt import Attempt
from evergrow.spec import ContinualModel, parse
from evergrow.spec.base import write_duration
from evergrow.spec.rollout import ModelRollout, RolloutStatus

PLAN = "features.json"
PRIOR = "prior"
POLL_SECONDS = 1.0
SLACK = timedelta(minutes=3)
"""That a rollout may take beyond the time in which its candidate must be ready."""


@step
@metered("training")
def main(spec: str, version: str, training_set: str, model: str, report: str) -> str:
    """Have `version` take over as its document says; returns where it is served: a directory, or on a cluster a URL.

    What replaces the champion as soon as it is ready has done so when this returns. Any other rollout is only asked
    for: `evergrow rollout status` tells how it goes. Running it again completes what was cut off, and asks once.

    Args:
        spec: the document.
        version: number of the version.
        training_set: directory of its training set, which holds the plan by which its features are read online.
        model: its bundle's directory, as registered.
        report: its evaluation's directory, for the reason of the promotion.

    Raises:
        RegistryError: there is no such version, its evaluation did not pass, or the champion has changed since.
        SpecError: the document asks for a rollout where nobody carries any out.
        RolloutError: the version did not become ready; what served before does so still.
    """
    document, environment = parse(spec), Environment.read()
    registry = MlflowRegistry(environment)
    judged = EvaluationReport.model_validate_json((Path(report) / "report.json").read_text(encoding="utf-8"))
    found, champion = registry.known(document.name, version), registry.resolve(document.name, CHAMPION)
    _check(found, champion, judged)
    plan = json.loads((Path(training_set) / PLAN).read_text(encoding="utf-8"))
    serving, rollouts = serving_of(environment, document, plan), rollouts_of(environment)
    place = place_of(environment)
    approval = place is not None and place.execution.serving.approval
    deployment = Deployment(document, found, judged, Path(model), serving, rollouts, approval)
    if rollouts is not None and place is not None:
        return deployment.ask_and_wait()
    if approval:
        raise SpecError(
            "execution.serving.approval: nobody carries rollouts out here, so none can wait for an approval",
            hint="switch the environment's operator on (operator.enabled in its values)",
        )
    if rollouts is not None and deployment.wants_evidence and champion is not None and champion != found:
        return deployment.ask()
    check_strategy(document, champion)
    return deployment.put_into_service(registry, champion)


@dataclass(frozen=True)
class Deployment:
    """A version that is to be served.

    Attributes:
        document: of the model.
        version: that takes over.
        judged: its evaluation, which passed.
        bundle: its directory.
        serving: what serves here.
        rollouts: where rollouts are asked for; None: nobody carries any out.
        approval: whether somebody has to approve of it before it takes over.
    """

    document: ContinualModel
    version: ModelVersion
    judged: EvaluationReport
    bundle: Path
    serving: Serving
    rollouts: Rollouts | None
    approval: bool = False

    @property
    def wants_evidence(self) -> bool:
        """Whether more is asked for than that it is ready."""
        return self.document.spec.rollout.strategy.kind != "single"

    def put_into_service(self, registry: ModelRegistry, champion: ModelVersion | None) -> str:
        """Replace the champion at once.

        In an order that is safe to be killed in: all that can fail is made ready, then it is on record that the version
        takes over, then it is served. Run again, it completes what was cut off.
        """
        self.serving.prepare(self.version, self.bundle)
        attempt = self._on_record(champion)
        registry.promote(self.version, self.judged.verdict.reason, datetime.now(UTC))
        where = self.serving.deploy(self.version, self.bundle)
        if attempt is not None and attempt.status.recorded is None:
            self._write(attempt, attempt.status.model_copy(update={"recorded": datetime.now(UTC)}))
        note("deploy", f"version {self.version.version} is the champion, served from {where}")
        return where

    def ask(self) -> str:
        """Ask for a rollout, once."""
        self.serving.publish(self.version, self.bundle)
        self._asked()
        model, kind = self.document.name, self.document.spec.rollout.strategy.kind
        look = f"`evergrow {'approve' if self.approval else 'rollout status'} {model}`"
        note("deploy", f"version {self.version.version} is to take over by {kind}: {look}")
        return self.serving.where

    def ask_and_wait(self, sleep: Callable[[float], None] = time.sleep) -> str:
        """Ask for a rollout, and wait for one that needs neither evidence nor an approval."""
        where = self.ask()
        if not self.wants_evidence and not self.approval:
            self._wait(sleep)
        return where

    def _wait(self, sleep: Callable[[float], None]) -> None:
        name, limit = self._attempt.name, self.document.spec.rollout.ready_within + SLACK
        end = time.monotonic() + limit.total_seconds()
        while (found := self._found(name)) is None or not _is_done(found):
            if time.monotonic() > end:
                told = "is gone" if found is None else f"is {found.status.phase}: {found.status.reason}"
                raise RolloutError(
                    f"rollout {name} {told} after {write_duration(limit)}",
                    hint="does the operator run? `kubectl get pods -l app.kubernetes.io/component=operator`",
                    retriable=True,
                )
            sleep(POLL_SECONDS)
        if found.status.phase == "Aborted":
            raise RolloutError(
                f"rollout {name} was aborted: {found.status.reason}", hint="what served before does so still"
            )
        note("deploy", f"rollout {name}: {found.status.phase}: {found.status.reason}")

    def _found(self, name: str) -> Attempt | None:
        assert self.rollouts is not None
        return next((one for one in self.rollouts.attempts(self.document.name) if one.name == name), None)

    @property
    def _attempt(self) -> ModelRollout:
        return asked_for(self.version.version, self.judged, approval=self.approval)

    def _asked(self) -> None:
        """Ask for it, unless that was done."""
        assert self.rollouts is not None
        self.rollouts.put_model(self.document)
        with suppress(ConflictError):
            self.rollouts.create(self._attempt)

    def _on_record(self, champion: ModelVersion | None) -> Attempt | None:
        """The rollout that this is, carried out; None where none are kept, or nothing changes."""
        if self.rollouts is None or (champion is not None and champion.version == self.version.version):
            return None if self.rollouts is None else self._found(self._attempt.name)
        self._asked()
        found = self._found(self._attempt.name)
        if found is None or found.begun:
            return found
        stable = None if champion is None else champion.version
        return self._write(found, carried_out(found.document, stable, datetime.now(UTC)))

    def _write(self, attempt: Attempt, status: RolloutStatus) -> Attempt:
        assert self.rollouts is not None
        try:
            return self.rollouts.write(attempt, status)
        except ConflictError:
            note("deploy", f"rollout {attempt.name} is carried out by who serves the model")
            return attempt.becoming(status)


def _is_done(attempt: Attempt) -> bool:
    """Whether it is over, and a promotion on record."""
    return attempt.over and (attempt.status.winner is None or attempt.status.recorded is not None)


def check_strategy(document: ContinualModel, champion: ModelVersion | None) -> None:
    """Refuse what would be promoted with less evidence than the document asks for."""
    kind = document.spec.rollout.strategy.kind
    if kind != "single" and champion is not None:
        raise SpecError(
            f"spec.rollout.strategy.kind: must be single where nobody carries rollouts out, found {kind}",
            hint="switch the environment's operator on (operator.enabled in its values), or leave `rollout` out",
        )


def _check(version: ModelVersion, champion: ModelVersion | None, judged: EvaluationReport) -> None:
    """Refuse a version that did not pass, and one that passed against a champion that is no longer it."""
    name = f"{version.model} version {version.version}"
    if judged.verdict.outcome != "pass" or judged.identity != version.identity:
        raise RegistryError(
            f"{name}: only a version whose own evaluation passed is deployed, "
            f"found {judged.verdict.outcome} of identity {judged.identity[:12]}"
        )
    present = PRIOR if champion is None else str(champion.version)
    if present not in (judged.champion, str(version.version)):
        raise RegistryError(
            f"{name}: it was judged against {judged.champion}, but the champion is {present} by now",
            hint="run the training pipeline again: it judges against the present champion",
        )
