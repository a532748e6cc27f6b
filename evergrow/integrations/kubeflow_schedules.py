"""Schedules in Kubeflow Pipelines: its recurring runs, one for each pipeline of a model."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evergrow.contracts import digest
from evergrow.errors import ClusterError, SpecError
from evergrow.importing import load_object
from evergrow.integrations.kubeflow_api import Kubeflow, containing
from evergrow.integrations.kubeflow_client import COMPILE
from evergrow.integrations.kubeflow_compile import at_scheduled_time
from evergrow.integrations.submission import Runner
from evergrow.spec import ContinualModel

DAILY = "0 3 * * *"


@dataclass(frozen=True)
class ScheduledRun:
    """A pipeline that is run again and again.

    Attributes:
        name: what it runs, and where.
        id: what its runner knows it by.
        cron: five fields, UTC.
        suspended: whether it rests.
        runner: what carries it out.
        digest: of all that determines what it does.
        existing: whether it was there already, as it should be.
    """

    name: str
    id: str
    cron: str
    suspended: bool
    runner: Runner
    digest: str = ""
    existing: bool = False


class KubeflowSchedules:
    """Recurring runs of one environment. A run is as of the time it is due."""

    def __init__(self, kubeflow: Kubeflow) -> None:
        self.kubeflow = kubeflow

    def create(
        self, pipeline: str, document: ContinualModel, cron: str, suspended: bool = False, number: int = 1
    ) -> ScheduledRun:
        """Make a schedule what it should be: nothing if it is that, else a new one in the place of the old.

        Runs that the old one has started go on.

        Args:
            pipeline: which.
            document: the model's, as it is now: a schedule keeps it.
            cron: five fields, UTC.
            suspended: whether it rests at first.
            number: tells apart several schedules of one pipeline.

        Raises:
            SpecError: `cron` is no five fields.
            ClusterError: Kubeflow refuses.
        """
        body = self._body(pipeline, document, seconds_first(cron), number)
        old = [schedule for schedule in self.list() if schedule.name == body.display_name]
        same = next((schedule for schedule in old if schedule.digest == digest_in(body.description)), None)
        made = dataclasses.replace(same, existing=True) if same else self._create(document.name, body, suspended)
        for schedule in old:
            if schedule.id != made.id:
                self._delete(schedule)
        return made if made.suspended == suspended else self.suspend(made.id, suspended)

    def apply(self, prune: bool = False) -> Sequence[ScheduledRun]:
        """Make the schedules that the environment names what they should be.

        Args:
            prune: delete those that it does not name.
        """
        made = []
        for model in self.kubeflow.place.models.values():
            numbers: Counter[str] = Counter()
            if model.document is None:
                continue
            for schedule in model.schedules:
                numbers[schedule.pipeline] += 1
                number = numbers[schedule.pipeline]
                made.append(self.create(schedule.pipeline, model.document, schedule.cron, schedule.suspended, number))
        wanted = {schedule.name for schedule in made}
        for other in self.list() if prune else ():
            if other.name not in wanted:
                self._delete(other)
        return made

    def list(self) -> Sequence[ScheduledRun]:
        """The environment's schedules, by name."""
        schedules, page = [], ""
        while True:
            listed = self.kubeflow.call(
                self._api.recurring_run_service_list_recurring_runs,
                namespace=self.kubeflow.namespace,
                page_size=100,
                page_token=page,
                filter=containing(description=described(self.kubeflow.place.name)),
            )
            schedules += [_schedule(told) for told in listed.recurring_runs or []]
            page = listed.next_page_token or ""
            if not page:
                return sorted(schedules, key=lambda schedule: schedule.name)

    def find(self, name: str) -> ScheduledRun:
        """A schedule by its name or its id.

        Raises:
            ClusterError: there is none.
        """
        there = self.list()
        found = next((schedule for schedule in there if name in (schedule.name, schedule.id)), None)
        if found is None:
            known = ", ".join(repr(schedule.name) for schedule in there) or "none"
            raise ClusterError(
                f"no schedule is called {name!r} in {self.kubeflow.place.name}", hint=f"there are: {known}"
            )
        return found

    def suspend(self, name: str, suspended: bool = True) -> ScheduledRun:
        """Let a schedule rest, or wake it."""
        found = self.find(name)
        change = (
            self._api.recurring_run_service_disable_recurring_run
            if suspended
            else self._api.recurring_run_service_enable_recurring_run
        )
        self.kubeflow.call(change, recurring_run_id=found.id)
        return self.find(found.id)

    def delete(self, name: str) -> ScheduledRun:
        """Remove a schedule. Runs that it has started go on."""
        found = self.find(name)
        self._delete(found)
        return found

    @property
    def _api(self) -> Any:
        return self.kubeflow.client.recurring_runs

    def _body(self, pipeline: str, document: ContinualModel, cron: str, number: int) -> Any:
        """A recurring run as the API takes it, whose description has the digest of all that it does."""
        place, models = self.kubeflow.place, self.kubeflow.client.api_models
        compiled = at_scheduled_time(load_object(COMPILE)(pipeline, place, document.name)).to_dict()
        arguments = {"spec": json.dumps(document.dump())}
        account = place.beside_steps(place.execution.pipelines.service_account)
        is_what = digest({"compiled": compiled, "arguments": arguments, "cron": cron, "account": account})
        return models.V2beta1RecurringRun(
            display_name=named(pipeline, document.name, place.name, number),
            description=described(place.name, is_what),
            pipeline_spec=compiled,
            runtime_config=models.V2beta1RuntimeConfig(parameters=arguments),
            trigger=models.V2beta1Trigger(cron_schedule=models.V2beta1CronSchedule(cron=cron)),
            max_concurrency="1",
            no_catchup=True,
            service_account=account,
        )

    def _create(self, model: str, body: Any, suspended: bool) -> ScheduledRun:
        body.experiment_id = self.kubeflow.experiment(model)
        body.mode = "DISABLE" if suspended else "ENABLE"
        return _schedule(self.kubeflow.call(self._api.recurring_run_service_create_recurring_run, recurring_run=body))

    def _delete(self, schedule: ScheduledRun) -> None:
        # By default its runs' workflows would be deleted with it, and Kubeflow would show them as running for ever.
        delete = self._api.recurring_run_service_delete_recurring_run
        self.kubeflow.call(delete, recurring_run_id=schedule.id, propagation_policy="ORPHAN")


def named(pipeline: str, model: str, environment: str, number: int = 1) -> str:
    """What a schedule is called.

    >>> named("training", "delays", "dev"), named("training", "delays", "dev", 2)
    ('training delays (dev)', 'training delays (dev) 2')
    """
    return f"{pipeline} {model} ({environment})" + (f" {number}" if number > 1 else "")


def described(environment: str, is_what: str = "") -> str:
    """What a schedule's description says, by which it is found again."""
    return f"evergrow environment={environment} digest={is_what}"


def digest_in(description: str | None) -> str:
    """The digest in a schedule's description; empty if there is none."""
    found = re.search(r" digest=(\w*)", description or "")
    return found[1] if found else ""


def seconds_first(cron: str) -> str:
    """A schedule as KFP wants it, which has a field for seconds before the usual five.

    Raises:
        SpecError: there are not five.

    >>> seconds_first("0 3 * * 1-5")
    '0 0 3 * * 1-5'
    """
    if len(cron.split()) != 5:
        raise SpecError(
            f"--cron: must be five fields (minute, hour, day of month, month, day of week; UTC), found {cron!r}",
            hint=f'such as "{DAILY}", every day at three',
        )
    return f"0 {cron}"


def _schedule(told: Any) -> ScheduledRun:
    cron = told.trigger.cron_schedule.cron if told.trigger and told.trigger.cron_schedule else ""
    return ScheduledRun(
        name=told.display_name,
        id=told.recurring_run_id,
        cron=cron.removeprefix("0 "),
        suspended=told.status == "DISABLED",
        runner="kubeflow",
        digest=digest_in(told.description),
    )
