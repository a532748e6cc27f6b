"""What is wrong, read off objects as a real cluster gave them; and nothing, where nothing is wrong."""

import copy
from datetime import UTC, datetime, timedelta

import pytest

from evergrow.errors import as_text
from evergrow.integrations.diagnosis import Problem, of_event, of_pod, of_service, problems
from evergrow.journal import FINAL
from tests.unit.integrations.fake_kubernetes import OBJECTS

PODS, EVENTS, SERVICES = OBJECTS["pods"], OBJECTS["events"], OBJECTS["services"]
NOW = datetime(2026, 11, 25, 10, 0, tzinfo=UTC)


def changed(found, *path, value):
    """An object with one value changed."""
    result = copy.deepcopy(found)
    *parents, last = path
    node = result
    for key in parents:
        node = node[key]
    node[last] = value
    return result


def only(found) -> Problem:
    (problem,) = found
    return problem


@pytest.mark.parametrize(
    ("pod", "what", "why", "fix"),
    [
        (
            "no-secret",
            "the Secret nowhere does not exist",
            'secret "nowhere" not found',
            "create secret generic nowhere",
        ),
        ("no-key", "the Secret evergrow-credentials has no key FEAST_REDIS", "couldn't find key", "patch secret"),
        ("no-config-map", "configuration is missing", 'configmap "evergrow-environment"', "helm upgrade"),
        ("no-image", "the image evergrow/steps-python:9.9.9 cannot be pulled", "ImagePullBackOff", "kind load"),
        ("never-pull", "is not on the node", "ErrImageNeverPull", "pullPolicy"),
        ("as-root", "would run as root", "runAsNonRoot", "USER"),
        ("too-big", "no node has enough cpu left", "Insufficient cpu", "add a node"),
        ("no-node", "no node has the labels", "node affinity/selector", "nodeSelector"),
        ("out-of-memory", "ran out of memory (limit 16Mi)", "OOMKilled, exit code 137", "stepOverrides.train"),
        ("too-long", "took longer than its timeout", "DeadlineExceeded", "raise timeout"),
        ("too-much-scratch", "more than its scratch space", 'volume "state" exceeds the limit', "training window"),
        (
            "crashing",
            "kserve-container failed",
            "ServingError: the golden request",
            "logs crashing -c kserve-container",
        ),
        ("no-bucket", "the object store has no such bucket", "NoSuchBucket", "create the bucket of data.store"),
        ("predictor-v3", "does not accept the credentials", "S3 authentication failed", "AWS_ACCESS_KEY_ID"),
    ],
)
def test_a_pod_that_does_not_run_is_told_with_what_why_and_what_to_do(pod, what, why, fix):
    problem = only(of_pod(PODS[pod]))
    assert what in problem.what
    assert why in problem.why
    assert fix in problem.fix


@pytest.mark.parametrize("pod", ["fine", "predictor-v2", "no-volume-secret"])
def test_a_pod_that_ran_that_runs_or_that_still_starts_has_no_problem_of_its_own(pod):
    assert list(of_pod(PODS[pod])) == []


def test_every_object_is_covered_by_a_test_above():
    named = {"fine", "predictor-v2", "no-volume-secret"}
    assert set(PODS) - named == {p for p in PODS if list(of_pod(PODS[p]))}


def test_it_is_told_of_which_step_and_which_version():
    assert only(of_pod(PODS["no-key"])).where == "step train of arrival-delay (pod no-key)"
    assert only(of_pod(PODS["crashing"])).where == "arrival-delay version 3 (crashing)"


@pytest.mark.parametrize(
    ("message", "what"),
    [
        ('rpc error: code = NotFound desc = failed to resolve reference "x:1": x:1: not found', "does not exist"),
        (
            "pull access denied, repository does not exist or may require authorization",
            "does not let this cluster pull",
        ),
        ("failed to do request: Head: dial tcp: i/o timeout", "cannot be pulled"),
    ],
)
def test_an_image_that_is_not_there_one_that_is_refused_and_one_out_of_reach_differ(message, what):
    pod = copy.deepcopy(PODS["no-image"])
    pod["status"]["containerStatuses"][0]["state"]["waiting"]["message"] = message
    assert what in only(of_pod(pod)).what


def test_a_taint_that_is_not_tolerated_is_named():
    pod = copy.deepcopy(PODS["no-node"])
    scheduled = next(c for c in pod["status"]["conditions"] if c["type"] == "PodScheduled")
    scheduled["message"] = "0/1 nodes are available: 1 node(s) had untolerated taint {gpu: true}."
    assert only(of_pod(pod)).what == "the nodes' taint keeps the pod off"


def test_a_server_that_ran_out_of_memory_needs_another_key_than_a_step():
    pod = changed(PODS["out-of-memory"], "metadata", "labels", value={"evergrow.dev/version": "3"})
    assert "execution.serving.resources.memoryLimit" in only(of_pod(pod)).fix


def test_a_container_that_came_back_is_no_problem_any_more():
    pod = copy.deepcopy(PODS["crashing"])
    pod["status"]["containerStatuses"][0]["state"] = {"running": {"startedAt": "2026-11-25T09:59:00Z"}}
    assert list(of_pod(pod)) == []


def test_a_steps_own_word_is_why_it_failed():
    pod = copy.deepcopy(PODS["out-of-memory"])
    ended = pod["status"]["containerStatuses"][0]["state"]["terminated"]
    said = as_text(
        "rows: must be at least 1, found 0", "look at it\nif the bucket does not exist, make it", "DataError"
    )
    ended |= {"reason": "Error", "exitCode": 1, "message": f"{FINAL}\n{said}"}
    problem = only(of_pod(pod))
    assert (problem.what, problem.why) == ("it failed", "DataError: rows: must be at least 1, found 0")
    assert problem.fix == "look at it if the bucket does not exist, make it"
    ended["message"] = "Traceback (most recent call last):\nValueError: first\n  in line 3\nKeyError: 'late'\nbye"
    assert only(of_pod(pod)).why == "KeyError: 'late'"
    assert "kubectl -n" in only(of_pod(pod)).fix


# -- events ------------------------------------------------------------------------------------------------------------


def quota(**changes):
    return {**EVENTS["FailedCreate Job/over-quota"], **changes}


def test_a_quota_that_is_used_up_is_told_with_its_numbers():
    problem = of_event(quota(), [], NOW)
    assert problem is not None
    assert problem.where == "Job over-quota"
    assert problem.what == (
        "the quota evergrow is used up: requests.cpu=20 more was asked for, "
        "requests.cpu=64014m of requests.cpu=66 is in use"
    )
    assert "execution.quota" in problem.fix


def test_a_service_account_that_is_missing_is_told():
    problem = of_event(EVENTS["FailedCreate Job/no-account"], [], NOW)
    assert problem is not None
    assert problem.what == "the service account evergrow-steps does not exist"


def test_an_event_that_is_over_and_one_that_is_none_of_ours_are_not_told():
    assert of_event(quota(), [], NOW + timedelta(hours=1)) is None
    assert of_event(quota(type="Normal"), [], NOW) is None
    assert (
        of_event(EVENTS["FailedGetResourceMetric HorizontalPodAutoscaler/arrival-delay-v2-predictor"], [], NOW) is None
    )


def test_a_job_that_got_its_pod_in_the_end_has_no_problem():
    pod = changed(PODS["fine"], "metadata", "ownerReferences", value=[{"kind": "Job", "name": "over-quota"}])
    later = changed(pod, "metadata", "creationTimestamp", value="2026-11-25T09:59:00Z")
    earlier = changed(pod, "metadata", "creationTimestamp", value="2026-11-25T09:00:00Z")
    other = changed(later, "metadata", "ownerReferences", value=[{"kind": "Job", "name": "another"}])
    assert of_event(quota(lastTimestamp="2026-11-25T09:58:00Z"), [later], NOW) is None
    assert of_event(quota(lastTimestamp="2026-11-25T09:58:00Z"), [earlier, other], NOW) is not None


def test_a_volume_that_cannot_be_mounted_is_told_while_the_pod_waits_for_it():
    event = EVENTS["FailedMount Pod/no-volume-secret"]
    waiting = PODS["no-volume-secret"]
    problem = of_event(event, [waiting], NOW)
    assert problem is not None
    assert problem.what == "the Secret nowhere does not exist"
    assert of_event(event, [changed(waiting, "status", "phase", value="Running")], NOW) is None


# -- InferenceServices -------------------------------------------------------------------------------------------------


def test_a_version_that_is_not_ready_is_told_with_the_cause_that_kserve_knows():
    refused, unknown = of_service(SERVICES["arrival-delay-v3"]), of_service(SERVICES["arrival-delay-v4"])
    assert refused is not None
    assert "does not accept the credentials" in refused.what
    assert unknown is not None
    assert unknown.what == "the ServingRuntime nowhere does not exist"


def test_a_version_that_is_ready_and_one_that_still_starts_have_no_problem():
    assert of_service(SERVICES["arrival-delay-v2"]) is None
    starting = copy.deepcopy(SERVICES["arrival-delay-v4"])
    del starting["status"]["modelStatus"]["lastFailureInfo"]
    assert of_service(starting) is None


# -- all of them -------------------------------------------------------------------------------------------------------


def test_an_environment_where_all_is_well_has_no_problems():
    pods, services = [PODS["fine"], PODS["predictor-v2"]], [SERVICES["arrival-delay-v2"]]
    noise = EVENTS["VirtualServiceCRDNotFound InferenceService/arrival-delay-v2"]
    assert problems(pods, [noise], services, NOW) == []


def test_a_cause_is_told_once():
    services = [SERVICES["arrival-delay-v3"]]
    both = problems([PODS["predictor-v3"]], [], services, NOW)
    assert [p.where for p in both] == ["arrival-delay version 3 (arrival-delay-v3-predictor-7d97689554-4pdnx)"]
    assert len(problems([], [], services, NOW)) == 1
    assert len(problems([PODS["too-big"]] * 2, [], [], NOW)) == 1


def test_a_step_that_is_tried_again_is_no_problem_and_what_failed_yesterday_is_history():
    failed = PODS["out-of-memory"]
    again = changed(PODS["fine"], "metadata", "creationTimestamp", value="2026-11-25T09:59:00Z")
    assert len(problems([failed], [], [], NOW)) == 1
    assert problems([failed, again], [], [], NOW) == []
    beside = changed(again, "metadata", "labels", "evergrow.dev/step", value="evaluate")
    assert len(problems([failed, beside], [], [], NOW)) == 1
    assert problems([failed], [], [], NOW + timedelta(days=1)) == []
    assert len(problems([PODS["no-secret"]], [], [], NOW + timedelta(days=1))) == 1
