"""What a step in a pod leaves behind when it fails."""

import io
import logging
import sys
import threading

import pytest

from evergrow import journal, logs
from evergrow.errors import EvergrowError, StoreError
from evergrow.integrations.pod_logs import events_of, without_events


@pytest.fixture
def left(monkeypatch, tmp_path):
    """Fail as a step in a pod; returns what Kubernetes is left to show."""
    file = tmp_path / "termination-log"
    file.touch()
    monkeypatch.setattr(journal, "TERMINATION", file)
    monkeypatch.setenv(journal.FOLDER, journal.STDOUT)

    def fail(error):
        def main():
            raise error

        main.__module__ = "components.train.step"
        with pytest.raises(type(error)):
            journal.step(main)()
        return file.read_text()

    return fail


def test_an_error_that_may_pass_is_left_as_it_is(left):
    error = EvergrowError("the store does not answer", hint="does it run?", retriable=True)
    assert left(error) == "EvergrowError: the store does not answer\n  hint: does it run?"


@pytest.mark.parametrize("error", [EvergrowError("no rows"), KeyError("a mistake of ours")])
def test_an_error_that_would_come_again_says_so_first(left, error):
    assert left(error) == f"{journal.FINAL}\n{type(error).__name__}: {error}"


# -- where logs are JSON -----------------------------------------------------------------------------------------------


@pytest.fixture
def logs_json(monkeypatch, tmp_path):
    """As in a pod that logs JSON; returns what it has said. Logging is as it was afterwards."""
    monkeypatch.setenv(logs.FORMAT, "json")
    monkeypatch.setenv(journal.FOLDER, journal.STDOUT)
    monkeypatch.setattr(journal, "TERMINATION", tmp_path / "termination-log")
    journal.TERMINATION.touch()
    said = io.StringIO()
    monkeypatch.setattr(sys, "__stdout__", said)
    loggers = [logging.getLogger(name) for name in (None, "evergrow", *logs.LIBRARIES, *logs.SILENT)]
    before, hooks = [dict(vars(each)) for each in loggers], (sys.excepthook, threading.excepthook)
    streams = sys.stdout, sys.stderr
    yield said.getvalue
    (sys.stdout, sys.stderr), (sys.excepthook, threading.excepthook) = streams, hooks
    logging.captureWarnings(False)
    for each, was in zip(loggers, before, strict=True):
        vars(each).update(was)
        each.manager._clear_cache()


def work(how):
    journal.note("train", "fitted on N14228", data=["N14228"])
    if how == "fails":
        raise StoreError("the bucket is gone", hint="make it", retriable=True)
    return "pass"


work.__module__ = "components.train.step"
work.__name__ = "main"


@pytest.mark.parametrize(("how", "last"), [("works", "ended"), ("fails", "failed")])
def test_events_are_read_from_lines_of_json_as_from_marked_ones(logs_json, how, last):
    if how == "fails":
        with pytest.raises(StoreError):
            journal.step(work)(how)
    else:
        journal.step(work)(how)
    log = logs_json()
    started, noted, ended = events_of(log)
    assert [event.step for event in (started, noted, ended)] == ["train"] * 3
    assert [event.what for event in (started, noted, ended)] == ["started", "noted", last]
    assert noted.text == "fitted on …"
    if how == "fails":
        assert (ended.error, ended.hint, ended.retriable) == ("StoreError", "make it", True)
        assert journal.TERMINATION.read_text() == "StoreError: the bucket is gone\n  hint: make it"
    assert without_events(log).splitlines()[1] == "fitted on …"


def test_a_line_that_was_cut_off_is_no_event(logs_json):
    journal.step(work)("works")
    log = logs_json()
    assert [event.what for event in events_of(log[:-20])] == ["started", "noted"]
    assert events_of('{"event": 1}\n{"event": {"what": "else"}}\n[1]\n{') == []


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_program_that_ends_with_an_error_of_ours_tells_people_in_text(logs_json, monkeypatch, capsys, form):
    monkeypatch.setenv(logs.FORMAT, form)
    monkeypatch.setenv("REDIS_PASSWORD", "pa55word")

    def program():
        logs.configure(sys.__stdout__)
        raise StoreError("cannot log in with pa55word", hint="look")

    assert journal.exit_code_of(program) == StoreError.exit_code
    out, err = logs_json(), capsys.readouterr().err
    if form == "json":
        assert '"level": "CRITICAL"' in out
        assert journal.TERMINATION.read_text() == "error: cannot log in with ***\n  hint: look"
    else:
        assert err == "error: cannot log in with ***\n  hint: look\n"
    assert "pa55word" not in out + err
