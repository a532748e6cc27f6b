"""`evergrow loop`: what is refused, what is written, and what is told."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from evergrow.cli.loop import line, next_scheduled, read_every, read_times
from evergrow.environment import Environment
from evergrow.errors import LoopError, SpecError
from evergrow.integrations.loop_local import book_of, claimed, run_by
from evergrow.loop.book import Asked, Began, BookFile, Decided, Ended, Froze, SentBack, Thawed
from evergrow.spec.retraining import Retraining
from evergrow.triggers.decide import Retrain
from tests.unit.loop.conftest import Evergrow

NOW = datetime(2024, 3, 20, tzinfo=UTC)
DAY = timedelta(days=1)
ASKED = {"kind": "asked"}
Write = Callable[..., str]


def book(home: Path) -> BookFile:
    return BookFile(home / "loops" / "delays" / "book.jsonl")


@pytest.mark.parametrize("command", ["", "run", "status", "ask", "freeze", "thaw"])
def test_every_command_explains_itself(evergrow: Evergrow, command: str) -> None:
    told = evergrow("loop", *command.split(), "--help")
    assert told.code == 0
    assert "Usage:" in told.out
    assert not command or "Examples:" in told.out


def test_who_asks_freezes_and_thaws_is_in_the_book_with_the_reason(evergrow: Evergrow, write: Write, home: Path):
    file = write(triggers=[ASKED])
    assert evergrow("loop", "ask", "-f", file, "--reason", "rain", "--as-of", "2024-03-20").code == 0
    assert evergrow("loop", "freeze", "-f", file, "--reason", "audit", "--as-of", "2024-03-21").code == 0
    assert evergrow("loop", "thaw", "-f", file, "--as-of", "2024-03-22").code == 0
    assert list(book(home).entries()) == [
        Asked(at=NOW, by="ada", reason="rain"),
        Froze(at=NOW + DAY, by="ada", reason="audit"),
        Thawed(at=NOW + 2 * DAY, by="ada"),
    ]


def test_what_is_said_without_an_instant_is_said_now(evergrow: Evergrow, write: Write, home: Path) -> None:
    before = datetime.now(UTC)
    told = evergrow("loop", "freeze", "-f", write(triggers=[ASKED]), "-o", "json")
    (entry,) = book(home).entries()
    assert before <= entry.at <= datetime.now(UTC)
    assert json.loads(told.out) == entry.model_dump(mode="json")


def test_nobody_can_ask_where_the_document_does_not_listen(evergrow: Evergrow, write: Write, home: Path) -> None:
    told = evergrow("loop", "ask", "-f", write(triggers=[{"kind": "model-age", "olderThan": "9d"}]))
    assert told.code == 2
    assert "- kind: asked" in told.err
    assert not book(home).path.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--every", "soon"], "--every: must be a length of time, found 'soon'"),
        (["--every", "0d"], "--every: must be a length of time, found '0d'"),
        (["--since", "2024-03-01"], "give both"),
        (["--until", "2024-03-01"], "give both"),
        (["--since", "2024-03-02", "--until", "2024-03-01"], "--until: must not be before --since"),
        (["--since", "then", "--until", "2024-03-01"], "--since: must be ISO 8601, found 'then'"),
    ],
)
def test_a_call_that_cannot_be_carried_out_is_refused_with_the_way_to_mend_it(
    evergrow: Evergrow, write: Write, home: Path, arguments: list[str], said: str
) -> None:
    told = evergrow("loop", "run", "-f", write(triggers=[ASKED]), *arguments)
    assert (told.code, said in told.err) == (2, True), told.err
    assert not home.exists()


def test_a_document_without_triggers_and_an_environment_of_a_cluster_are_refused(
    evergrow: Evergrow, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = evergrow("loop", "run", "-f", write())
    assert (told.code, "spec.retraining.triggers" in told.err) == (2, True)
    monkeypatch.setenv("EVERGROW_STORE", "s3://models/dev")
    assert "the pipeline `monitoring` runs the loop" in evergrow("loop", "run", "-f", write(triggers=[ASKED])).err


def test_a_second_run_is_refused_and_names_the_first(evergrow: Evergrow, write: Write, home: Path) -> None:
    environment = Environment.read()
    assert run_by(environment, "delays") is None
    with claimed(environment, "delays", print):
        assert run_by(environment, "delays") == os.getpid()
        told = evergrow("loop", "run", "-f", write(triggers=[ASKED]))
        assert told.code == LoopError.exit_code == 12
        assert f"its loop is run already, by process {os.getpid()}" in told.err
        assert "heeds it at once" in evergrow("loop", "freeze", "-f", write(triggers=[ASKED])).out
    assert run_by(environment, "delays") is None
    assert "does not run now" in evergrow("loop", "thaw", "-f", write(triggers=[ASKED])).out


def test_the_pipeline_of_a_loop_that_was_killed_is_waited_for(home: Path) -> None:
    environment, told = Environment.read(), list[str]()
    with claimed(environment, "delays", told.append) as lock:
        # Ends when its input does, as a pipeline that goes on when who started it is gone.
        pipeline = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[lock])
    assert told == []
    assert pipeline.stdin is not None
    with claimed(environment, "delays", lambda text: (told.append(text), pipeline.stdin.close())):
        assert len(told) == 1
    assert pipeline.wait() == 0


def decided(at: datetime, reason: str) -> Decided:
    return Decided(decision=Retrain(model="delays", as_of=at, wanted=True, withheld="", judged=(), reason=reason))


def failed(days: int) -> list[Began | Ended]:
    return [
        one
        for n in range(1, days + 1)
        for one in (
            Began(number=n, at=NOW + n * DAY, by=NOW + n * DAY),
            Ended(number=n, at=NOW + n * DAY, outcome="failed", version=None, cpu_hours=0.1, reason="no rows"),
        )
    ]


def test_status_tells_of_trainings_freezes_and_challengers_that_keep_failing(
    evergrow: Evergrow, write: Write, home: Path
) -> None:
    file = write(triggers=[ASKED, {"kind": "schedule", "cron": "0 3 * * *"}], cooldown="1d", longest="30d")
    assert "nothing was trained yet" in evergrow("loop", "status", "-f", file).out
    for entry in (decided(NOW, "2 of 2 triggers fire"), *failed(3), Froze(at=NOW + 3 * DAY, by="bob", reason="audit")):
        book(home).append(entry)
    told = evergrow("loop", "status", "-f", file, "--as-of", "2024-03-24")
    for text in (
        "delays: idle; no process runs its loop",
        "frozen by bob since 2024-03-23 00:00: audit",
        "yes: 2 of 2 triggers fire",
        "due next at 2024-03-24T03:00:00+00:00",
        "challengers keep failing: 3 in a row; nothing is begun before 2024-03-31 00:00",
        "training 3 failed: no rows",
    ):
        assert text in told.out
    found = json.loads(evergrow("loop", "status", "-f", file, "-o", "json").out)
    assert (found["fruitless"], found["not_before"]) == (3, "2024-03-31T00:00:00+00:00")
    assert [one["outcome"] for one in found["trainings"]] == ["failed"] * 3
    book(home).append(Began(number=4, at=NOW + 4 * DAY, by=NOW + 4 * DAY))
    told = evergrow("loop", "status", "-f", file)
    assert "training 4 is under way since 2024-03-24 00:00" in told.out


def test_status_tells_of_a_version_that_its_rollout_has_sent_back(evergrow: Evergrow, write: Write, home: Path) -> None:
    file = write(triggers=[ASKED])
    done = Ended(number=1, at=NOW + DAY, outcome="promoted", version=7, cpu_hours=0.1, reason="pass: loses less")
    for entry in (Began(number=1, at=NOW, by=NOW), done):
        book(home).append(entry)
    before, row = evergrow("loop", "status", "-f", file), {"number": 1, "version": 7, "outcome": "promoted"}
    assert "trained last: 2024-03-21 00:00 training 1 promoted, version 7" in before.out
    book(home).append(SentBack(number=1, at=NOW + 3 * DAY, version=7, reason="it fails requests"))
    after = evergrow("loop", "status", "-f", file)
    assert "trained last: 2024-03-23 00:00 version 7 of training 1 is sent back: it fails requests" in after.out
    found = json.loads(evergrow("loop", "status", "-f", file, "-o", "json").out)
    assert found["fruitless"] == 1
    assert found["trainings"][0].items() >= (row | {"outcome": "sent back", "reason": "it fails requests"}).items()


def test_a_book_that_somebody_spoilt_is_told_with_the_line(evergrow: Evergrow, write: Write, home: Path) -> None:
    book(home).append(Froze(at=NOW, by="ada"))
    book(home).path.write_bytes(book(home).path.read_bytes() + b"nonsense\n")
    told = evergrow("loop", "status", "-f", write(triggers=[ASKED]))
    assert (told.code, "line 2 is no entry" in told.err) == (12, True)


def test_entries_are_told_as_lines():
    assert line(decided(NOW, "1 of 1 triggers fire")) == "2024-03-20 00:00 yes: 1 of 1 triggers fire"
    assert line(failed(1)[0]) == "2024-03-21 00:00 training 1 is begun"
    assert line(failed(1)[1]) == "2024-03-21 00:00 training 1 failed: no rows"
    assert line(Froze(at=NOW, by="bob")) == "2024-03-20 00:00 froze by bob"


def test_instants_begin_with_the_first_and_none_is_after_the_last():
    assert read_times("2024-03-20", "2024-03-22T12:00", DAY) == [NOW, NOW + DAY, NOW + 2 * DAY]
    assert read_times("2024-03-20", "2024-03-20", DAY) == [NOW]
    assert read_times(None, None, DAY) is None
    assert read_every("1d12h") == 1.5 * DAY
    with pytest.raises(SpecError):
        read_every("")


def test_the_next_schedule_is_the_first_of_all():
    triggers = [{"kind": "schedule", "cron": cron} for cron in ("0 9 * * *", "0 3 * * *")]
    assert next_scheduled(Retraining(triggers=triggers), NOW) == NOW + timedelta(hours=3)
    assert next_scheduled(Retraining(triggers=[ASKED]), NOW) is None


def test_a_book_is_found_by_its_model(home: Path) -> None:
    assert book_of(Environment.read(), "delays").path == book(home).path
