"""Lines of text and lines of JSON, and what neither says of errors."""

import io
import json
import logging
import sys
import threading
import warnings
from datetime import UTC, datetime

import pytest

from evergrow import logs
from evergrow.errors import DataError, RequestError, StoreError, public


@pytest.fixture
def logged(monkeypatch):
    """Configure logging into a text; returns what was logged. Everything is as it was afterwards."""
    names = (None, "evergrow", *logs.LIBRARIES, *logs.SILENT)
    loggers = [logging.getLogger(name) for name in names]
    before = [dict(vars(each)) for each in loggers]
    hooks = sys.excepthook, threading.excepthook
    stream = io.StringIO()

    def configure(form="json", level="INFO", **about):
        monkeypatch.setenv(logs.FORMAT, form)
        monkeypatch.setenv(logs.LEVEL, level)
        logs.configure(stream, **about)
        return stream.getvalue

    yield configure
    logging.captureWarnings(False)
    sys.excepthook, threading.excepthook = hooks
    for each, was in zip(loggers, before, strict=True):
        vars(each).update(was)
        each.manager._clear_cache()


def objects(text):
    return [json.loads(line) for line in text.splitlines()]


def fail(error):
    raise error


def test_a_line_of_json_has_when_how_bad_who_what_and_all_that_is_known(logged):
    read = logged(model="delays", version="3")
    logging.getLogger("evergrow.server").warning("%d of %s", 2, "it", extra={"request_id": "r1"})
    (line,) = objects(read())
    at = datetime.fromisoformat(line.pop("time"))
    assert at.tzinfo == UTC
    assert abs((datetime.now(UTC) - at).total_seconds()) < 60
    assert line == {
        "level": "WARNING",
        "logger": "evergrow.server",
        "message": "2 of it",
        "request_id": "r1",
        "model": "delays",
        "version": "3",
    }


def test_a_line_of_text_says_the_same(logged):
    read = logged("text", model="delays")
    logging.getLogger("evergrow.server").warning("two", extra={"request_id": "r1"})
    assert read().partition(" ")[2] == "WARNING evergrow.server: two (request_id=r1 model=delays)\n"


def test_what_is_known_where_a_line_is_logged_is_asked_for_each(logged):
    found = {}
    read = logged(context=lambda: found)
    logs.logger.info("before")
    found["trace_id"] = "0af7"
    logs.logger.info("within")
    assert [line.get("trace_id") for line in objects(read())] == [None, "0af7"]


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_callers_name_for_a_request_begins_no_line_of_its_own(logged, form):
    read = logged(form)
    logs.logger.warning("refused", extra={"request_id": 'x\n{"level": "CRITICAL"}\r\x1b[31m'})
    assert len(read().splitlines()) == 1
    assert "\x1b" not in read()


@pytest.mark.parametrize(
    ("level", "told"), [("INFO", ["ours", "theirs warns"]), ("DEBUG", ["ours", "detail", "theirs", "theirs warns"])]
)
def test_libraries_are_told_from_warnings_on_unless_everything_is(logged, level, told):
    read = logged(level=level)
    logging.getLogger("evergrow.x").info("ours")
    logging.getLogger("evergrow.x").debug("detail")
    logging.getLogger("a_library").debug("theirs")
    logging.getLogger("kserve").warning("theirs warns")
    logging.getLogger("uvicorn.access").error("GET /")
    assert [line["message"] for line in objects(read())] == told


def test_a_foreign_error_is_told_by_its_class_and_where_it_was_raised(logged):
    read = logged()
    try:
        fail(ValueError("could not convert 'N14228'"))
    except ValueError:
        logs.logger.exception("a step failed")
    (line,) = objects(read())
    assert line["traceback"].splitlines()[-1] == "ValueError"
    assert f"{__file__}:" in line["traceback"]
    assert " in fail" in line["traceback"]
    assert "N14228" not in read()


def test_what_led_to_an_error_is_told_first(logged):
    read = logged()
    try:
        try:
            fail(KeyError("N1"))
        except KeyError as error:
            raise StoreError("the bucket is gone") from error
    except StoreError:
        logs.logger.exception("x")
    (line,) = objects(read())
    classes = [each for each in line["traceback"].splitlines() if not each.startswith(" ")]
    assert classes == ["KeyError", "the bucket is gone"]


@pytest.mark.parametrize("form", ["json", "text"])
def test_an_error_among_the_arguments_of_a_line_is_told_no_more_of(logged, form):
    read = logged(form)
    logs.logger.error("failed: %s", ValueError("N14228"))
    logs.logger.error(ValueError("N14228"))
    logs.logger.error("failed: %(why)s", {"why": ValueError("N14228")})
    assert "N14228" not in read()
    assert read().count("ValueError") == 3


def test_of_an_error_of_ours_the_message_is_told_without_the_data_that_it_quotes():
    assert public(StoreError("the bucket b does not exist")) == "the bucket b does not exist"
    assert public(DataError("must be 0 or 1, found 7", data=["found 7"])) == "must be 0 or 1, …"
    assert public(RequestError("instances[0]: departure of {'tailnum': 'N1'} failed")) == "RequestError"


def test_a_line_that_cannot_be_made_is_not_shown_with_its_arguments(logged):
    read = logged()
    logs.logger.warning("%d", "N14228")
    assert "N14228" not in read()
    assert __file__ in objects(read())[0]["message"]


def test_what_asyncio_says_of_a_future_is_left_out(logged):
    read = logged()
    logging.getLogger("asyncio").error("Task exception was never retrieved\nfuture: <Task exception=KeyError('N1')>")
    assert [line["message"] for line in objects(read())] == ["Task exception was never retrieved"]


def test_the_end_of_a_thread_and_of_the_process_are_lines_without_messages(logged):
    read = logged()
    thread = threading.Thread(target=fail, args=[ValueError("N14228")], name="worker")
    thread.start()
    thread.join()
    sys.excepthook(KeyError, KeyError("N14228"), None)
    assert [line["message"] for line in objects(read())] == ["thread worker ends", "the process ends"]
    assert "N14228" not in read()


def test_warnings_are_lines(logged):
    read = logged()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old", UserWarning, stacklevel=1)
    assert objects(read())[0]["logger"] == "py.warnings"


def test_what_is_printed_is_logged_line_by_line(logged):
    read = logged()
    printed = logs.Printed("stdout")
    print("one\ntwo", "half", end="", file=printed)
    assert [line["message"] for line in objects(read())] == ["one"]
    print(file=printed)
    assert [line["message"] for line in objects(read())] == ["one", "two half"]


def test_secrets_of_the_environment_are_in_no_part_of_a_line(logged, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "0123456789abcdef")
    read = logged(run="0123456789abcdef")
    event = {"text": "0123456789abcdef"}
    logs.logger.error("0123456789abcdef", extra={"hint": "0123456789abcdef", "event": event, "request_id": "***"})
    assert "0123456789abcdef" not in read()
    assert read().count("***") == 5
