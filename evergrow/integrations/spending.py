"""What steps took, one small object a run: `spending/<model>/<day>/`, from which costs are told.

A step that is killed leaves none: what it took is in Kubernetes' own records alone.
"""

from __future__ import annotations

import functools
import logging
import resource
import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from inspect import signature
from typing import ParamSpec, TypeVar

from evergrow.contracts import Purpose, Spent
from evergrow.environment import Environment
from evergrow.errors import EvergrowError
from evergrow.integrations.object_store import ObjectStore
from evergrow.integrations.places import place_of
from evergrow.journal import step_name
from evergrow.spec import parse

FOLDER = "spending"
SIDE_BY_SIDE = 8
PATIENCE = timedelta(seconds=5)
"""How long a store that does not answer is asked again; a step that is over waits no longer to tell its price."""

P = ParamSpec("P")
R = TypeVar("R")
logger = logging.getLogger("evergrow.step")


class Ledger:
    """What the steps of an environment's models took."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store

    def keep(self, spent: Spent) -> None:
        """Add a run of a step.

        Raises:
            StoreError: the store refused or does not answer.
        """
        name = f"{FOLDER}/{spent.model}/{spent.at.date()}/{spent.step}-{secrets.token_hex(6)}.json"
        self.store.write(name, spent.model_dump_json().encode())

    def read(self, model: str, days: timedelta) -> Sequence[Spent]:
        """What was kept in the last `days` before the newest, oldest first.

        Raises:
            StoreError: the store refused or does not answer.
        """
        folder = f"{FOLDER}/{model}"
        names = self.store.names(folder)
        if not names:
            return []
        first = _day(names[-1]) - days
        with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
            read = pool.map(self.store.read, [f"{folder}/{name}" for name in names if _day(name) > first])
            found = [Spent.model_validate_json(content[0]) for content in read if content]
        return sorted(found, key=lambda one: (one.at, one.step))


def _day(name: str) -> date:
    return date.fromisoformat(name.partition("/")[0])


def metered(purpose: Purpose) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Have a step, whose argument `spec` is the document, leave what it took in the ledger, however it ends."""

    def decorate(main: Callable[P, R]) -> Callable[P, R]:
        name = step_name(main)

        @functools.wraps(main)
        def measured(*args: P.args, **kwargs: P.kwargs) -> R:
            began, used = time.monotonic(), _cpu_seconds()
            try:
                return main(*args, **kwargs)
            finally:
                document = str(signature(main).bind(*args, **kwargs).arguments["spec"])
                _keep(purpose, name, document, time.monotonic() - began, _cpu_seconds() - used)

        return measured

    return decorate


def _keep(purpose: Purpose, step: str, spec: str, seconds: float, cpu_seconds: float) -> None:
    """Keep what a step took. A step that did its work has not failed because nobody could note its price."""
    try:
        environment = Environment.read()
        spent = Spent(
            model=parse(spec).name,
            purpose=purpose,
            step=step,
            at=datetime.now(UTC),
            seconds=seconds,
            cpu_seconds=cpu_seconds,
            cpus=_cpus(environment, step),
        )
        Ledger(ObjectStore.of(environment, PATIENCE)).keep(spent)
    except (EvergrowError, ValueError) as error:
        logger.warning("what %s took was not kept: %s", step, error)


def _cpus(environment: Environment, step: str) -> float:
    """CPUs that the environment sets aside for a step; 0 on one machine."""
    found = place_of(environment)
    if found is None:
        return 0.0
    from kubernetes.utils import parse_quantity

    return float(parse_quantity(found.execution.pipelines.step(step).resources.cpu))


def _cpu_seconds() -> float:
    """Of this process and of the children it has waited for."""
    both = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return sum(one.ru_utime + one.ru_stime for one in both)
