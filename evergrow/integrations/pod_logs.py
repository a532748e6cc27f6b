"""What steps on a cluster tell of themselves: events as marked lines among all else in their pods' logs."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import ValidationError

from evergrow.journal import MARK, Event


def events_of(log: str) -> list[Event]:
    """The events in a log, in its order; a line cut off in the middle is not one.

    >>> told = MARK + '{"step": "ingest", "process": 7, "at": 1.5, "what": "started"}'
    >>> [(event.step, event.what) for event in events_of("\\n".join(["reading", told, told[:30]]))]
    [('ingest', 'started')]
    """
    return list(_read(log))


def _read(log: str) -> Iterator[Event]:
    for line in log.splitlines():
        _, mark, told = line.partition(MARK)
        if not mark:
            continue
        try:
            yield Event.model_validate_json(told)
        except ValidationError:
            continue


def without_events(log: str) -> str:
    """A log as people read it.

    >>> without_events('one\\n::evergrow:: {}\\ntwo')
    'one\\ntwo'
    """
    return "\n".join(line for line in log.splitlines() if MARK not in line)
