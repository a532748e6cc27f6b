"""Shares of a backtest, each with a folder of its own as pods have them: the same results, and no work done twice."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from components.backtest.step import StoredWork, dealt
from evergrow.backtest.run import backtest, joined, share
from evergrow.backtest.tasks import PAST
from evergrow.errors import DataError
from evergrow.integrations.object_store import ObjectStore
from evergrow.simulation.worlds import ConceptDrift, Sudden, World
from tests.unit.backtest.places import policy_set, simulated, small_document
from tests.unit.backtest.test_run import written

WORLD = World(seed=5, days=80, rows=40, features=3, concept=ConceptDrift(course=Sudden(at=60), angle=120))
NAMES = {"when": ("weekly", "old"), "window": ("all", "30d"), "gate": ("strict",)}


def tried():
    whole = policy_set()
    return policy_set(choices={choice: {o: whole.choices[choice][o] for o in names} for choice, names in NAMES.items()})


class Bucket:
    """A store that is reached by its URL from anywhere, and counts what is written."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store, self.kept = ObjectStore(MemoryStore(), "memory:///state"), []
        monkeypatch.setattr(ObjectStore, "open", lambda url, *_: self.store)
        write = self.store.write
        self.store.write = lambda name, content: (self.kept.append(name), write(name, content))[1]


@pytest.fixture
def bucket(monkeypatch):
    return Bucket(monkeypatch)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    simulated(folder, WORLD)
    return backtest(small_document(), tried(), folder, folder / "out"), folder


def in_shares(alone: Path, tmp_path: Path, shares: int) -> tuple[list, Path]:
    """Each share in a folder of its own, one after the other; then all of them together in another."""
    done = []
    for number, policies in enumerate(dealt(4, shares)):
        folder = tmp_path / str(number)
        shutil.copytree(alone / PAST, folder / PAST)
        elsewhere = StoredWork("memory:///state", "backtests/delays/past")
        done.append(share(small_document(), tried(), folder, folder / "out", policies, elsewhere=elsewhere))
    shutil.copytree(alone / PAST, tmp_path / "all" / PAST)
    return done, tmp_path / "all"


@pytest.mark.parametrize("shares", [2, 4])
def test_shares_come_to_the_same_bytes_as_one_process(alone, bucket, tmp_path, shares):
    done, folder = in_shares(alone[1], tmp_path, shares)
    joined(small_document(), tried(), folder, folder / "out", done)
    results = "results.json"
    assert written(folder / "out")[results] == written(alone[1] / "out")[results]


def test_what_one_share_has_done_another_finds(alone, bucket, tmp_path):
    done, _ = in_shares(alone[1], tmp_path, 4)
    whole = alone[0].spent
    results = [name for name in bucket.kept if "/done/fit/" in name]
    assert len(set(results)) == len({name.rpartition("/")[2] for name in results}) == whole["fit"].done
    asked = sum(one.spent["fit"].asked for one in done)
    assert asked == whole["fit"].asked
    # Who found it elsewhere has the same seconds on record as who did it.
    by_hand = [one.spent["fit"].done for one in done]
    assert sum(by_hand) > whole["fit"].done, "shares have trainings in common, or the test shows nothing"


def test_work_whose_files_are_not_all_there_is_done_again(alone, bucket, tmp_path):
    """As after a kill between a file and the word that it is done: that word comes last; a lost file is made anew."""
    in_shares(alone[1], tmp_path / "before", 1)
    models = [name for name in bucket.store.names("backtests") if "/models/" in name]
    assert models
    for name in models:
        bucket.store.delete(f"backtests/{name}")
    done, folder = in_shares(alone[1], tmp_path / "after", 1)
    ran = joined(small_document(), tried(), folder, folder / "out", done)
    assert ran.results == alone[0].results


def test_a_policy_that_nobody_replayed_is_missed(alone, bucket, tmp_path):
    done, folder = in_shares(alone[1], tmp_path, 2)
    with pytest.raises(DataError, match="2 of 4 policies were not replayed: weekly/all/strict"):
        joined(small_document(), tried(), folder, folder / "out", done[1:])
    with pytest.raises(DataError, match="replayed twice"):
        joined(small_document(), tried(), folder, folder / "out", [*done, done[0]])


@pytest.mark.parametrize("policies", [1, 2, 7, 144])
@pytest.mark.parametrize("shares", [1, 2, 5, 200])
def test_every_policy_is_dealt_once_and_shares_differ_by_one_at_most(policies, shares):
    found = dealt(policies, shares)
    assert [number for one in found for number in one] == list(range(policies))
    assert len(found) == min(policies, shares)
    assert max(map(len, found)) - min(map(len, found)) <= 1
