import asyncio
import json
import sys
import threading
from collections import Counter
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest
from aiohttp import web

from benchmarks import __main__ as harness
from benchmarks import figures, on_cluster_latency, on_cluster_rollout, on_cluster_steps
from benchmarks.measure import Result, Skipped
from benchmarks.on_cluster import PATH, Address, Installed, until
from benchmarks.on_cluster_latency import Latency
from benchmarks.on_cluster_load import Report, offer, under_load
from benchmarks.on_cluster_steps import Moments, Overhead, Watch, account, read
from evergrow.errors import ClusterError

ANSWER = {"predictions": [0.25]}


class Server:
    """Answers as it is told to by the number of the request, counts what reaches it, and may end it at a number."""

    def __init__(self, answer, last=None):
        self.answer, self.asked, self.hosts = answer, 0, Counter()
        self.last, self.stop = last, asyncio.Event()

    async def __call__(self, request):
        self.asked += 1
        if self.asked == self.last:
            self.stop.set()
        self.hosts[request.headers["host"]] += 1
        await request.read()
        return await self.answer(self.asked, request)


async def right(number, request):
    return web.json_response(ANSWER)


@asynccontextmanager
async def serving(server):
    app = web.Application()
    app.router.add_post(PATH, server)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, shutdown_timeout=0.1)
    await site.start()
    try:
        yield f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}{PATH}"
    finally:
        await runner.cleanup()


def sent_to(answer, requests=200, rate=400.0):
    """The report on at least so many requests to a server that answers so, and the server."""
    server = Server(answer, last=requests)

    async def session():
        async with serving(server) as url:
            return await offer(url, "delays.dev.example.com", b"{}", rate, server.stop)

    return asyncio.run(session()), server


def failing_every_hundredth(failure):
    async def answer(number, request):
        return await failure(request) if number % 100 == 0 else web.json_response(ANSWER)

    return answer


async def unavailable(request):
    return web.Response(status=503, text="no healthy upstream")


async def hang_up(request):
    request.transport.abort()
    return web.Response()


async def empty(request):
    return web.json_response({"predictions": []})


def test_a_server_that_answers_all_requests_rightly_has_no_failures():
    report, server = sent_to(right)
    assert report.sent == server.asked >= 200
    assert report.failed == 0
    assert report.outcomes == {"200": report.sent}
    assert len(report.latencies) == len(report.late) == report.sent
    assert report.seconds >= (report.sent - 1) / 400, "none is sent before it is due"
    assert set(server.hosts) == {"delays.dev.example.com"}


@pytest.mark.parametrize(
    ("failure", "outcome", "why"),
    [
        (unavailable, "503", "no healthy upstream"),
        (hang_up, "ServerDisconnectedError", "disconnected"),
        (empty, "200 without a prediction", "predictions"),
    ],
)
def test_a_server_that_fails_one_in_a_hundred_is_told_by_number_time_and_reason(failure, outcome, why):
    report, server = sent_to(failing_every_hundredth(failure), requests=250)
    expected = server.asked // 100
    assert expected >= 2
    assert report.failed == report.outcomes[outcome] == len(report.failures) == expected
    assert report.outcomes["200"] == report.sent - expected == len(report.latencies)
    assert all(outcome in text and why in text for _, text in report.failures)
    assert report.failures[0][0] == pytest.approx(99 / 400, abs=0.1)


def test_a_request_that_failed_is_not_sent_again():
    report, server = sent_to(failing_every_hundredth(hang_up), requests=250)
    assert report.sent == server.asked


def test_nobody_listening_is_counted_as_failures():
    async def session():
        stop = asyncio.Event()
        asyncio.get_running_loop().call_later(0.1, stop.set)
        return await offer("http://127.0.0.1:1/", "x", b"{}", 100.0, stop)

    report = asyncio.run(session())
    assert report.failed == report.sent > 0
    assert set(report.outcomes) == {"ClientConnectorError"}


def test_a_server_that_stalls_is_sent_no_fewer_requests_and_its_stall_counts_from_when_they_were_due():
    more = asyncio.Event()

    async def stall(number, request):
        if number == 250:  # would never come if answers were waited for
            more.set()
        if number >= 50:
            await more.wait()
        return web.json_response(ANSWER)

    report, _ = sent_to(stall, requests=300, rate=400.0)
    assert report.failed == 0
    assert max(report.latencies) >= 1000 * 199 / 400
    assert sum(latency >= 1000 * 99 / 400 for latency in report.latencies) >= 100


def test_a_rate_that_was_not_held_is_not_a_result():
    def results(sent):
        report = Report(200.0, seconds=10.0, outcomes={"200": sent}, latencies=[1.0] * sent, late=[0.1] * sent)
        return on_cluster_rollout._results(report, {})[0]

    assert results(2000).holds
    assert not results(1900).holds
    assert "190 requests/s" in results(1900).detail


def test_one_failure_is_too_many():
    report = Report(200.0, 10.0, {"200": 1999, "503": 1}, [(4.0, "503 reset")], [1.0] * 1999, [0.1] * 2000)
    failed, latency = on_cluster_rollout._results(report, {"chart upgraded": 12.0})
    assert (failed.value, failed.holds) == (1, False)
    assert "chart upgraded in 12 s; the first was due at 4.0 s: 503 reset" in failed.detail
    assert latency.value == 1.0


def test_load_comes_from_a_process_of_its_own_until_the_body_ends():
    started, stop, asked = threading.Event(), threading.Event(), []
    server = Server(right)

    def serve():
        async def session():
            async with serving(server) as url:
                asked.append(url)
                started.set()
                await asyncio.to_thread(stop.wait)

        asyncio.run(session())

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        assert started.wait(10)
        with under_load(asked[0], "x", b"{}", 100.0) as report:
            until(lambda: server.asked >= 20, "nothing is sent", pause=0.02)
        assert report.sent == server.asked >= 20
        assert report.failed == 0
    finally:
        stop.set()
        thread.join(10)


def test_a_connection_is_asked_as_often_as_was_said_and_an_error_ends_it():
    server, told = Server(right), []

    async def session(connections, requests):
        async with serving(server) as url:
            address = Address("127.0.0.1", urlsplit(url).port, "x")
            told.append(await asyncio.to_thread(on_cluster_latency.latencies, address, connections, requests))

    asyncio.run(session(1, 50))
    asyncio.run(session(8, 80))
    assert len(told[0]) == 50
    assert 80 <= len(told[1]) < 88
    assert all(seconds > 0 for each in told for seconds in each)
    server.answer = failing_every_hundredth(unavailable)
    server.asked = 0
    with pytest.raises(RuntimeError, match="503"):
        asyncio.run(session(1, 150))


def test_what_an_arm_adds_is_the_median_of_the_rounds_differences():
    def arm(*p50):
        return [Latency(value, 2 * value) for value in p50]

    samples = {"bare": arm(1, 10, 2), "gateway": arm(1.5, 10.4, 9)}
    assert on_cluster_latency.added(samples, "gateway", "bare", "p50") == pytest.approx(0.5)
    assert on_cluster_latency.added(samples, "gateway", "bare", "p99") == pytest.approx(1.0)


def test_latency_of_a_hundred_requests_is_their_middle_and_their_largest():
    assert Latency.of([0.001] * 99 + [0.5]) == Latency(1.0, 500.0)


def test_only_one_connection_is_held_to_its_reach():
    samples = {"bare": [Latency(1, 1)], "pod": [Latency(2, 3)], "gateway": [Latency(2.5, 5)]}
    one, many = on_cluster_latency._results(samples, 1, 1), on_cluster_latency._results(samples, 8, 2)
    assert [(r.value, r.holds) for r in one] == [(1.5, False), (4.0, False)]
    assert [(r.reach, r.holds) for r in many] == [("stated", True)] * 2
    assert "+1 for pod and its network, +0.5 for the gateway" in one[0].detail
    assert "1 pod behind the gateway" in one[0].detail
    assert "2 pods behind the gateway" in many[0].detail


LOG = """reading
[KFP Executor 2026-11-25 10:30:44,144 INFO]: Looking for component
::evergrow:: {"step": "train", "process": 1, "at": 1795602645.5, "what": "started"}
::evergrow:: {"step": "train", "process": 1, "at": 1795602656.0, "what": "ended", "text": "x"}
[KFP Executor 2026-11-25 10:30:57,001 INFO]: Wrote executor output file
"""


def test_a_pods_log_tells_when_its_executor_spoke_and_its_function_ran():
    moments = read("train", LOG, created=1795602641.0, seen_ended=1795602658.0)
    assert moments == Moments("train", 1795602641.0, 1795602644.144, 1795602645.5, 1795602656.0, 1795602658.0)
    with pytest.raises(RuntimeError, match="train"):
        read("train", "nothing", 0.0, 0.0)


def test_all_time_of_a_run_is_computing_or_somebodys_overhead():
    moments = [Moments("ingest", 13, 15, 16, 20, 21), Moments("train", 22, 24, 27, 40, 42)]
    run = account(10.0, moments, serving=5.0)
    assert run.driver == 3
    assert run.steps == {"ingest": Overhead(0, 2, 1, 1), "train": Overhead(1, 2, 3, 0)}
    assert run.computing == 17
    assert run.total == 30
    assert run.overhead == 18
    assert run.driver + sum(step.total for step in run.steps.values()) == run.total - run.computing


def test_the_step_with_most_overhead_is_held_to_the_reach():
    moments = [Moments("ingest", 13, 15, 16, 20, 21), Moments("train", 22, 33, 38, 40, 42)]
    worst, total = on_cluster_steps._results([account(10.0, moments, 0.0)])
    assert (worst.value, worst.holds) == (17, False)
    assert "the driver 3.0, ingest 4.0, train 17.0" in worst.detail
    assert total.value == 24
    assert "until the end of train: the gate did not pass" in total.detail


def test_the_drivers_start_is_held_to_the_reach_as_a_step_is():
    moments = [Moments("register", 30, 31, 32, 33, 34), Moments("deploy", 35, 36, 37, 50, 52)]
    worst, total = on_cluster_steps._results([account(10.0, moments, serving=8.0)])
    assert (worst.value, worst.holds) == (20, False)
    assert "until the route" in total.detail
    assert total.value == 20 + 3 + 3 + 8


def test_a_pod_is_seen_when_it_first_is_so():
    def pod(phase):
        return {"metadata": {"name": "train-1"}, "status": {"phase": phase}}

    watch = Watch(None, "")
    for now, phase in enumerate(("Pending", "Running", "Succeeded", "Succeeded"), start=1):
        watch.see(pod(phase), float(now))
    assert (watch.created, watch.ended, watch.failed) == ({"train-1": 1.0}, {"train-1": 3.0}, set())
    watch.see({"metadata": {"name": "train-2"}, "status": {"phase": "Failed"}}, 5.0)
    assert watch.failed == {"train-2"}


def test_a_pod_that_starts_or_is_being_stopped_is_not_asked():
    def pod(name, ready, **more):
        status = {"podIP": name, "conditions": [{"type": "Ready", "status": ready}]}
        return {"metadata": {"name": name, **more}, "status": status}

    class Pods:
        def search(self, kind, labels):
            starting = {"metadata": {"name": "starting"}, "status": {"phase": "Pending"}}
            return [
                starting,
                pod("unready", "False"),
                pod("stopping", "True", deletionTimestamp="x"),
                pod("up", "True"),
            ]

    assert Installed(None, Pods(), "a-v1").pod == Address("up", 8080)


def test_without_a_cluster_it_is_skipped_with_the_reason(monkeypatch):
    monkeypatch.delenv("KUBECONFIG", raising=False)
    with pytest.raises(Skipped, match="KUBECONFIG names no cluster"):
        Installed.find()


def test_an_environment_that_is_not_installed_is_a_reason_too(monkeypatch):
    def missing(*arguments):
        raise ClusterError("no environment is installed there")

    monkeypatch.setenv("KUBECONFIG", "x")
    monkeypatch.setattr("benchmarks.on_cluster.Kubernetes.open", lambda *a, **k: None)
    monkeypatch.setattr("benchmarks.on_cluster.read_environment", missing)
    with pytest.raises(Skipped, match="no environment is installed there"):
        Installed.find()


def test_what_is_skipped_keeps_what_was_measured_before(monkeypatch, tmp_path, capsys):
    class Skipping:
        @staticmethod
        def run():
            raise Skipped("no cluster")

    kept = harness.record("on_cluster_steps", [Result("a", 1, "s", "≤ 2", True)], [])
    results, pages = tmp_path / "results.json", (tmp_path / "README.md", tmp_path / "figures.md")
    results.write_text(json.dumps(kept))
    monkeypatch.setattr(harness, "RESULTS", results)
    for name, page in zip(("README", "PAGE"), pages, strict=True):
        page.write_text("<!-- figures --><!-- /figures -->")
        monkeypatch.setattr(figures, name, page)
    monkeypatch.setattr(harness.importlib, "import_module", lambda name: Skipping)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--only", "on_cluster_steps"])
    assert harness.main() == 0
    assert json.loads(results.read_text()) == kept
    assert "skipped on_cluster_steps: no cluster" in capsys.readouterr().err


def test_all_three_are_registered():
    assert {"on_cluster_latency", "on_cluster_rollout", "on_cluster_steps"} <= set(harness.modules())
    assert "on_cluster" not in harness.modules()
