"""The book: what is whole counts, what is torn does not, and nobody's line gets lost."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evergrow.errors import LoopError
from evergrow.loop.book import Asked, Began, BookFile, Decided, Ended, Entry, Froze, Thawed, written
from evergrow.triggers.decide import Retrain

NOW = datetime(2024, 3, 20, tzinfo=UTC)
DECIDED = Decided(decision=Retrain(model="m", as_of=NOW, wanted=True, withheld="", judged=(), reason="é \n 'x'"))
ENTRIES: list[Entry] = [
    DECIDED,
    Began(number=1, at=NOW, by=NOW),
    Ended(number=1, at=NOW, outcome="failed", version=None, cpu_hours=0.25, reason="no rows"),
    Asked(at=NOW, by="ada", reason="new features"),
    Froze(at=NOW, by="ada"),
    Thawed(at=NOW, by="ada"),
]


def test_what_was_written_is_read_by_the_same_book_and_by_another(tmp_path: Path) -> None:
    book = BookFile(tmp_path / "loops" / "book.jsonl")
    assert book.entries() == ()
    for number, entry in enumerate(ENTRIES, 1):
        book.append(entry)
        assert list(book.entries()) == list(BookFile(book.path).entries()) == ENTRIES[:number]


@given(st.integers(0, len(ENTRIES) - 1), st.data())
def test_a_torn_last_line_is_no_entry_and_is_cut_off(tmp_path_factory, number: int, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("book") / "book.jsonl"
    whole = b"".join(written(entry) for entry in ENTRIES[:number])
    torn = written(ENTRIES[number])
    path.write_bytes(whole + torn[: data.draw(st.integers(0, len(torn) - 1))])

    book = BookFile(path)
    assert list(book.entries()) == ENTRIES[:number]
    book.append(ENTRIES[number])
    assert list(book.entries()) == ENTRIES[: number + 1]
    assert path.read_bytes() == whole + torn


def test_a_line_that_somebody_spoilt_is_named(tmp_path: Path) -> None:
    path = tmp_path / "book.jsonl"
    path.write_bytes(written(ENTRIES[1]) + b'{"kind": "began", "number": 0}\n')
    with pytest.raises(LoopError, match="line 2 is no entry"):
        BookFile(path).entries()


def test_lines_that_several_write_at_once_are_all_there(tmp_path: Path) -> None:
    path = tmp_path / "book.jsonl"

    def write(by: str) -> None:
        book = BookFile(path)
        for second in range(20):
            book.append(Asked(at=NOW + timedelta(seconds=second), by=by))

    writers = [threading.Thread(target=write, args=(by,)) for by in ("ada", "bob", "cy")]
    for one in writers:
        one.start()
    for one in writers:
        one.join()
    assert len(BookFile(path).entries()) == 60
