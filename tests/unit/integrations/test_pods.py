"""Steps in pods: what was lost is tried again, what failed is not, and what is said is passed on."""

import json
from collections.abc import Iterator

import pytest
from obstore.store import MemoryStore

from evergrow.errors import ClusterError, DataError, PipelineError, RegistryError, StoreError
from evergrow.integrations import pod_step, pods
from evergrow.integrations.kubernetes import POD
from evergrow.integrations.object_store import ObjectStore
from evergrow.integrations.pod_step import ROOT
from evergrow.integrations.pods import Driver, PodRunner, ending
from evergrow.journal import MARK, Event, Journal, failure
from evergrow.spec.environment import EnvironmentSpec
from tests.unit.integrations.kubernetes_twin import KubernetesTwin, fails, succeeds, vanishes, waits

PLACE = EnvironmentSpec.model_validate(
    {
        "name": "dev",
        "execution": {
            "namespace": "evergrow-dev",
            "pipelines": {
                "runner": "pods",
                "steps": {"retries": 2, "backOff": "1s"},
                "stepOverrides": {"train": {"retries": 1, "resources": {"memoryLimit": "8Gi"}, "timeout": "3h"}},
            },
        },
        "data": {"store": "s3://evergrow-dev/state", "mlflow": "http://mlflow:5000"},
    }
)


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Seconds pass when somebody sleeps, and only then."""

    class Clock:
        now = 0.0
        slept: list[float] = []

        @classmethod
        def sleep(cls, seconds: float) -> None:
            cls.now += seconds
            cls.slept.append(seconds)

    Clock.slept = []
    monkeypatch.setattr(pods.time, "sleep", Clock.sleep)
    monkeypatch.setattr(pods.time, "monotonic", lambda: Clock.now)
    return Clock


def command(root: str, step: str = "train") -> list[str]:
    told = {"inputs": {}, "outputs": {"outputFile": f"{root}/training-1/{step}/executor_output.json"}}
    return ["sh", "-c", "...", "--executor_input", json.dumps(told), "--function_to_execute", step]


@pytest.fixture
def run(tmp_path):
    """Run one step on a twin whose pods follow the scripts in turn; returns whether it went well, and the runner."""

    def run(*lives: Iterator, step: str = "train", driver: Driver | None = None) -> tuple[bool, PodRunner]:
        turn = iter(lives)
        store = ObjectStore(MemoryStore(), "memory:///state")
        output = f"runs/training-1/training-1/{step}/executor_output.json"
        store.write(output, f'{{"artifacts": "{ROOT}/training-1/{step}/model"}}'.encode())
        runner = PodRunner(
            PLACE,
            KubernetesTwin(lambda _: next(turn, succeeds())),
            store,
            tmp_path,
            "training-1",
            "delays",
            driver=driver,
        )
        return runner.carry_out("steps:1", command(f"{tmp_path}/artifacts", step), f"{tmp_path}/artifacts"), runner

    return run


def said(*events: Event) -> str:
    return "".join(f"{MARK}{event.model_dump_json()}\n" for event in events)


def failed(error: str, text: str, hint: str = "", retriable: bool = False) -> str:
    told = {"error": error, "text": text, "hint": hint, "retriable": retriable}
    return said(Event(step="train", process=7, at=1.0, what="failed", **told))


def events(runner: PodRunner) -> list[Event]:
    return list(Journal(runner.folder).read())


def test_a_step_that_ends_well_leaves_its_output_where_kfp_looks_for_it(run, tmp_path):
    ok, _ = run(succeeds())
    assert ok
    output = tmp_path / "artifacts/training-1/train/executor_output.json"
    assert json.loads(output.read_text())["artifacts"] == f"{tmp_path}/artifacts/training-1/train/model"


def test_a_store_that_does_not_give_what_a_step_kept_is_told_as_the_steps_failure(run, monkeypatch):
    def refuses(self, name):
        raise StoreError(f"reading {name}: the store does not answer", hint="is it up?")

    monkeypatch.setattr(ObjectStore, "read", refuses)
    ok, runner = run(succeeds(said(Event(step="train", process=7, at=1.0, what="started"))))
    last = events(runner)[-1]
    assert (ok, last.what, last.error, last.hint) == (False, "failed", "StoreError", "is it up?")
    assert len(runner.kubernetes.made) == 1, "the step has done its work: another pod would do it twice"


def test_the_pod_is_told_paths_of_its_own(run, tmp_path):
    _, runner = run(succeeds())
    ((_, made),) = runner.kubernetes.made
    (container,) = made["spec"]["containers"]
    assert container["command"][:5] == ["python", "-m", "evergrow.integrations.pod_step", "runs/training-1", "--"]
    told = " ".join(container["command"])
    assert f"{ROOT}/training-1/train/executor_output.json" in told
    assert str(tmp_path) not in told


def test_what_a_step_says_is_in_the_journal_once_and_in_order(run):
    first = Event(step="train", process=7, at=1.0, what="started")
    last = Event(step="train", process=7, at=2.0, what="ended", text="abc")

    def speaks():
        yield {"phase": "Running"}, said(first)
        yield {"phase": "Running"}, said(first) + MARK + '{"step": "tr'
        yield {"phase": "Succeeded"}, said(first, last)

    _, runner = run(speaks())
    assert [(e.what, e.text) for e in events(runner)] == [("started", ""), ("ended", "abc")]


def test_pods_of_one_step_side_by_side_are_told_apart(run):
    log = said(Event(step="score", process=7, at=1.0, what="started"))
    _, runner = run(succeeds(log), step="score")
    runner.kubernetes._script = lambda _: succeeds(log)
    runner.carry_out("steps:1", command("/x", "score"), "/x")
    assert len({event.process for event in events(runner)}) == 2


@pytest.mark.parametrize(
    "lost",
    [
        vanishes,
        lambda: fails(code=137, reason="Evicted", message="The node was low on resource: memory."),
        lambda: fails(code=143),
        lambda: fails("StoreError: writing s3://x: the store does not answer", code=pod_step.TEMPORARY),
        lambda: fails(failed("RegistryError", "MLflow: the server does not answer", retriable=True)),
        lambda: fails(failed("StoreError", "reading s3://x: connection refused", retriable=True)),
    ],
)
def test_a_step_that_was_lost_or_met_a_silent_service_is_tried_again(run, clock, lost):
    ok, runner = run(lost(), succeeds())
    assert ok
    assert len(runner.kubernetes.made) == 2
    assert 1.0 in clock.slept
    assert failure(events(runner)) is None
    assert any("trying again" in event.text for event in events(runner))


def test_the_wait_between_tries_doubles(run, clock):
    run(vanishes(), vanishes(), vanishes(), step="ingest")
    assert [s for s in clock.slept if s >= 1] == [1.0, 2.0]


@pytest.mark.parametrize(
    ("life", "error", "text"),
    [
        (lambda: fails(failed("DataError", "table 'x' is empty")), DataError, "table 'x' is empty"),
        (lambda: fails(failed("RegistryError", "it did not pass")), RegistryError, "it did not pass"),
        (lambda: fails(code=137, container="OOMKilled"), PipelineError, "ran out of memory"),
        (lambda: fails("StoreError: no such bucket", code=8), PipelineError, "exit code 8: StoreError: no such bucket"),
        (lambda: fails(reason="DeadlineExceeded", code=137), PipelineError, "longer than its timeout"),
        (
            lambda: fails("Traceback ...\nModuleNotFoundError: No module named 'x'"),
            PipelineError,
            "No module named 'x'",
        ),
    ],
)
def test_a_step_that_would_fail_again_is_not_tried_again(run, life, error, text):
    ok, runner = run(life(), succeeds())
    assert not ok
    assert len(runner.kubernetes.made) == 1
    raised = failure(events(runner))
    assert type(raised) is error
    assert text in str(raised)


def test_no_more_than_its_retries_are_made_and_the_last_error_is_told(run):
    ok, runner = run(*(fails(failed("RegistryError", f"try {n}", "start it", retriable=True)) for n in range(9)))
    assert not ok
    assert len(runner.kubernetes.made) == 2
    raised = failure(events(runner))
    assert (type(raised), str(raised), raised.hint) == (RegistryError, "step train: try 1", "start it")


@pytest.mark.parametrize("reason", ["ImagePullBackOff", "CreateContainerConfigError"])
def test_a_pod_that_cannot_start_is_given_up_after_a_while_and_says_why(run, clock, reason):
    ok, runner = run(waits(reason, 'secret "evergrow-credentials" not found'))
    assert not ok
    assert pods.START_SECONDS <= clock.now < pods.START_SECONDS + 10
    assert f'{reason} secret "evergrow-credentials" not found' in str(failure(events(runner)))
    assert runner.kubernetes.names(POD) == []


def test_a_pod_that_is_late_is_waited_for(run, clock):
    def late():
        for _ in range(100):
            yield {"phase": "Pending"}, ""
        yield from succeeds()

    ok, _ = run(late())
    assert ok


def test_a_pod_that_never_ends_is_given_up_after_its_timeout(run, clock):
    def hangs():
        while True:
            yield {"phase": "Running"}, ""

    pods_of_it, clock.now = hangs(), 0.0
    ok, runner = run(pods_of_it)
    assert not ok
    assert clock.now >= 3 * 3600
    assert "has not ended after 3:00:00" in str(failure(events(runner)))


def test_a_used_up_quota_is_no_reason_to_try_again_and_another_refusal_is(tmp_path, run):
    for text, pods_made in (("exceeded quota: evergrow", 0), ("the server is shutting down", 1)):
        twin = KubernetesTwin(lambda _: succeeds())
        twin.refusals = [ClusterError(text)]
        store = ObjectStore(MemoryStore(), "memory:///s")
        runner = PodRunner(PLACE, twin, store, tmp_path, "training-1", "delays")
        runner.carry_out("i:1", command("/x"), "/x")
        assert len(twin.made) == pods_made


def test_a_step_runs_as_the_environment_says(run):
    _, runner = run(succeeds())
    ((_, made),) = runner.kubernetes.made
    spec, (container,) = made["spec"], made["spec"]["containers"]
    assert spec["activeDeadlineSeconds"] == 3 * 3600
    assert container["resources"]["limits"]["memory"] == "8Gi"
    assert container["resources"]["requests"]["memory"] == "512Mi"
    assert spec["serviceAccountName"] == "evergrow-steps"
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert {"secretRef": {"name": "evergrow-credentials"}} in container["envFrom"]
    assert made["metadata"]["labels"]["evergrow.dev/step"] == "train"


def test_pods_belong_to_their_driver_and_what_a_lost_driver_left_is_cleared_away(run):
    driver = Driver("driver-2", "uid-of-driver", "training-delays-1a2b3c4d-1")
    _, runner = run(succeeds(), driver=driver)
    ((_, made),) = runner.kubernetes.made
    assert made["metadata"]["ownerReferences"][0]["uid"] == "uid-of-driver"
    runner.kubernetes.create(POD, {"metadata": {"name": "other", "labels": {"evergrow.dev/job": "another"}}})
    runner.clear()
    assert runner.kubernetes.names(POD) == ["other"]


def test_a_stopped_run_removes_the_pods_it_waits_for_and_no_other(run):
    _, runner = run(succeeds())
    runner.kubernetes.create(POD, {"metadata": {"name": "running"}})
    runner.running.add("running")
    runner.stop()
    assert ("Pod", "running") in runner.kubernetes.deleted
    assert len(runner.kubernetes.names(POD)) == 1


def test_an_ending_without_a_word_says_the_last_line_of_the_log():
    status = {"containerStatuses": [{"state": {"terminated": {"exitCode": 2, "message": "usage: ...\nbad option"}}}]}
    ended = ending("train", {"status": status}, [])
    assert str(ended.error) == "step train: exit code 2: bad option"
    assert not ended.lost
