"""What steps on a cluster tell of themselves: events as marked lines among all else in their pods' logs."""

from __future__ import annotations

from collections.abc import Iterator

from evergrow.journal import MARK, Event, as_read, event_of


def events_of(log: str) -> list[Event]:
    """The events in a log, in its order; a line cut off in the middle is not one.

    >>> told = MARK + '{"step": "ingest", "process": 7, "at": 1.5, "what": "started"}'
    >>> [(event.step, event.what) for event in events_of("\\n".join(["reading", told, told[:30]]))]
    [('ingest', 'started')]
    """
    return list(_read(log))


def _read(log: str) -> Iterator[Event]:
    for line in log.splitlines():
        event = event_of(line)
        if event is not None:
            yield event


def without_events(log: str) -> str:
    """A log as people read it: of lines in JSON what they say.

    >>> without_events('one\\n::evergrow:: {}\\ntwo')
    'one\\ntwo'
    """
    return "\n".join(as_read(line) for line in log.splitlines() if MARK not in line)
