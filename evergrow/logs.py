"""How our processes log: a line of text for people, or one JSON object a line for what collects logs.

EVERGROW_LOG is `text` (default) or `json`, EVERGROW_LOG_LEVEL the least level that is told of what is ours. Libraries
are told from WARNING on, and all they have to say with the level DEBUG.

No line holds a secret or the message of a foreign exception: messages quote the data they are about. What is told of an
exception is its class and where it was raised.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TextIO

from evergrow.errors import public
from evergrow.redaction import Redaction

FORMAT, LEVEL = "EVERGROW_LOG", "EVERGROW_LOG_LEVEL"
"""Variables: how to log, and from which level on."""
FIELDS = ("request_id", "trace_id", "span_id", "model", "version", "run", "step")
"""What a line has beside time, level, logger and message, where it is known."""

LIBRARIES = ("kserve", "uvicorn", "uvicorn.error")
"""Loggers that give themselves handlers unless they have some."""
SILENT = ("uvicorn.access", "kserve.trace")
"""A line a request costs more than the request, and holds its path."""

Context = Callable[[], Mapping[str, str]]
"""What else is known of what is being done where a line is logged: FIELDS and their values."""

logger = logging.getLogger("evergrow")


def is_json(variables: Mapping[str, str] = os.environ) -> bool:
    """Whether to log JSON."""
    return variables.get(FORMAT) == "json"


def configure(stream: TextIO | None = None, context: Context = dict, **about: str) -> None:
    """Log from here on as the environment says; everything, of every library, goes one way.

    Args:
        stream: where to; standard error if None.
        context: asked for each line.
        about: what holds for all lines: FIELDS and their values.
    """
    form = JsonLines if is_json() else TextLines
    handler = _Handler(stream or sys.stderr)
    handler.setFormatter(form(Redaction(os.environ), about, context))
    level = logging.getLevelNamesMapping().get(os.environ.get(LEVEL, "INFO").upper(), logging.INFO)
    _route(handler, ours=level, libraries=level if level <= logging.DEBUG else logging.WARNING)
    logging.captureWarnings(True)
    sys.excepthook = _last_words
    threading.excepthook = _thread_ended


def _route(handler: logging.Handler, ours: int, libraries: int) -> None:
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(libraries)
    logging.getLogger("evergrow").setLevel(ours)
    for name in LIBRARIES:
        library = logging.getLogger(name)
        library.handlers, library.propagate = [handler], False
        library.setLevel(libraries)
    for name in SILENT:
        silent = logging.getLogger(name)
        silent.handlers, silent.propagate = [], False
        silent.setLevel(logging.CRITICAL)


# -- what a line says --------------------------------------------------------------------------------------------------


class _Lines(logging.Formatter):
    """What both forms have in common."""

    def __init__(self, redaction: Redaction, about: Mapping[str, str], context: Context) -> None:
        super().__init__()
        self.redaction, self.about, self.context = redaction, about, context

    def said(self, record: logging.LogRecord) -> str:
        """The message, without secrets, exceptions by what may be told of them."""
        if record.name == "asyncio":
            # Its further lines show futures, and these the message of what was raised.
            return self.redaction(str(record.msg).partition("\n")[0])
        args = record.args
        if isinstance(args, Mapping):
            args = {key: _tellable(value) for key, value in args.items()}
        else:
            args = tuple(_tellable(value) for value in args or ())
        text = str(_tellable(record.msg))
        return self.redaction(text % args if args else text)

    def fields(self, record: logging.LogRecord) -> dict[str, str]:
        """Those of FIELDS that are known."""
        known = {**self.about, **self.context()}
        found = {name: getattr(record, name, known.get(name)) for name in FIELDS}
        return {name: self.redaction(str(value)) for name, value in found.items() if value}


class TextLines(_Lines):
    """2026-11-25T17:24:11.123Z WARNING evergrow.server: draining for 5 s (model=delays version=3)."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, and those of a traceback."""
        fields = " ".join(f"{name}={value}" for name, value in self.fields(record).items())
        line = f"{_time(record)} {record.levelname} {record.name}: {self.said(record)}"
        # A caller's request id must not be able to begin a line of its own.
        line += f" ({fields.encode('unicode_escape').decode()})" * bool(fields)
        return "\n".join([line, *_raised(record)])


class JsonLines(_Lines):
    """{"time": "2026-11-25T17:24:11.123Z", "level": "WARNING", "logger": "evergrow.server", "message": ...}."""

    def format(self, record: logging.LogRecord) -> str:
        """One object on one line."""
        line: dict[str, Any] = {"time": _time(record), "level": record.levelname, "logger": record.name}
        line |= {"message": self.said(record), **self.fields(record)}
        if raised := list(_raised(record)):
            line["traceback"] = "\n".join(raised)
        for name in ("hint", "event"):
            if value := getattr(record, name, None):
                line[name] = self.redaction.of(value)
        return json.dumps(line, default=lambda value: type(value).__name__)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _tellable(value: Any) -> Any:
    return public(value) if isinstance(value, BaseException) else value


def _raised(record: logging.LogRecord) -> Iterator[str]:
    """Of the exception that a line is about and of those that led to it, the first first: where, and which class."""
    error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
    for each in reversed(list(_chain(error))):
        yield from (f"  {frame.filename}:{frame.lineno} in {frame.name}" for frame in _frames(each))
        yield public(each)


def _chain(error: BaseException | None) -> Iterable[BaseException]:
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return seen


def _frames(error: BaseException) -> list[traceback.FrameSummary]:
    return list(traceback.StackSummary.extract(traceback.walk_tb(error.__traceback__), lookup_lines=False))


# -- what must not be said otherwise -----------------------------------------------------------------------------------


class _Handler(logging.StreamHandler[TextIO]):
    """A line that cannot be made must not be shown with its arguments, as Python does."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Say where it was."""
        where = f"{record.pathname}:{record.lineno}"
        self.stream.write(json.dumps({"level": "ERROR", "logger": __name__, "message": f"no line of {where}"}) + "\n")


def _last_words(kind: type[BaseException], error: BaseException, _: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    logger.critical("the process ends", exc_info=error)


def _thread_ended(args: threading.ExceptHookArgs) -> None:
    logger.critical("thread %s ends", args.thread and args.thread.name, exc_info=args.exc_value)


class Printed:
    """A stream whose every line is logged: what libraries print is no exception to one object a line."""

    encoding, errors, closed = "utf-8", "replace", False

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(f"evergrow.{name}")
        self._rest = ""

    def write(self, text: str) -> int:
        """Log what is whole."""
        *lines, self._rest = (self._rest + text.replace("\r", "\n")).split("\n")
        for line in filter(str.strip, lines):
            self._logger.info("%s", line)
        return len(text)

    def flush(self) -> None:
        """Nothing is kept back but what is no whole line."""

    def isatty(self) -> bool:
        """No."""
        return False

    def writable(self) -> bool:
        """Yes."""
        return True

    def fileno(self) -> int:
        """Of standard output: for subprocesses, whose lines are their own."""
        return 1
