"""The pages over HTTP: what is on them, what is refused, what metrics and events tell."""

import asyncio
import base64
import html
import json
import re
import socket
import threading
import time

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from components.watch.access import policy
from components.watch.app import application
from components.watch.fresh import Fresh
from components.watch.live import Live
from evergrow.errors import RegistryError
from evergrow.integrations.seen import LOOKS
from tests.unit.watch.builders import MODEL, World, busy, observation, promotion, version
from tests.unit.watch.running import pages_of, served


def client(world, **more):
    return TestClient(application(pages_of(world), **more), raise_server_exceptions=False)


def text(answer):
    """What a reader without scripts and styles reads."""
    body = re.sub(r"<(style|script)\b.*?</\1>", "", answer.text, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return busy(tmp_path_factory.mktemp("busy") / "home", days=30, columns=6)


@pytest.fixture
def small(tmp_path):
    built = World(tmp_path / "home", version(1, champion=True)).promote(promotion(1))
    return built.look(3, observation("wind", "nulls", alarm=True)).judge(2, observation(day=2))


# -- pages -------------------------------------------------------------------------------------------------------------


def test_the_first_page_has_a_line_for_each_model_with_what_everyone_asks_first(small):
    read = text(client(small).get("/"))
    assert "delays version 1 2024-03-01 nothing to do log_loss 0.42 [0.37, 0.47] 2024-03-02 0.41 103 2024-03-03" in read


def test_models_that_need_somebody_are_first(tmp_path):
    built = World(tmp_path / "home")
    for model, broken in (("aaa", False), ("zzz", True)):
        seen = observation("wind", "nulls", "fail" if broken else "pass", alarm=True, model=model)
        built.look(3, seen, model=model)
    page = client(built).get("/").text
    assert page.index("/models/zzz") < page.index("/models/aaa")


def test_an_empty_environment_says_what_to_do(tmp_path):
    answer = client(World(tmp_path / "home")).get("/")
    assert answer.status_code == 200
    assert "No model yet: evergrow run training" in text(answer)


def test_a_models_page_tells_its_whole_story(world):
    read = text(client(world).get(f"/models/{MODEL}"))
    for fact in (
        "serves version 3 since 2024-04-10 01:00 UTC",
        "log_loss on 2024-03-29 0.44",
        "on the holdout of version 2 0.41",
        "predictions on 2024-03-30 230",
        "labels that ever come 96 %",
        "Version 2 promoted by ada: in the place of version 1",
        "2024-03-21 01:00 UTC 2024-04-10 01:00 UTC version 2",
        "verdict of the gate: pass, against version 1",
        "by ada: log_loss 0.3975 vs 0.4180, difference +0.0205, n=40,112",
        "2024-03-31 00:00 UTC monitoring",
        "2024-03-01 00:00 UTC training",
        "3 errors pass 3 of 3,120 against 1.00%",
        "2024-04-09 00:00 UTC – delays-v3 version 3 canary Progressing v2 90 / v3 10 3,120 requests",
        "Rollout of version 3 by canary begun",
    ):
        assert fact in read, fact


def test_alarms_that_stand_are_told_with_their_reasons_and_since_when(tmp_path):
    broken = observation("wind", "nulls", "fail", alarm=True, reason="wind: 41.2% missing")
    built = World(tmp_path / "home").look(3).look(4, broken).look(5, broken, observation("x", "schema", alarm=True))
    read = text(client(built).get(f"/models/{MODEL}"))
    assert "1 of 2 checks of the newest look" in read
    assert "nulls wind version 1 ● fail wind: 41.2% missing".replace("● ", "") in read
    assert "So since 2024-03-05 00:00 UTC" in read


def test_worth_its_trend_and_what_it_costs_are_told(world):
    said = client(world).get(f"/models/{MODEL}").text

    for part in ("worth by day in EUR", "serving cost", "per 1,000 predictions", "CPU hours", "training"):
        assert part in said


def test_a_state_that_may_be_older_than_what_was_read_is_said_to_be(tmp_path):
    built = World(tmp_path / "home")
    for day in range(LOOKS + 2):
        built.look(day + 1, first=day)
    assert "So since at least 2024-03-04 00:00 UTC" in text(client(built).get(f"/models/{MODEL}"))


def test_drift_is_drawn_by_column_and_day_and_data_by_what_did_not_pass(tmp_path):
    built = World(tmp_path / "home", version(1))
    for day in range(4):
        built.judge(
            day,
            observation("wind", outcome="fail" if day == 2 else "pass", day=day, effect=0.1 * day),
            observation("rain", day=day, effect=0.01),
            observation("wind", "nulls", "fail" if day == 3 else "pass", day, True, float(day)),
            observation("all columns", "schema", day=day, alarm=True),
        )
    page = client(built).get(f"/models/{MODEL}").text
    assert re.findall(r'aria-label="(\w+[ \w]*) by day, last 2024-03-04: (\w+)', page) == [
        ("wind", "pass"),
        ("rain", "pass"),
        ("wind", "fail"),
    ]
    assert page.count('class="negative"') == 2
    assert page.count("2024-03-03: fail, 0.2 against 0.2") == 1
    assert "1 more checks passed every day" in page


@pytest.mark.parametrize("missing", ["versions", "promotions", "looks"])
def test_a_model_of_which_only_a_part_is_known_has_a_page(tmp_path, missing):
    built = World(tmp_path / "home", *([] if missing == "versions" else [version(1, champion=True)]))
    built.promote(*([] if missing == "promotions" else [promotion(1)]))
    if missing != "looks":
        built.look(1)
    answer = client(built).get(f"/models/{MODEL}")
    assert answer.status_code == 200
    assert ("was not looked at yet" in text(answer).lower()) == (missing == "looks")


def test_a_look_before_the_first_prediction_is_shown(tmp_path):
    built = World(tmp_path / "home").look(0)
    assert client(built).get(f"/models/{MODEL}").status_code == 200
    assert client(built).get("/").status_code == 200
    assert client(built).get("/metrics").status_code == 200


def test_what_cannot_be_read_is_told_in_words_and_the_rest_is_there(small):
    def silent(model=None):
        raise RegistryError("MLflow: no route to host")

    small.registry.versions = silent
    for path in ("/", f"/models/{MODEL}"):
        read = text(client(small).get(path))
        assert "Not all could be read" in read
        assert "registry: MLflow: no route to host" in read
        assert "version 1" in read
    assert metrics(client(small))["evergrow_watch_troubles"] == {(): 1.0}


def test_names_and_reasons_are_text_never_markup(tmp_path):
    evil = '"><script>alert(1)</script><img src=x onerror=alert(2)>'
    broken = observation(evil, "nulls", "fail", alarm=True, reason=evil)
    built = World(tmp_path / "home", version(1, verdict=evil, against=evil)).promote(promotion(reason=evil, actor=evil))
    built.look(3, broken, observation(evil, outcome="fail")).judge(2, observation(evil, outcome="fail", day=2), broken)
    (built.environment.home / "monitoring" / MODEL / "observations/2024-03-09.json").write_text(evil)
    for path in ("/", f"/models/{MODEL}", "/models/<script>alert(1)<script>"):
        page = client(built).get(path).text
        assert page.count("<script") == 1
        assert "<img" not in page
        assert 'data-digests="{&#34;' in page or 'data-digests="{}"' in page
    assert html.escape(evil, quote=False).replace('"', "&#34;") in client(built).get(f"/models/{MODEL}").text


def test_a_page_is_made_once_of_what_is_read_once_however_many_ask(small):
    asking = TestClient(application(pages_of(small, seconds=3600)))
    pages = [asking.get(f"/models/{MODEL}").text for _ in range(5)]
    assert len(set(pages)) == 1
    assert small.registry.reads == 1


# -- stored reports ----------------------------------------------------------------------------------------------------


def test_stored_reports_are_shown_and_nothing_in_them_may_run(world):
    for path, content in {
        "watch=2024-03-31T000000Z/report.html": "what was seen",
        "as_of=2024-03-01T000000Z/report.html": "how it was trained",
        "as_of=2024-03-01T000000Z/exploration.html": "the data",
        "version=2/report.html": "how it was judged",
        "version=2/card.html": "of version 2",
    }.items():
        answer = client(world).get(f"/reports/{MODEL}/{path}")
        assert (answer.status_code, content in answer.text) == (200, True), path
        assert "sandbox" in answer.headers["content-security-policy"]
        assert "script-src" not in answer.headers["content-security-policy"]


def test_every_link_of_a_page_leads_somewhere(world):
    asking = client(world)
    pages = {path: asking.get(path).text for path in ("/", f"/models/{MODEL}", "/models/bikes", "/models/none")}
    for path, page in pages.items():
        ids = set(re.findall(r'id="([^"]+)"', page))
        for link in set(re.findall(r'<a href="([^"]*)"', page)):
            target = html.unescape(link)
            assert target[1:] in ids if target.startswith("#") else asking.get(target or path).status_code in (200, 404)
            assert not target.startswith("/") or asking.get(target).status_code == 200, (path, target)


@pytest.mark.parametrize(
    "path",
    [
        "/reports/delays/../../audit/audit.jsonl",
        "/reports/delays/%2e%2e/%2e%2e%2faudit%2faudit.jsonl",
        "/reports/delays/..%2f..%2faudit/audit.jsonl",
        "/reports/delays/watch=2024-03-31T000000Z/..%2f..%2f..%2faudit%2faudit.jsonl",
        "/reports/delays/watch=2024-03-31T000000Z/watch.json",
        "/reports/delays/watch=2024-03-31T000000Z/%2fetc%2fpasswd",
        "/reports/..%2faudit/audit.jsonl/report.html",
        "/reports/bikes/as_of=2024-03-01T000000Z/report.html",
        "/reports/delays/version=99/report.html",
        "/reports/delays/version=2/report.json",
        "/reports/delays/version=99/card.html",
        "/reports/delays/version=2/card.md",
        "/reports/delays/version=02/report.html",
        "/reports/delays/version=2/..%2freport.html",
        "/models/delays/..",
        "/static/../app.py",
        "/favicon.ico",
    ],
)
def test_nothing_else_is_there_to_be_had(world, path):
    with served(world) as (url, _), socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as raw:
        # A client of its own would clean the path before it asks.
        raw.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: raw.recv(65536), b"")).decode()
    assert answer.startswith("HTTP/1.1 404")
    assert "previous" not in answer


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_nothing_can_be_changed(world, method):
    for path in ("/", f"/models/{MODEL}", "/events", "/metrics"):
        answer = client(world).request(method, path)
        assert (answer.status_code, set(answer.headers["allow"].split(", "))) == (405, {"GET", "HEAD"})


def test_head_is_get_without_a_body(world):
    for path in ("/", f"/models/{MODEL}", "/metrics", "/healthz", "/events"):
        answer = client(world).head(path)
        assert (answer.status_code, answer.content) == (200, b"")


# -- headers and access ------------------------------------------------------------------------------------------------


def test_every_answer_carries_the_headers_that_keep_it_to_itself(world):
    for path in (
        "/",
        f"/models/{MODEL}",
        "/nowhere",
        "/metrics",
        "/healthz",
        f"/reports/{MODEL}/version=2/report.html",
    ):
        headers = client(world).get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["content-security-policy"].startswith("default-src 'none'; frame-ancestors 'none'")
        assert not re.search(r"https?:|\*", headers["content-security-policy"])
        assert "set-cookie" not in headers
    assert client(world).post("/").headers["x-frame-options"] == "DENY"


def test_just_the_styles_and_the_script_of_the_page_are_allowed(world):
    answer = client(world).get(f"/models/{MODEL}")
    styles = re.findall(r"<style>(.*?)</style>", answer.text, re.DOTALL)
    scripts = re.findall(r"<script>(.*?)</script>", answer.text, re.DOTALL)
    assert answer.headers["content-security-policy"] == policy(styles, scripts)
    assert (len(styles), len(scripts)) == (2, 1)
    assert " style=" not in answer.text
    assert not re.search(r"https?://|url\(|@import", answer.text)


def basic(user, password):
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def test_with_a_token_all_but_the_health_is_closed(world):
    asking = client(world, token="s3cret")
    paths = ("/", f"/models/{MODEL}", "/events", "/metrics", "/nowhere", f"/reports/{MODEL}/version=2/report.html")
    for path in paths:
        answer = asking.get(path)
        assert (answer.status_code, answer.headers["www-authenticate"][:5]) == (401, "Basic")
        assert MODEL not in answer.text
    assert asking.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": "Bearer s3cret"}, 200),
        ({"Authorization": "bearer s3cret"}, 200),
        (basic("anyone", "s3cret"), 200),
        (basic("", "s3cret"), 200),
        ({"Authorization": "Bearer s3cre"}, 401),
        ({"Authorization": "Bearer s3cret2"}, 401),
        ({"Authorization": "Bearer "}, 401),
        ({"Authorization": "s3cret"}, 401),
        ({"Authorization": "Digest s3cret"}, 401),
        ({"Authorization": "Basic s3cret"}, 401),
        ({"Authorization": "Basic ///=="}, 401),
        (basic("s3cret", ""), 401),
        (basic("me", "S3CRET"), 401),
    ],
)
def test_the_token_is_taken_as_bearer_or_as_any_users_password(world, headers, status):
    assert client(world, token="s3cret").get("/metrics", headers=headers).status_code == status


def test_under_another_sites_name_nothing_is_served_from_this_machine(world):
    asking = client(world, hosts=("127.0.0.1", "localhost", "[::1]"))
    for host, status in {
        "localhost:8088": 200,
        "127.0.0.1": 200,
        "[::1]:8088": 200,
        "evil.example": 400,
        "": 400,
    }.items():
        assert asking.get("/", headers={"Host": host}).status_code == status


# -- metrics -----------------------------------------------------------------------------------------------------------


def metrics(asking):
    found = {}
    for family in text_string_to_metric_families(asking.get("/metrics").text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def labels(**values):
    return tuple(sorted(values.items()))


def test_metrics_tell_what_failed_what_passed_and_how_it_does(tmp_path):
    seen = [
        observation("wind", "nulls", "fail", alarm=True),
        observation("wind", "ranges", "pass", alarm=True),
        observation("rain", "nulls", "error", alarm=True),
        observation("snow", "nulls", "inconclusive", alarm=True),
        observation("wind", "feature-drift", "fail"),
    ]
    built = World(tmp_path / "home").look(3).look(5, *seen, versions=(1, 2))
    found = metrics(client(built))
    assert found["evergrow_observation_failed"] == {
        labels(model=MODEL, kind="nulls", subject="wind"): 1.0,
        labels(model=MODEL, kind="ranges", subject="wind"): 0.0,
        labels(model=MODEL, kind="nulls", subject="rain"): 1.0,
        labels(model=MODEL, kind="nulls", subject="snow"): 0.0,
    }
    assert found["evergrow_label_coverage"] == {labels(model=MODEL): 0.96}
    performance = found["evergrow_performance"]
    # The fifth is not matured yet: the fourth of March is the newest that is judged, 0.40 + 0.01 × (4 mod 5).
    assert performance[labels(model=MODEL, version="1", metric="log_loss", kind="realised")] == pytest.approx(0.44)
    assert performance[labels(model=MODEL, version="2", metric="roc_auc", kind="realised")] == pytest.approx(0.8)
    assert performance[labels(model=MODEL, version="2", metric="log_loss", kind="estimated")] == pytest.approx(0.42)
    assert len(performance) == 6
    path = built.environment.home / "reports" / MODEL / "watch=2024-03-06T000000Z/decision.json"
    written = found["evergrow_monitoring_last_success_timestamp_seconds"][labels(model=MODEL)]
    assert written == pytest.approx(path.stat().st_mtime, abs=1)


def test_a_failure_of_one_version_counts_whatever_the_others(tmp_path):
    mixed = [observation("wind", "nulls", outcome, alarm=True) for outcome in ("pass", "fail", "pass")]
    found = metrics(client(World(tmp_path / "home").look(3, *mixed)))
    assert found["evergrow_observation_failed"] == {labels(model=MODEL, kind="nulls", subject="wind"): 1.0}


def test_a_model_that_was_never_looked_at_has_no_metrics(tmp_path):
    found = metrics(client(World(tmp_path / "home", version(1))))
    assert found == {"evergrow_watch_troubles": {(): 0.0}}


# -- events ------------------------------------------------------------------------------------------------------------


def events(lines):
    """What the models' events say, one after the other."""
    for line in lines:
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


def test_a_listener_is_told_what_there_is_and_then_what_changes(small):
    with served(small) as (url, _), httpx.stream("GET", f"{url}/events", timeout=20) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        told = events(answer.iter_lines())
        first = next(told)
        assert first["model"] == MODEL
        assert f"&#34;{first['digest']}&#34;" in httpx.get(f"{url}/models/{MODEL}").text

        small.look(4, observation("wind", "nulls", "fail", 3, alarm=True))
        second = next(told)
        assert (second["model"], second["digest"] != first["digest"]) == (MODEL, True)

        small.look(4, model="bikes")
        assert next(told)["model"] == "bikes"


def test_silence_is_broken_by_a_sign_of_life(small):
    with served(small) as (url, pages):
        pages.live.heartbeat = 0.0
        with httpx.stream("GET", f"{url}/events", timeout=20) as answer:
            assert next(line for line in answer.iter_lines() if line.startswith(":")) == ": alive"


def test_listeners_are_bounded_and_who_leaves_makes_room(small):
    with served(small) as (url, pages):
        pages.live.most = 2
        with httpx.stream("GET", f"{url}/events", timeout=20), httpx.stream("GET", f"{url}/events", timeout=20):
            refused = httpx.get(f"{url}/events", timeout=20)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "30")
            assert httpx.get(f"{url}/healthz").status_code == 200
        wait_until(lambda: pages.live.listeners == 0)
        with httpx.stream("GET", f"{url}/events", timeout=20) as answer:
            assert answer.status_code == 200


def test_a_server_that_ends_does_not_wait_for_a_read_that_takes_its_time():
    """As the first one may, on a slow machine: uvicorn waits three seconds for listeners, and then complains."""
    ending = []

    async def never():
        await asyncio.sleep(3600)

    async def listened():
        changes = Live(never, lambda: bool(ending))._changes()
        assert await anext(changes) == "retry: 3000\n\n"
        asyncio.get_running_loop().call_later(0.1, ending.append, True)
        return [told async for told in changes]

    assert asyncio.run(asyncio.wait_for(listened(), 3)) == []


def wait_until(holds):
    for _ in range(200):
        if holds():
            return
        time.sleep(0.05)
    raise AssertionError("never came to hold")


def test_listeners_do_not_multiply_reads(small):
    with served(small, seconds=3600) as (url, _):
        for _ in range(3):
            with httpx.stream("GET", f"{url}/events", timeout=20) as answer:
                next(events(answer.iter_lines()))
        assert small.registry.reads == 1


# -- reading once ------------------------------------------------------------------------------------------------------


def test_a_value_is_read_again_when_it_is_old_and_not_before():
    now, reads = [0.0], []
    fresh = Fresh(lambda: reads.append(1) or len(reads), 3.0, lambda: now[0])
    assert [fresh.get(), fresh.get()] == [1, 1]
    now[0] = 2.9
    assert fresh.get() == 1
    now[0] = 3.0
    assert fresh.get() == 2


def test_who_asks_while_it_is_read_again_gets_what_there_was():
    now, started, go = [0.0], threading.Event(), threading.Event()
    values = iter([1, 2])

    def read():
        value = next(values)
        if value == 2:
            started.set()
            go.wait(10)
        return value

    fresh = Fresh(read, 1.0, lambda: now[0])
    assert fresh.get() == 1
    now[0] = 5.0
    slow = threading.Thread(target=fresh.get)
    slow.start()
    assert started.wait(10)
    assert fresh.get() == 1
    go.set()
    slow.join(10)
    assert fresh.get() == 2


def test_a_read_that_fails_is_tried_again_by_the_next_who_asks():
    answers = iter([RuntimeError("no"), 7])

    def read():
        if isinstance(found := next(answers), Exception):
            raise found
        return found

    fresh = Fresh(read, 1.0, lambda: 0.0)
    with pytest.raises(RuntimeError):
        fresh.get()
    assert fresh.get() == 7
