"""An operator's process, put together."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import socket
import threading
import time
import uuid
from dataclasses import dataclass
from datetime import timedelta

import kopf
from prometheus_client import CollectorRegistry

from components.operator import health, watch
from components.operator.aside import RoutedChampions, WorkerWitness
from components.operator.lease import Keeper, Lease
from components.operator.loop import Loop
from components.operator.work_queue import WorkQueue
from components.operator.worker import Worker
from evergrow import logs
from evergrow.environment import Environment
from evergrow.errors import ClusterError, EvergrowError, SpecError
from evergrow.integrations.clocks import OffsetClock
from evergrow.integrations.gateway import GatewayTraffic
from evergrow.integrations.kserve_fleet import KServeFleet
from evergrow.integrations.kubernetes import Kubernetes
from evergrow.integrations.kubernetes_cache import CachedKubernetes
from evergrow.integrations.object_store import ObjectStore
from evergrow.integrations.places import place_of
from evergrow.integrations.pod_counters import PodCounters
from evergrow.integrations.rollouts_kubernetes import KubernetesRollouts
from evergrow.rollout.control import Controller
from evergrow.spec.environment import EnvironmentSpec

LEASE_NAME = "evergrow-operator"
PATIENCE = 5.0
"""Seconds that a server that does not answer is asked again; then the model is looked at again later."""
SILENCE = 120.0
"""Seconds without a try for the lease after which the process is not well."""
ENDING = 10.0
"""Seconds that looks under way have when told to stop."""
LOST = 3
"""Exit code of an operator that is not sure any more to be the only one."""

logger = logging.getLogger("evergrow.operator")


@dataclass(frozen=True)
class Looking:
    """A look at a model: its document first, for whatever is wrong with that is to be said."""

    rollouts: KubernetesRollouts
    controller: Controller
    counters: PodCounters

    def __call__(self, model: str) -> timedelta | None:
        """Take it at most one move further; returns when to look again."""
        try:
            self.rollouts.model(model)
        except SpecError as error:
            # That is told by now; rollouts under way go by what they have on record.
            logger.debug("%s: %s", model, error, extra={"model": model})
        after = self.controller.reconcile(model)
        if after is None:
            self.counters.forget(model)
        return after

    def complain(self, model: str, error: Exception) -> None:
        """An event of the model."""
        told = str(error) if isinstance(error, EvergrowError) else type(error).__name__
        hint = error.hint if isinstance(error, EvergrowError) else ""
        self.rollouts.tell_of_model(model, "Failed", f"{told}; {hint}" if hint else told, warning=True)


def looking(environment: Environment, place: EnvironmentSpec, cache: CachedKubernetes, worker: Worker) -> Looking:
    """What looks at the models of an environment."""
    clock, traffic, counters = OffsetClock(), GatewayTraffic(place, cache), PodCounters(cache)
    rollouts = KubernetesRollouts(cache, clock)
    fleet = KServeFleet(place, cache, ObjectStore.of(environment))
    witness = WorkerWitness(environment, worker, counters)
    champions = RoutedChampions(environment, worker, traffic, clock)
    return Looking(rollouts, Controller(rollouts, fleet, traffic, witness, champions, clock), counters)


def run(options: argparse.Namespace) -> None:
    """Work until told to stop.

    Raises:
        SpecError: this is no environment of a cluster.
        ClusterError: no cluster is configured, or it lacks what is to be watched.
    """
    logs.configure()
    # What it tries again on its own is told once, by us, when it did not help.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    environment = Environment.read()
    place = place_of(environment)
    if place is None:
        raise SpecError(
            "EVERGROW_ENVIRONMENT and EVERGROW_STORE: must be of an environment of a cluster, found none",
            hint="the chart's ConfigMap evergrow-environment has them",
        )
    namespace = place.execution.namespace
    cache = CachedKubernetes(Kubernetes.open(namespace, patience=PATIENCE), watch.WATCHED)
    holder = f"{socket.gethostname()}_{uuid.uuid4().hex[:8]}"
    lease = Lease(Kubernetes.open(namespace, patience=0), LEASE_NAME, holder)
    worker = Worker()
    Process(looking(environment, place, cache, worker), cache, lease, worker, options).run()


class Process:
    """What goes on in an operator: it answers for its health from the start, and all else while it holds the lease."""

    def __init__(
        self, look: Looking, cache: CachedKubernetes, lease: Lease, worker: Worker, options: argparse.Namespace
    ) -> None:
        self.cache, self.worker, self.options = cache, worker, options
        self.queue, self.registry = WorkQueue(), CollectorRegistry()
        self.keeper = Keeper(lease, self._tried)
        self.loop = Loop(look, look.complain, self.queue, self.registry)
        self.registry.register(health.State(self.queue, cache, lambda: lease.is_held))
        self._ending, self._tried_at, self._trouble = threading.Event(), time.monotonic(), ""
        self._threads: list[threading.Thread] = []

    def run(self) -> None:
        """Work until told to stop.

        Raises:
            ClusterError: the API server refuses what is to be read.
        """
        server = health.serve(self.options.port, self.registry, self.trouble)
        logger.info("answers for its health on port %d; waits for the lease", server.server_port)
        self.keeper.wait()
        logger.info("holds the lease %s as %s", self.keeper.lease.name, self.keeper.lease.holder)
        self.keeper.keep(self._lost)
        try:
            self._fill()
            self._start()
            asyncio.run(self._watch())
        finally:
            self._end()

    def trouble(self) -> str:
        """Why the process should be started anew; empty if it should not."""
        silent = time.monotonic() - self._tried_at
        if silent > SILENCE:
            return f"no try for the lease for {silent:.0f} s"
        dead = [thread.name for thread in self._threads if not thread.is_alive()]
        return f"ended: {', '.join(dead)}" if dead and not self._ending.is_set() else ""

    def _fill(self) -> None:
        """Read all there is, however long the API server is away."""
        while True:
            try:
                return self.cache.fill()
            except ClusterError as error:
                if not error.retriable:
                    raise
                logger.warning("%s", error)

    def _start(self) -> None:
        jobs = [(f"look-{i}", self.loop.work) for i in range(self.options.threads)]
        for name, job in [*jobs, ("resync", self._resync), ("let-go", self._let_go)]:
            self._threads.append(threading.Thread(target=job, name=name, daemon=True))
        for name in watch.models(self.cache):
            self.queue.add(name)
        for thread in self._threads:
            thread.start()

    async def _watch(self) -> None:
        handlers = watch.registry(self.cache, self.queue)
        namespaces = [self.cache.namespace]
        await kopf.operator(registry=handlers, settings=watch.settings(), namespaces=namespaces, standalone=True)

    def _resync(self) -> None:
        """From time to time read everything again, and have each model looked at, one after the other."""
        while not self._ending.wait(self.options.resync):
            try:
                self.cache.fill()
            except EvergrowError as error:
                logger.warning("%s", error, extra={"hint": error.hint})
            names = watch.models(self.cache)
            for i, name in enumerate(names):
                self.queue.add(name, self.options.resync * i / len(names))

    def _let_go(self) -> None:
        """Do without the worker process while nothing is to be done there."""
        while not self._ending.wait(self.worker.idle / 2):
            self.worker.rest()

    def _tried(self, error: EvergrowError | None) -> None:
        self._tried_at = time.monotonic()
        told = "" if error is None else str(error)
        if told and told != self._trouble:
            logger.warning("lease: %s", told)
        self._trouble = told

    def _lost(self) -> None:
        """Whatever is under way must not go on: another operator may have begun."""
        logger.error("the lease is not surely held any more; the process ends")
        self.worker.stop()
        os._exit(LOST)

    def _end(self) -> None:
        self._ending.set()
        self.queue.close()
        last = time.monotonic() + ENDING
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, last - time.monotonic()))
        self.worker.stop()
        self.keeper.end()
        with contextlib.suppress(EvergrowError):
            self.keeper.lease.release()
