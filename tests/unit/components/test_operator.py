"""The operator: each model by one thread at a time, one operator at a time, and nothing lost by whoever dies."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from components.operator import health, watch
from components.operator.lease import DEADLINE, DURATION, Keeper, Lease
from components.operator.loop import LONGEST, Loop, pause
from components.operator.work_queue import WorkQueue
from components.operator.worker import Worker
from evergrow.errors import ClusterError, ConflictError, ServingError
from evergrow.integrations.kubernetes import (
    CONTINUAL_MODEL,
    DEPLOYMENT,
    INFERENCE_SERVICE,
    LEASE,
    MODEL_ROLLOUT,
    POD,
    Kubernetes,
)
from evergrow.integrations.kubernetes_cache import CachedKubernetes
from evergrow.integrations.labels import MANAGED_BY, MODEL
from tests.unit.components.tasks import die, double, refuse, sleep, stumble
from tests.unit.integrations.fake_cluster import FakeCluster


class Seconds:
    """A clock that goes when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Seconds()


@pytest.fixture
def queue(clock):
    return WorkQueue(clock)


# -- the queue ---------------------------------------------------------------------------------------------------------


def test_a_model_is_taken_once_however_often_something_happens_to_it(queue):
    for _ in range(3):
        queue.add("a")
    assert (queue.depth, queue.take(wait=False), queue.take(wait=False)) == (1, "a", None)


def test_a_model_that_is_busy_is_taken_again_only_when_it_is_done(queue):
    queue.add("a")
    queue.take(wait=False)
    queue.add("a")
    assert queue.take(wait=False) is None
    queue.done("a")
    assert queue.take(wait=False) == "a"


def test_a_model_is_taken_when_it_is_due_and_the_sooner_moment_counts(queue, clock):
    queue.add("a", 10)
    queue.add("a", 20)
    queue.add("b", 20)
    queue.add("b", 5)
    taken = []
    for clock.now in (4.9, 5.0, 9.9, 10.0, 30.0):
        taken.append(queue.take(wait=False))
    assert taken == [None, "b", None, "a", None]


def test_what_has_been_due_longest_is_taken_first(queue, clock):
    queue.add("late", 2)
    queue.add("early", 1)
    clock.now = 3
    queue.add("now")
    assert [queue.take(wait=False) for _ in range(3)] == ["early", "late", "now"]


def test_whoever_waits_is_woken_by_news_and_by_the_end():
    queue, taken = WorkQueue(), []
    threads = [threading.Thread(target=lambda: taken.append(queue.take())) for _ in range(2)]
    for thread in threads:
        thread.start()
    queue.add("a")
    while not taken:
        time.sleep(0.001)
    queue.close()
    for thread in threads:
        thread.join(10)
    assert sorted(taken, key=str) == [None, "a"]


actions = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.sampled_from("abc"), st.integers(0, 5)),
        st.tuples(st.just("take"), st.none(), st.none()),
        st.tuples(st.just("done"), st.sampled_from("abc"), st.none()),
        st.tuples(st.just("pass"), st.none(), st.integers(1, 3)),
    )
)


@given(actions)
def test_the_queue_does_what_a_list_of_all_requests_says(steps):
    clock = Seconds()
    queue, asked, busy = WorkQueue(clock), [], set()
    for action, name, number in steps:
        if action == "add":
            queue.add(name, number)
            asked.append((clock.now + number, name))
        elif action == "pass":
            clock.now += number
        elif action == "done" and name in busy:
            queue.done(name)
            busy.remove(name)
        elif action == "take":
            due = [(at, name) for at, name in asked if at <= clock.now and name not in busy]
            taken = queue.take(wait=False)
            assert taken == min(due, default=(0, None))[1]
            if taken is not None:
                asked = [(at, name) for at, name in asked if name != taken]
                busy.add(taken)
        assert queue.depth == len({name for at, name in asked if at <= clock.now})


# -- the loop ----------------------------------------------------------------------------------------------------------


class Looks:
    """Looks at models that do as told, and what people were told."""

    def __init__(self, *answers) -> None:
        self.clock = Seconds()
        self.queue, self.registry = WorkQueue(self.clock), CollectorRegistry()
        self.answers, self.told = [*answers], []
        self.loop = Loop(
            self.look, lambda model, error: self.told.append((model, str(error))), self.queue, self.registry
        )

    def look(self, model):
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def turn(self) -> float | None:
        """Look once; returns in how many seconds the model is due again."""
        self.queue.add("m")
        self.loop.once(self.queue.take(wait=False))
        due = self.queue._due.pop("m", None)
        return None if due is None else due - self.clock.now

    def results(self) -> dict[str, float]:
        samples = [
            s for m in self.registry.collect() for s in m.samples if s.name == "evergrow_operator_reconciles_total"
        ]
        return {sample.labels["result"]: sample.value for sample in samples}


def test_a_model_is_looked_at_again_when_its_look_says():
    looks = Looks(timedelta(seconds=2), None)
    assert [looks.turn(), looks.turn()] == [2.0, None]
    assert looks.results() == {"ok": 2}


def test_a_model_that_fails_is_looked_at_again_ever_later_and_at_once_once_it_is_well():
    refused = ServingError("no servers")
    looks = Looks(refused, refused, refused, None, refused)
    assert [looks.turn() for _ in range(5)] == [1.0, 2.0, 4.0, None, 1.0]
    assert looks.results() == {"error": 4, "ok": 1}


@given(st.integers(1, 10**6))
def test_a_pause_grows_up_to_a_limit(failures):
    assert 0 < pause(failures) <= pause(failures + 1) <= LONGEST


def test_an_error_is_told_once_until_it_is_another_or_was_over():
    a, b = ServingError("a"), ServingError("b")
    looks = Looks(a, a, b, b, None, b)
    for _ in range(6):
        looks.turn()
    assert looks.told == [("m", "a"), ("m", "b"), ("m", "b")]


def test_whatever_is_raised_other_models_go_on_and_data_is_not_told():
    looks = Looks(KeyError("N14228"))
    assert looks.turn() == 1.0
    assert looks.results() == {"error": 1}


def test_a_conflict_is_no_trouble_to_tell_of():
    looks = Looks(ConflictError("changed"), None)
    assert [looks.turn(), looks.turn()] == [1.0, None]
    assert looks.told == []
    assert looks.results() == {"conflict": 1, "ok": 1}


def test_an_api_server_that_is_away_keeps_nobody_from_going_on():
    looks = Looks(ClusterError("away"), None)

    def unheard(model, error):
        raise ClusterError("away")

    looks.loop.complain = unheard
    assert [looks.turn(), looks.turn()] == [1.0, None]


def test_no_two_threads_look_at_one_model_at_the_same_time():
    queue, seen, worst, lock = WorkQueue(), Counter(), Counter(), threading.Lock()

    def look(model):
        with lock:
            seen[model] += 1
            worst[model] = max(worst[model], seen[model])
        queue.add(model)
        time.sleep(0.002)
        with lock:
            seen[model] -= 1
            worst["all"] += 1
            if worst["all"] >= 40:
                queue.close()

    loop = Loop(look, lambda *_: None, queue, CollectorRegistry())
    threads = [threading.Thread(target=loop.work) for _ in range(4)]
    for name in ("a", "b"):
        queue.add(name)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert (worst["a"], worst["b"]) == (1, 1)


# -- the lease ---------------------------------------------------------------------------------------------------------


class Contender:
    """Somebody who wants the lease, with a way to the API server that can be cut, and a clock that is its own."""

    def __init__(self, cluster: FakeCluster, name: str, clock: Seconds, ahead: float = 0) -> None:
        self.lease = Lease(cluster.kubernetes(), "evergrow-operator", name, lambda: clock() + ahead)

    def try_it(self, cluster: FakeCluster, is_cut: bool = False) -> bool:
        cluster.is_away = is_cut
        try:
            return self.lease.attempt()
        except (ClusterError, ConflictError):
            return False
        finally:
            cluster.is_away = False


@pytest.fixture
def cluster():
    return FakeCluster()


def holder(cluster: FakeCluster) -> str | None:
    return cluster.get(LEASE, "evergrow-operator")["spec"]["holderIdentity"]


def test_the_first_gets_the_lease_and_keeps_it_as_long_as_it_renews(cluster, clock):
    a, b = Contender(cluster, "a", clock), Contender(cluster, "b", clock)
    for clock.now in range(0, 100, 2):
        assert (a.try_it(cluster), b.try_it(cluster)) == (True, False)
        assert (a.lease.is_held, b.lease.is_held) == (True, False)
    assert holder(cluster) == "a"


def test_one_that_cannot_renew_gives_up_before_another_takes_over(cluster, clock):
    a, b = Contender(cluster, "a", clock), Contender(cluster, "b", clock, ahead=12345)
    a.try_it(cluster)
    b.try_it(cluster)
    taken = None
    for clock.now in range(0, 20):
        a.try_it(cluster, is_cut=True)
        assert a.lease.is_held == (clock.now < DEADLINE)
        if b.try_it(cluster) and taken is None:
            taken = clock.now
        assert not (a.lease.is_held and b.lease.is_held)
    assert taken == DURATION
    assert cluster.get(LEASE, "evergrow-operator")["spec"]["leaseTransitions"] == 1
    assert not a.try_it(cluster)


def test_one_that_ends_in_order_lets_another_begin_at_once(cluster, clock):
    a, b = Contender(cluster, "a", clock), Contender(cluster, "b", clock)
    a.try_it(cluster)
    b.try_it(cluster)
    a.lease.release()
    assert not a.lease.is_held
    assert b.try_it(cluster)
    a.lease.release()
    assert holder(cluster) == "b"


def test_one_whose_lease_was_taken_knows_at_once(cluster, clock):
    a = Contender(cluster, "a", clock)
    a.try_it(cluster)
    found = cluster.get(LEASE, "evergrow-operator")
    cluster.put(LEASE, {**found, "spec": {**found["spec"], "holderIdentity": "z"}})
    assert not a.try_it(cluster)
    assert not a.lease.is_held


steps = st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.floats(0, 12)), max_size=60)


@given(steps, st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3))
def test_never_two_hold_the_lease_however_clocks_differ_and_networks_fail(steps, ahead):
    cluster, clock = FakeCluster(), Seconds()
    all_of_them = [Contender(cluster, str(i), clock, ahead[i]) for i in range(3)]
    for i, is_cut, seconds in steps:
        all_of_them[i].try_it(cluster, is_cut)
        assert sum(one.lease.is_held for one in all_of_them) <= 1
        clock.now += seconds
        assert sum(one.lease.is_held for one in all_of_them) <= 1


def test_whoever_waits_gets_the_lease_when_the_server_is_back_and_whoever_loses_it_is_told(cluster):
    clock, tried, lost = Seconds(), [], threading.Event()
    lease = Lease(cluster.kubernetes(), "evergrow-operator", "a", clock)
    keeper = Keeper(lease, lambda error: (tried.append(error), setattr(cluster, "is_away", len(tried) < 3)))
    cluster.is_away = True
    keeper.wait(seconds=0.001)
    assert [type(error) for error in tried] == [ClusterError, ClusterError, ClusterError, type(None)]
    cluster.is_away = True
    keeper.tried = lambda error: None
    keeper.keep(lost.set, seconds=0.004)
    clock.now += DEADLINE
    assert lost.wait(10)
    keeper.end()


# -- the worker process ------------------------------------------------------------------------------------------------


@pytest.fixture
def worker(clock):
    worker = Worker(idle=10, clock=clock)
    yield worker
    worker.stop()


def test_tasks_are_done_by_one_other_process_which_is_let_go_when_idle(worker, clock):
    first, answer = worker.run(double, 21)
    assert (first == worker.pid, first == os.getpid(), answer) == (True, False, 42)
    clock.now += 9
    worker.rest()
    assert worker.run(double, 1) == (first, 2)
    clock.now += 10
    worker.rest()
    assert worker.pid is None
    assert worker.run(double, 2)[1] == 4


def test_an_error_of_ours_comes_back_as_it_was_and_others_without_their_data(worker):
    with pytest.raises(ServingError, match="no bundle") as refused:
        worker.run(refuse, "no bundle")
    assert (refused.value.hint, refused.value.retriable) == ("mend it", True)
    with pytest.raises(ClusterError, match="stumble: KeyError;"):
        worker.run(stumble)
    assert worker.run(double, 1)[1] == 2


def test_a_worker_that_dies_fails_its_task_and_the_next_has_a_new_one(worker):
    with pytest.raises(ClusterError, match="die: the worker process died, exit code -9") as died:
        worker.run(die)
    assert died.value.retriable
    assert worker.run(double, 3)[1] == 6


def test_a_worker_that_is_stuck_is_ended(worker):
    worker.run(double, 1)
    stuck, worker.limit = worker.pid, 0.1
    with pytest.raises(ClusterError, match=r"sleep: the worker process took more than 0.1 s"):
        worker.run(sleep)
    assert worker.pid is None
    with pytest.raises(ProcessLookupError):
        os.kill(stuck, 0)


# -- what is watched ---------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(cluster):
    return CachedKubernetes(cluster.kubernetes(), watch.WATCHED)


def rollout(name: str = "r", model: str = "m", phase: str | None = None, **metadata) -> dict:
    body = {"metadata": {"name": name, **metadata}, "spec": {"model": model, "candidates": [2]}}
    return {**body, "status": {"phase": phase}} if phase else body


def kinds(kind):
    return next(one for one in watch.WATCHED if one.kind == kind)


def test_what_is_watched_is_read_without_a_request_and_all_else_by_one(cluster, cache):
    cluster.put(MODEL_ROLLOUT, rollout())
    cluster.put(POD, {"metadata": {"name": "p"}})
    cache.fill()
    del cluster.asked[:]
    assert cache.get(MODEL_ROLLOUT, "r")["spec"]["model"] == "m"
    assert [one["metadata"]["name"] for one in cache.search(MODEL_ROLLOUT, {MODEL: "m"})] == ["r"]
    assert cache.search(MODEL_ROLLOUT, {MODEL: "other"}) == []
    assert cache.get(MODEL_ROLLOUT, "none") is None
    assert cluster.asked == []
    assert cache.get(POD, "p")["metadata"]["name"] == "p"
    assert len(cache.search(POD)) == 1
    assert len(cluster.asked) == 2


def test_what_is_written_is_known_at_once_and_an_older_event_does_not_undo_it(cluster, cache):
    before = cluster.put(MODEL_ROLLOUT, rollout())
    cache.fill()
    cache.patch(MODEL_ROLLOUT, "r", {"metadata": {"annotations": {"evergrow.dev/order": "pause"}}})
    assert not cache.learn(MODEL_ROLLOUT, before)
    assert cache.get(MODEL_ROLLOUT, "r")["metadata"]["annotations"] == {"evergrow.dev/order": "pause"}


def test_what_a_watch_has_missed_is_known_after_the_next_fill(cluster, cache):
    cluster.put(MODEL_ROLLOUT, rollout("gone"))
    cluster.put(MODEL_ROLLOUT, rollout("stays"))
    cache.fill()
    cluster.lose(MODEL_ROLLOUT, "gone")
    cluster.put(MODEL_ROLLOUT, rollout("new"))
    cache.fill()
    assert sorted(one["metadata"]["name"] for one in cache.search(MODEL_ROLLOUT)) == ["new", "stays"]


def test_one_that_was_made_after_a_list_was_read_is_not_taken_for_gone(cluster, cache):
    listed = cache.listed
    made = []

    def slow(kind, labels=None):
        found = listed(kind, labels)
        if kind == MODEL_ROLLOUT and not made:
            made.append(cache.create(MODEL_ROLLOUT, rollout("fresh")))
        return found

    cache.listed = slow
    cache.fill()
    assert cache.get(MODEL_ROLLOUT, "fresh") is not None


def test_one_whose_last_finalizer_was_taken_away_here_is_gone_here(cluster, cache):
    cluster.put(MODEL_ROLLOUT, rollout(finalizers=["evergrow.dev/rollout"]))
    cluster.remove(MODEL_ROLLOUT, "r")
    cache.fill()
    cache.patch(MODEL_ROLLOUT, "r", {"metadata": {"finalizers": []}})
    assert cache.get(MODEL_ROLLOUT, "r") is None


def test_of_one_that_is_gone_nothing_is_known_after_it_could_not_be_changed(cluster, cache):
    cluster.put(MODEL_ROLLOUT, rollout())
    cache.fill()
    cluster.lose(MODEL_ROLLOUT, "r")
    assert cache.patch(MODEL_ROLLOUT, "r", {"metadata": {}}) is None
    assert cache.get(MODEL_ROLLOUT, "r") is None


def test_a_model_is_looked_at_when_something_matters_and_not_when_we_only_said_what_became_of_it(cluster, cache, queue):
    def hear(kind, found, happened="MODIFIED"):
        watch.heard(cache, queue, kinds(kind), {"type": happened, "object": found})
        return queue.take(wait=False), [queue.done(name) for name in list(queue._busy)]

    assert hear(MODEL_ROLLOUT, cluster.put(MODEL_ROLLOUT, rollout()))[0] == "m"
    assert hear(MODEL_ROLLOUT, cluster.put(MODEL_ROLLOUT, rollout(phase="Paused")))[0] is None
    ordered = rollout(phase="Paused", annotations={"evergrow.dev/order": "resume"})
    assert hear(MODEL_ROLLOUT, cluster.put(MODEL_ROLLOUT, ordered))[0] == "m"
    assert hear(MODEL_ROLLOUT, cluster.get(MODEL_ROLLOUT, "r"), "DELETED")[0] == "m"
    assert cache.get(MODEL_ROLLOUT, "r") is None
    assert hear(CONTINUAL_MODEL, cluster.put(CONTINUAL_MODEL, {"metadata": {"name": "n"}, "spec": {}}))[0] == "n"
    labels = {MODEL: "m", **MANAGED_BY}
    for replicas, looked in ((1, "m"), (1, None), (2, "m")):
        deployment = {"metadata": {"name": "d", "labels": labels}, "status": {"readyReplicas": replicas}}
        assert hear(DEPLOYMENT, cluster.put(DEPLOYMENT, deployment))[0] == looked
    for ready, looked in (("False", "m"), ("False", None), ("True", "m")):
        status = {"conditions": [{"type": "Ready", "status": ready}, {"type": "Other", "status": str(queue.depth)}]}
        service = {"metadata": {"name": "s", "labels": labels}, "spec": {}, "status": status}
        assert hear(INFERENCE_SERVICE, cluster.put(INFERENCE_SERVICE, service))[0] == looked
    assert watch.models(cache) == ["m", "n"]


def test_metrics_say_how_many_rollouts_are_in_which_phase_and_who_leads(cluster, cache, queue):
    for name, phase in (("a", "Promoted"), ("b", "Promoted"), ("c", None)):
        cluster.put(MODEL_ROLLOUT, rollout(name, phase=phase))
    cache.fill()
    queue.add("m")
    registry = CollectorRegistry()
    registry.register(health.State(queue, cache, lambda: True))
    text = generate_latest(registry).decode()
    assert 'evergrow_rollouts{phase="Promoted"} 2.0' in text
    assert 'evergrow_rollouts{phase="Pending"} 1.0' in text
    assert 'evergrow_rollout_paused{model="m"} 0.0' in text
    assert "evergrow_operator_leader 1.0" in text
    assert "evergrow_operator_queue_depth 1.0" in text

    cluster.put(MODEL_ROLLOUT, rollout("c", phase="Paused"))
    cache.fill()
    assert 'evergrow_rollout_paused{model="m"} 1.0' in generate_latest(registry).decode()


def test_metrics_say_how_many_trainings_in_a_row_have_brought_no_champion(cluster, cache, queue):
    status = {"phase": "Serving", "loop": {"fruitless": 4}}
    cluster.put(CONTINUAL_MODEL, {"metadata": {"name": "tired"}, "spec": {}, "status": status})
    cluster.put(CONTINUAL_MODEL, {"metadata": {"name": "fresh"}, "spec": {}})
    cache.fill()
    registry = CollectorRegistry()
    registry.register(health.State(queue, cache, lambda: True))
    text = generate_latest(registry).decode()
    assert 'evergrow_loop_fruitless{model="tired"} 4.0' in text
    assert 'evergrow_loop_fruitless{model="fresh"} 0.0' in text


def test_the_cache_is_what_adapters_take_for_a_cluster(cache):
    assert isinstance(cache, Kubernetes)
