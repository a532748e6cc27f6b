"""The command line: what it prints, where, and with which exit code."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from evergrow.cli import main
from evergrow.cli.output import Output, show_table
from evergrow.integrations.mlflow import MlflowRegistry
from tests.builders import document
from tests.unit.integrations.builders import AS_OF, make_bundle, make_evaluation, make_report


class Told(NamedTuple):
    code: int
    out: str
    err: str


Evergrow = Callable[..., Told]


@pytest.fixture
def evergrow(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Evergrow:
    monkeypatch.setenv("EVERGROW_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def run(*arguments: str) -> Told:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        return Told(int(ended.value.code or 0), *capsys.readouterr())

    return run


@pytest.fixture
def model_yaml(tmp_path: Path) -> Path:
    path = tmp_path / "model.yaml"
    path.write_text(yaml.safe_dump(document().dump()))
    return path


COMMANDS = [
    (),
    *(
        tuple(words.split())
        for words in (
            "run",
            "score",
            "report",
            "serve",
            "predict",
            "models",
            "models list",
            "models show",
            "models audit",
            "spec",
            "spec check",
            "spec schema",
        )
    ),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(evergrow: Evergrow, command: tuple[str, ...]) -> None:
    told = evergrow(*command, "--help")
    assert told.code == 0
    assert "Usage:" in told.out
    if command and command not in (("models",), ("spec",)):
        assert "Examples:" in told.out


def test_help_imports_nothing_that_is_slow_to_import() -> None:
    code = (
        "import sys; from evergrow.cli import main\n"
        "try: main(['run', '--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'pandas', 'numpy', 'kfp', 'feast', 'mlflow', 'sklearn', 'kserve'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_shell_completion_knows_the_pipelines() -> None:
    words = {"_EVERGROW_COMPLETE": "complete_bash", "COMP_WORDS": "evergrow run tr", "COMP_CWORD": "2"}
    script = shutil.which("evergrow", path=str(Path(sys.executable).parent))
    assert script is not None
    done = subprocess.run([script], env={**os.environ, **words}, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["training"]


def test_an_error_is_a_message_and_a_hint_on_standard_error_and_its_own_exit_code(evergrow: Evergrow) -> None:
    told = evergrow("models", "show", "bikes")
    assert told == Told(5, "", "error: bikes has no version 'champion'\n  hint: `evergrow models list` shows all\n")


def test_debug_shows_the_traceback(evergrow: Evergrow) -> None:
    from evergrow.errors import RegistryError

    with pytest.raises(RegistryError):
        main(["--debug", "models", "show", "bikes"])


def test_a_good_document_is_good(evergrow: Evergrow, model_yaml: Path) -> None:
    text = model_yaml.read_text().replace("tests.example_model.data:Delays", "tests.builders:document")
    model_yaml.write_text(text)
    assert evergrow("spec", "check", str(model_yaml)) == Told(0, "1 good\n", "")


def test_every_fault_of_a_document_is_told_with_its_path(evergrow: Evergrow, model_yaml: Path) -> None:
    model_yaml.write_text(model_yaml.read_text().replace("holdout:", "holdOut:"))
    told = evergrow("spec", "check", str(model_yaml))
    assert told.code == 2
    assert "spec.evaluation.holdOut: unknown key; did you mean `holdout`?" in told.err
    told = evergrow("spec", "check", str(model_yaml), "-o", "json")
    assert told.code == 2
    assert json.loads(told.out)[0]["file"] == str(model_yaml)


def test_an_estimator_that_does_not_exist_is_a_fault_of_the_document(evergrow: Evergrow, model_yaml: Path) -> None:
    text = model_yaml.read_text().replace("tests.example_model.data:Delays", "tests.builders:document")
    model_yaml.write_text(text.replace("estimator:boosted", "estimator:vanished"))
    told = evergrow("spec", "check", str(model_yaml))
    assert told.code == 2
    assert "spec.training.estimator.entrypoint" in told.err


def test_the_schema_is_json(evergrow: Evergrow) -> None:
    assert json.loads(evergrow("spec", "schema").out)["$schema"].startswith("https://json-schema.org/")


def test_an_as_of_that_is_no_instant_is_refused_before_anything_runs(
    evergrow: Evergrow, model_yaml: Path, tmp_path: Path
) -> None:
    told = evergrow("run", "training", "-f", str(model_yaml), "--as-of", "yesterday")
    assert told.code == 2
    assert "--as-of: must be ISO 8601, found 'yesterday'" in told.err
    assert not (tmp_path / "home").exists()


def test_an_unknown_pipeline_is_refused_with_those_there_are(evergrow: Evergrow, model_yaml: Path) -> None:
    told = evergrow("run", "trainign", "-f", str(model_yaml))
    assert told.code == 2
    assert "batch_scoring" in told.err


@pytest.fixture
def registered(evergrow: Evergrow, mlflow_registry: MlflowRegistry, tmp_path: Path) -> MlflowRegistry:
    bundle = make_bundle(tmp_path / "bundle")
    report = make_report(bundle)
    version = mlflow_registry.register(bundle, report, make_evaluation(tmp_path / "evaluation", report))
    mlflow_registry.promote(version, report.verdict.reason, AS_OF)
    return mlflow_registry


def test_models_are_listed_shown_and_audited(evergrow: Evergrow, registered: MlflowRegistry) -> None:
    (listed,) = json.loads(evergrow("models", "list", "-o", "json").out)
    assert (listed["model"], listed["version"], listed["aliases"]) == ("bikes", 1, ["champion"])
    assert "champion" in evergrow("models", "list").out
    shown = evergrow("models", "show", "bikes")
    assert "mae 2.0 < champion 3.0" in shown.out
    assert shown.err == ""
    assert json.loads(evergrow("models", "show", "bikes", "1", "-o", "json").out)["evaluation"]["rows"] == 300
    (record,) = json.loads(evergrow("models", "audit", "-o", "json").out)
    assert (record["actor"], record["version"]) == ("ada", 1)


def test_an_audit_record_that_was_changed_is_told(evergrow: Evergrow, registered: MlflowRegistry) -> None:
    registered.promote(registered.versions("bikes")[0].model_copy(update={"version": 1}), "again", AS_OF)
    path = registered.environment.audit
    path.write_text(path.read_text() * 2)
    told = evergrow("models", "audit")
    assert told.code == 5
    assert "line 2" in told.err


def test_nothing_registered_is_no_error(evergrow: Evergrow) -> None:
    assert evergrow("models", "list", "-o", "json") == Told(0, "[]\n", "")


def test_serving_a_model_that_was_never_deployed_says_how_to_deploy_it(evergrow: Evergrow) -> None:
    told = evergrow("serve", "bikes")
    assert told.code == 7
    assert "run training" in told.err


def test_a_report_that_is_not_there_says_what_writes_it(evergrow: Evergrow) -> None:
    told = evergrow("report", "bikes")
    assert told.code == 3
    assert "run training" in told.err


class _Server(BaseHTTPRequestHandler):
    """Answers as a served model does, and shows what it was sent."""

    def do_GET(self) -> None:
        self._answer(200, {"inputs": [{"name": "tailnum", "datatype": "BYTES"}, {"name": "hour", "datatype": "INT64"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if body["instances"][0].get("hour") == "noon":
            self._answer(400, {"error": "instances[0].hour: must be a whole number, found 'noon'"})
        else:
            rows = body["instances"]
            flags = [["unknown:hour"] if row["hour"] == 2 else [] for row in rows]
            self._answer(200, {"predictions": [0.25] * len(rows), "flags": flags, "sent": rows})

    def _answer(self, code: int, value: Any) -> None:
        content = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_values_are_sent_as_the_types_the_model_takes(evergrow: Evergrow, url: str) -> None:
    told = evergrow("predict", "-m", "bikes", "tailnum=123", "hour=8", "--url", url, "-o", "json")
    assert json.loads(told.out)["sent"][0] == {"tailnum": "123", "hour": 8}


def test_rows_are_read_from_json(evergrow: Evergrow, url: str) -> None:
    told = evergrow("predict", "-m", "bikes", "--json", '[{"hour": 1}, {"hour": 2}]', "--url", url)
    assert told == Told(0, "0.25\n0.25  made without: unknown:hour\n", "")


def test_what_the_server_refuses_is_told_in_its_words(evergrow: Evergrow, url: str) -> None:
    told = evergrow("predict", "-m", "bikes", "hour=noon", "--url", url)
    assert told.code == 2
    assert "400: instances[0].hour: must be a whole number, found 'noon'" in told.err


def test_a_server_that_is_not_there_says_how_to_start_one(evergrow: Evergrow) -> None:
    told = evergrow("predict", "-m", "bikes", "--json", "{}", "--url", "http://127.0.0.1:9")
    assert told.code == 7
    assert "evergrow serve" in told.err


def test_a_table_is_printed_whole_where_nobody_looks_at_it_on_a_terminal(capsys):
    identity = "0123456789abcdef" * 20
    show_table([{"model": "delays", "identity": identity, "why": "as long as it is " * 9}], Output.TEXT, "none")
    assert capsys.readouterr().out.splitlines()[1].split()[:2] == ["delays", identity]
