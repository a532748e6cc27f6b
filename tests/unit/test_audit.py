"""The audit log shows when it was tampered with, and loses nothing to a killed writer."""

from __future__ import annotations

import multiprocessing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from evergrow.audit import AuditLog, Promotion
from evergrow.errors import RegistryError

NOW = datetime(2013, 7, 1, tzinfo=UTC)


def promotion(version: int) -> Promotion:
    return Promotion(
        at=NOW,
        actor="ada",
        model="bikes",
        replaced=version - 1 or None,
        version=version,
        identity="i",
        model_digest="d",
        reason=f"better, says {version}",
    )


@pytest.fixture
def log(tmp_path: Path) -> AuditLog:
    log = AuditLog(tmp_path / "audit.jsonl")
    for version in (1, 2, 3):
        log.append(promotion(version))
    return log


def test_records_are_read_back_in_order(log: AuditLog) -> None:
    assert log.records() == [promotion(1), promotion(2), promotion(3)]


@pytest.mark.parametrize("tamper", ["alter", "remove", "insert", "swap"])
def test_a_record_that_was_tampered_with_breaks_the_chain(log: AuditLog, tamper: str) -> None:
    lines = log.path.read_bytes().splitlines(keepends=True)
    changed = {
        "alter": [lines[0].replace(b"ada", b"eve"), *lines[1:]],
        "remove": [lines[0], lines[2]],
        "insert": [lines[0], lines[0], *lines[1:]],
        "swap": [lines[1], lines[0], lines[2]],
    }
    log.path.write_bytes(b"".join(changed[tamper]))
    with pytest.raises(RegistryError, match="names .* as the record before it"):
        log.verify()
    with pytest.raises(RegistryError):
        log.append(promotion(4))


def test_a_removed_newest_record_shows_by_the_digest_that_was_kept_elsewhere(log: AuditLog) -> None:
    kept = log.append(promotion(4))
    assert log.verify() == kept
    log.path.write_bytes(b"".join(log.path.read_bytes().splitlines(keepends=True)[:-1]))
    assert log.verify() != kept


def test_a_line_torn_by_a_killed_writer_is_dropped_by_the_next_one(log: AuditLog) -> None:
    with log.path.open("ab") as file:
        file.write(b'{"actor": "ada", "at": ')
    log.append(promotion(4))
    assert [r.version for r in log.records()] == [1, 2, 3, 4]


def _append(path: Path, version: int) -> None:
    AuditLog(path).append(promotion(version))


def test_writers_at_the_same_time_make_one_chain(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_append, args=(path, n)) for n in range(1, 9)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sorted(r.version for r in AuditLog(path).records()) == list(range(1, 9))
