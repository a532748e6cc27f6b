"""Nothing personal and nothing secret is logged: both are planted wherever they could come from, and looked for."""

import http.server
import json
import math
import os
import re
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import contextmanager
from urllib.parse import quote

import grpc
import pytest

from benchmarks.serving_world import feature_store, free_port, row, server, serving_directory
from evergrow import logs
from evergrow.integrations.feast_online import plan
from evergrow.journal import FOLDER, STDOUT
from tests.builders import document
from tests.unit.prediction_log.conftest import append, record
from tests.unit.prediction_log.conftest import writer as writer
from tests.unit.server.test_server import EXPLAIN, INFER, PREDICT, infer_over_grpc, v2

PLANTED = {
    "entity key": "N-planted-entity-77",
    "numeric key": 770077007,
    "feature": 98765.4321,
    "stored feature": "planted-stored",
    "field": "planted_field",
    "hash key": "planted-hash-key-0001",
    "access key": "AKIAPLANTED000000001",
    "secret key": "planted/secret+key==0002",
    "token": "planted.bearer.token.0003",
    "cookie": "planted-cookie-0004",
    "password": "planted-pa55word-0005",
}
"""Each a value that occurs nowhere else, by what it stands for."""
SECRETS = {
    "EVERGROW_HASH_KEY": PLANTED["hash key"],
    "AWS_ACCESS_KEY_ID": PLANTED["access key"],
    "AWS_SECRET_ACCESS_KEY": PLANTED["secret key"],
}
HEADERS = {"authorization": f"Bearer {PLANTED['token']}", "cookie": f"session={PLANTED['cookie']}"}


def found_in(text: str) -> list[str]:
    """What of PLANTED a text holds, as itself or as bytes, JSON, URLs and Python's literals write it."""
    return [what for what, value in PLANTED.items() if any(form in text for form in forms(str(value)))]


def forms(value: str) -> set[str]:
    return {value, quote(value, safe=""), json.dumps(value)[1:-1], repr(value)[1:-1], value.encode().hex()}


def lines(text: str) -> list[dict]:
    """Lines of JSON; fails with the first that is none."""
    return [json.loads(line) for line in text.splitlines()]


# -- the search itself -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", PLANTED)
def test_a_planted_leak_is_found(what):
    assert found_in(f"ValueError: could not convert {PLANTED[what]!r}") == [what]
    assert found_in(json.dumps({"x": [str(PLANTED[what])]})) == [what]
    assert found_in(f"GET /?x={quote(str(PLANTED[what]), safe='')}") == [what]
    assert found_in("served delays version 3, 0 of 12 rows") == []


def test_a_server_that_logged_as_python_does_would_be_found_out(features, tmp_path):
    """The same faults, told by what the standard library makes of them."""
    spoiled = spoil(tmp_path, features)
    code = "import logging, sys; logging.basicConfig(level='DEBUG'); sys.argv[0] = 'x'\n"
    code += "from evergrow import logs; logs.configure = lambda *_, **__: None\n"
    code += "from components.server.__main__ import main; sys.exit(main(sys.argv[1:]))"
    with server(spoiled) as running:
        arguments = running.process.args[3:]
    port = free_port()
    arguments[arguments.index("--http-port") + 1] = str(port)
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=log, stderr=log)
    try:
        naive = running.__class__(process, port, running.grpc, tmp_path / "log")
        naive.wait_until_ready()
        assert naive.post(PREDICT, {"instances": [row()]})[0] == 500
    finally:
        process.kill()
        process.wait()
    assert found_in((tmp_path / "log").read_text()) == ["stored feature"]


# -- the server --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    folder = tmp_path_factory.mktemp("features")
    return plan(feature_store(folder / "repo", {"type": "sqlite", "path": str(folder / "online.db")}), "flights_v1")


def spoil(folder, features):
    """A serving directory whose online store has a value that cannot be read: a fault whose message quotes it."""
    path = folder / "spoiled.db"
    with sqlite3.connect(features["store"]["path"]) as good, sqlite3.connect(path) as bad:
        good.backup(bad)
        (table,) = (view["table"] for g in features["groups"] for view in g["views"] if view["name"] == "weather")
        bad.execute(f'update "{table}" set value = ?', [b"\xff" + str(PLANTED["stored feature"]).encode()])
    return serving_directory(folder / "serving", features | {"store": features["store"] | {"path": str(path)}})


def planted(**changes):
    """A row of personal data."""
    known = {"tailnum": PLANTED["entity key"], "carrier": PLANTED["numeric key"], "distance": PLANTED["feature"]}
    return row(**known | changes)


def ask_everything(running) -> set[int]:
    """Good, bad and hopeless requests, each with planted data; the statuses of the answers."""
    good, bad = planted(), [
        planted(distance=PLANTED["entity key"]),
        planted(departs=PLANTED["entity key"]),
        planted(**{PLANTED["field"]: PLANTED["feature"]}),
        {"tailnum": PLANTED["entity key"]},
    ]  # fmt: skip
    bodies = [(path, {"instances": [each]}) for path in (PREDICT, EXPLAIN) for each in (good, *bad)]
    bodies += [(INFER, v2([each], id="named")) for each in (good, *bad[:2])]
    bodies += [(PREDICT, {PLANTED["field"]: [good]}), (f"/v1/models/{PLANTED['field']}:predict", {})]
    bodies += [(f"/v2/models/delays/versions/{PLANTED['field']}/infer", {})]
    statuses = {running.post(path, body, x_request_id="r-1", **HEADERS)[0] for path, body in bodies}
    raw = [b'{"instances": [{"tailnum": "%b"' % PLANTED["entity key"].encode(), str(PLANTED["feature"]).encode()]
    for body in raw:
        statuses.add(running.ask("POST", PREDICT, body, content_type="application/json", **HEADERS)[0])
        statuses.add(running.ask("POST", PREDICT, body, content_type=PLANTED["field"], **HEADERS)[0])
    statuses.add(running.ask("GET", f"/{PLANTED['field']}?x={PLANTED['entity key']}", **HEADERS)[0])
    time.sleep(1.1)  # of the many refused above, only some are told
    for each in (good, planted(distance=math.nan), bad[1]):
        try:
            infer_over_grpc(running, v2([each], id="named"))
        except grpc.RpcError:
            statuses.add(0)
    return statuses


@pytest.mark.parametrize(("form", "level"), [("json", "DEBUG"), ("text", "INFO")])
def test_a_server_logs_nothing_of_requests_but_that_and_why_they_were_refused(features, tmp_path, form, level):
    env = SECRETS | {logs.FORMAT: form, logs.LEVEL: level}
    log = {"hashed": ["tailnum"]}
    directory = serving_directory(tmp_path / "serving", features, log=log)
    with server(directory, "--log-dir", str(tmp_path / "log"), "--drain-seconds", "0.1", env=env) as running:
        assert ask_everything(running) >= {200, 400, 404, 415, 0}
        running.process.terminate()
        running.process.wait(30)
        text = running.log.read_text()
    assert found_in(text) == []
    assert "refused v1: 400 value: distance" in text
    assert "refused v1: 400 required: " in text
    assert "refused grpc: 400 value: distance" in text
    assert "r-1" in text
    if form == "json":
        told = lines(text)
        assert {(line["model"], line["version"]) for line in told if line["message"].startswith("refused")} == {
            ("delays", "3")
        }
        assert {line.get("request_id") for line in told if "refused v1" in line["message"]} >= {"r-1"}
        assert {line["request_id"] for line in told if "refused grpc" in line["message"]} == {"named"}


def test_a_fault_of_the_servers_is_logged_with_where_it_was_and_not_with_what_it_was_about(features, tmp_path):
    env = SECRETS | {logs.FORMAT: "json", logs.LEVEL: "DEBUG"}
    with server(spoil(tmp_path, features), env=env) as running:
        status, answer = running.post(PREDICT, {"instances": [planted(origin="EWR")]}, x_request_id="r-2", **HEADERS)
        assert (status, answer["id"]) == (500, "r-2")
        assert running.post(EXPLAIN, {"instances": [planted(origin="EWR")]}, **HEADERS)[0] == 500
        with pytest.raises(grpc.RpcError, match="ValueError: a fault of the server's, logged there"):
            infer_over_grpc(running, v2([planted(origin="EWR")], id="named"))
        text = running.log.read_text()
    assert found_in(text) == found_in(json.dumps(answer)) == []
    assert re.search(r"feast_layout\.py:\d+ in decode_value", text)
    failed = [line for line in lines(text) if line["message"].endswith("request failed")]
    assert [line["request_id"] for line in failed][::2] == ["r-2", "named"]
    assert all(line["traceback"].splitlines()[-1] == "ValueError" for line in failed)


def test_a_store_that_is_away_is_logged_without_its_password_and_sparingly(features, tmp_path):
    url = f"redis://reader:{PLANTED['password']}@127.0.0.1:{free_port()}/0"
    env = SECRETS | {logs.FORMAT: "json", logs.LEVEL: "DEBUG", "EVERGROW_ONLINE_STORE": url}
    with server(serving_directory(tmp_path / "serving", features), env=env, ready=False) as running:
        running.wait_until(lambda: "serving on port" in running.log.read_text())
        running.wait_until(lambda: live(running))
        asked = time.monotonic()
        assert {running.post(PREDICT, {"instances": [planted()]}, **HEADERS)[0] for _ in range(100)} == {503}
        seconds = time.monotonic() - asked
        text = running.log.read_text()
    told = [line for line in lines(text) if line["message"].startswith("refused v1: 503 store")]
    assert found_in(text) == []
    assert {line["level"] for line in told} == {"WARNING"}
    assert 1 <= len(told) <= 10 * (seconds + 2)


def live(running):
    try:
        return running.ask("GET", "/v2/health/live")[0] == 200
    except OSError:
        return False


@pytest.mark.parametrize(
    "url", [f"rediss+odd://x:{PLANTED['password']}@host", f"redis://x:{PLANTED['password']}@h:p/0"]
)
def test_a_server_that_cannot_start_says_why_without_the_password(features, tmp_path, url):
    env = SECRETS | {logs.FORMAT: "json", "EVERGROW_ONLINE_STORE": url}
    with server(serving_directory(tmp_path / "serving", features), env=env, ready=False) as running:
        assert running.process.wait(30) != 0
        text = running.log.read_text()
    assert found_in(text) == []
    assert lines(text)[-1]["level"] == "CRITICAL"


# -- the shipper -------------------------------------------------------------------------------------------------------


class Telltale(http.server.BaseHTTPRequestHandler):
    """A store that refuses, and shows all that it was sent."""

    def do_PUT(self):
        shown = f"{dict(self.headers)} {self.path}".replace("<", "")
        body = f"<Error><Code>AccessDenied</Code><Message>{shown}</Message></Error>".encode()
        self.send_response(403)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_HEAD = do_PUT  # noqa: N815

    def log_message(self, *_):
        pass


@contextmanager
def telltale():
    """Its URL."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Telltale) as store:
        threading.Thread(target=store.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{store.server_port}"
        store.shutdown()


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_shipper_logs_nothing_of_records_and_credentials(writer, tmp_path, form):
    one = writer(segment_bytes=1)
    append(one, record("a")._replace(values=[["N", PLANTED["entity key"], 0.1, True, None]]))
    append(one, record("b")._replace(values=[[PLANTED["entity key"], 1, PLANTED["feature"], True, None]]))
    one.close()
    with telltale() as url:
        env = {**os.environ, **SECRETS, "EVERGROW_STORE": "s3://bucket/state", "AWS_ENDPOINT_URL": url}
        env |= {"AWS_ALLOW_HTTP": "true", "AWS_REGION": "x", logs.FORMAT: form, logs.LEVEL: "DEBUG"}
        text = shipped(tmp_path / "log", env, until="trying again")
    assert found_in(text) == []
    assert "cannot be made Parquet of: ValueError" in text
    if form == "json":
        assert {line["level"] for line in lines(text)} >= {"ERROR", "WARNING"}


def shipped(folder, env, until):
    """What a shipper says until it says a certain thing."""
    command = [sys.executable, "-m", "components.shipper", "--log-dir", str(folder)]
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        said = ""
        while until not in said and (line := process.stderr.readline()):
            said += line
        process.send_signal(signal.SIGKILL)
    assert until in said, said
    return said


def test_a_shipper_without_a_store_ends_with_a_line_that_says_so(tmp_path):
    env = {**os.environ, **SECRETS, logs.FORMAT: "json"}
    env["EVERGROW_STORE"] = f"nowhere://x:{PLANTED['password']}@host/state"
    command = [sys.executable, "-m", "components.shipper", "--log-dir", str(tmp_path)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    (line,) = lines(done.stderr)
    assert (done.returncode, line["level"]) == (8, "CRITICAL")
    assert found_in(done.stdout + done.stderr) == []


# -- steps -------------------------------------------------------------------------------------------------------------

STEP = '''
import logging, os, sys, warnings
from evergrow.errors import DataError
from evergrow.journal import note, step


@step
def main(spec, how):
    note("leaky", "seen for the first time: {entity key}", data=["{entity key}"])
    note("leaky", "connected to postgresql://feast:{password}@db/feast")
    print("a library prints its settings:", {{"aws_secret_access_key": os.environ["AWS_SECRET_ACCESS_KEY"]}})
    print("and warns", file=sys.stderr)
    logging.getLogger("urllib3").debug("headers: %s", {{"Authorization": "Bearer {token}"}})
    logging.getLogger("some.library").warning("hmac of %s", os.environ["EVERGROW_HASH_KEY"])
    warnings.warn("signed with " + os.environ["AWS_ACCESS_KEY_ID"])
    if how == "ours":
        raise DataError("label: must be 0 or 1, found {feature}", data=["found {feature}"])
    if how == "theirs":
        raise ValueError("could not convert {entity key}")
    return "done"
'''  # fmt: skip
COMPONENT = """
def leaky(spec: str, how: str) -> str:
    from components.leaky.step import main

    return main(spec, how)
"""


def run_step(folder, how, **env):
    """A step as Kubeflow runs it; its exit code and what it said."""
    (folder / "leaky").mkdir()
    (folder / "leaky/__init__.py").write_text("")
    (folder / "leaky/step.py").write_text(STEP.format(**PLANTED))
    (folder / "leaky_component.py").write_text(COMPONENT)
    code = f"import components; components.__path__.append({str(folder)!r}); import warnings\n"
    code += "from kfp.dsl.executor_main import executor_main; executor_main()"
    values = {"spec": document().model_dump_json(by_alias=True), "how": how}
    told = {"inputs": {"parameterValues": values}, "outputs": {"outputFile": str(folder / "out.json")}}
    told["outputs"]["parameters"] = {"Output": {"outputFile": str(folder / "Output")}}
    command = [sys.executable, "-c", code, "--component_module_path", str(folder / "leaky_component.py")]
    command += ["--function_to_execute", "leaky", "--executor_input", json.dumps(told)]
    variables = {**os.environ, **SECRETS, logs.LEVEL: "DEBUG", FOLDER: STDOUT, "EVERGROW_RUN_NAME": "run-7", **env}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("how", ["well", "ours", "theirs"])
def test_a_steps_lines_are_json_from_its_start_and_hold_nothing_planted(tmp_path, how):
    code, text = run_step(tmp_path, how, **{logs.FORMAT: "json"})
    assert (code == 0) == (how == "well"), text
    assert found_in(text) == []
    begun = text.index('{"time"')
    told = lines(text[begun:])
    ours = [line for line in told if line["logger"] == "evergrow.step"]
    assert {(line["step"], line["run"], line["model"]) for line in told} == {("leaky", "run-7", "delays")}
    assert [line["event"]["what"] for line in ours][-1] == ("ended" if how == "well" else "failed")
    assert [line["message"] for line in ours][-1] == {
        "well": "done",
        "ours": "label: must be 0 or 1, …",
        "theirs": "its message may quote data; the log says where it was raised",
    }[how]
    assert {"evergrow.stdout", "evergrow.stderr", "some.library", "py.warnings"} <= {line["logger"] for line in told}
    if how != "well":
        assert re.search(r"leaky/step\.py:\d+ in main", told[-1]["traceback"])


def test_the_same_step_that_logs_text_would_be_found_out(tmp_path):
    _, text = run_step(tmp_path, "theirs")
    assert set(found_in(text)) >= {"entity key", "secret key", "password"}


INGEST = """
import pandas as pd
from tests.toy_model.data import Demand, counts


class Leaky(Demand):
    def read(self, table, after, until):
        rows = super().read(table, after, until)
        if {retyped}:
            return rows.assign(count="{entity key}")
        return rows.assign(station=rows.station.where(rows.index % 3 > 0, "{entity key}"))
"""


@pytest.mark.parametrize("retyped", [True, False])
def test_ingest_that_refuses_its_rows_says_so_without_their_values(tmp_path, retyped):
    (tmp_path / "leaky_source.py").write_text(INGEST.format(retyped=retyped, **PLANTED))
    spec = document().dump()
    spec["spec"]["source"] = {"entrypoint": "leaky_source:Leaky"}
    code = textwrap.dedent(f"""
        import sys; sys.path.insert(0, {str(tmp_path)!r})
        from components.ingest.step import main
        main({json.dumps(spec)!r}, "2024-03-01", {str(tmp_path / "snapshot")!r})
    """)
    env = {**os.environ, **SECRETS, FOLDER: STDOUT, "EVERGROW_HOME": str(tmp_path / "home"), logs.FORMAT: "json"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    (failed,) = [line for line in lines(done.stdout) if line.get("event", {}).get("what") == "failed"]
    assert done.returncode != 0
    assert found_in(done.stdout + done.stderr) == []
    assert failed["event"]["error"] == "UpstreamError"
    assert ("must be int64" if retyped else "break its rules") in failed["message"]
