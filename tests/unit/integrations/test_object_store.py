"""The object store: what one pod leaves is what the next one finds, whatever was killed in between."""

import random
from pathlib import Path

import obstore.exceptions
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from obstore.store import MemoryStore

from evergrow.environment import Environment
from evergrow.errors import ConflictError, StoreError
from evergrow.integrations import object_store
from evergrow.integrations.object_store import Mirror, ObjectStore, mirrored


class Killed(BaseException):
    """Stands for the end of a process: no handler of errors sees it."""


class Dying(ObjectStore):
    """A store whose caller dies before its n-th change."""

    def __init__(self, store: MemoryStore, changes: int) -> None:
        super().__init__(store, "memory:///state")
        self.left = changes

    def write(self, name, content):
        self._live()
        super().write(name, content)

    def swap(self, name, content, seen):
        self._live()
        return super().swap(name, content, seen)

    def _live(self) -> None:
        if self.left == 0:
            raise Killed
        self.left -= 1


@pytest.fixture
def memory() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def pods(memory, tmp_path):
    """Folders of pods that mirror one folder, each made anew."""

    def pod(name: str) -> Mirror:
        mirror = Mirror(ObjectStore(memory, "memory:///state"), "data/m", tmp_path / name)
        mirror.pull()
        return mirror

    return pod


def files(folder: Path) -> dict[str, bytes]:
    found = (p for p in folder.rglob("*") if p.is_file() and p.name != ".mirrored")
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in found}


def fill(folder: Path, contents: dict[str, bytes]) -> None:
    for name in files(folder).keys() - contents.keys():
        (folder / name).unlink()
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def test_a_pod_finds_what_another_pushed(pods):
    first = pods("a")
    fill(first.here, {"raw/t/part": b"1", "tables/t": b"2"})
    first.push()
    assert files(pods("b").here) == {"raw/t/part": b"1", "tables/t": b"2"}


def test_an_unchanged_folder_writes_nothing(pods, memory, tmp_path):
    first = pods("a")
    fill(first.here, {"x": b"1"})
    first.push()
    again = Mirror(Dying(memory, 0), "data/m", tmp_path / "again")
    again.pull()
    again.push()
    assert files(again.here) == {"x": b"1"}


def test_a_removed_file_is_gone_for_the_next_pod_and_a_stray_one_of_its_own_too(pods):
    first = pods("a")
    fill(first.here, {"x": b"1", "y": b"2"})
    first.push()
    fill(first.here, {"x": b"1"})
    first.push()
    second = pods("b")
    fill(second.here, {"x": b"1", "stray": b"3"})
    second.pull()
    assert files(second.here) == {"x": b"1"}


def test_a_folder_that_was_filled_by_other_means_is_refused_and_left_as_it_is(pods, memory, tmp_path):
    fill(tmp_path / "own", {"x": b"years of work"})
    with pytest.raises(StoreError, match=r"own: holds 1 files that did not come from memory:///state/data/m"):
        pods("own")
    assert files(tmp_path / "own") == {"x": b"years of work"}


def test_hidden_files_and_locks_are_not_state(pods):
    first = pods("a")
    fill(first.here, {"x": b"1", ".x.aside": b"half", "v/lock": b"", ".aside/y": b"2"})
    first.push()
    assert files(pods("b").here) == {"x": b"1"}


def test_changes_of_different_files_join(pods):
    one, two = pods("a"), pods("b")
    fill(one.here, {"part-0": b"0"})
    fill(two.here, {"part-1": b"1"})
    one.push()
    two.push()
    assert files(pods("c").here) == {"part-0": b"0", "part-1": b"1"}


def test_of_two_changes_of_one_file_the_second_is_refused_and_the_first_stays(pods):
    one, two = pods("a"), pods("b")
    fill(one.here, {"manifest": b"one"})
    fill(two.here, {"manifest": b"two", "other": b"2"})
    one.push()
    with pytest.raises(ConflictError, match="manifest has been changed by another run"):
        two.push()
    assert files(pods("c").here) == {"manifest": b"one"}


def test_the_same_change_by_two_is_no_conflict(pods):
    one, two = pods("a"), pods("b")
    for mirror in (one, two):
        fill(mirror.here, {"manifest": b"same"})
        mirror.push()
    assert files(pods("c").here) == {"manifest": b"same"}


def test_a_change_meets_a_removal_and_is_refused(pods):
    first = pods("a")
    fill(first.here, {"x": b"1"})
    first.push()
    one, two = pods("b"), pods("c")
    fill(one.here, {})
    one.push()
    fill(two.here, {"x": b"2"})
    with pytest.raises(ConflictError):
        two.push()


@pytest.mark.parametrize("before", [{}, {"manifest": b"old", "raw/a": b"a"}])
def test_killed_at_any_point_a_push_is_done_or_not_and_the_next_one_completes(before, memory, tmp_path):
    after = {"manifest": b"new", "raw/a": b"a", "raw/b": b"b", "tables/t": b"t"}
    outcomes = set()
    for changes in range(10):
        store, here = MemoryStore(), tmp_path / str(changes)
        start = Mirror(ObjectStore(store, "memory:///state"), "f", here / "start")
        fill(start.here, before)
        start.push()
        dying = Mirror(Dying(store, changes), "f", here / "dying")
        dying.pull()
        fill(dying.here, after)
        try:
            dying.push()
        except Killed:
            killed = True
        else:
            killed = False
        found = Mirror(ObjectStore(store, "memory:///state"), "f", here / "next")
        found.pull()
        state = files(found.here)
        assert state in ((before,) if killed else (after,))
        outcomes.add(killed)
        fill(found.here, after)
        found.push()
        last = Mirror(ObjectStore(store, "memory:///state"), "f", here / "last")
        last.pull()
        assert files(last.here) == after
    assert outcomes == {True, False}


contents = st.dictionaries(st.sampled_from(["a", "b", "d/c", "d/e"]), st.sampled_from([b"", b"1", b"2"]))


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 2), contents, st.booleans()), max_size=8), st.randoms(use_true_random=False))
def test_the_store_always_holds_what_a_serial_history_of_the_pushes_would(history, chance):
    """An oracle of its own: a dict that applies each accepted change, and refuses a change of what changed since."""
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        store = ObjectStore(MemoryStore(), "memory:///state")
        mirrors = [Mirror(store, "f", Path(scratch) / str(i)) for i in range(3)]
        for mirror in mirrors:
            mirror.pull()
        truth: dict[str, bytes] = {}
        seen: list[dict[str, bytes]] = [{}, {}, {}]
        for who, wanted, pull_first in history:
            if pull_first:
                mirrors[who].pull()
                seen[who] = dict(truth)
            fill(mirrors[who].here, wanted)
            touched = {n for n in {*wanted, *seen[who]} if wanted.get(n) != seen[who].get(n)}
            clash = any(truth.get(n) != seen[who].get(n) and truth.get(n) != wanted.get(n) for n in touched)
            if clash:
                with pytest.raises(ConflictError):
                    mirrors[who].push()
                mirrors[who].pull()
                seen[who] = dict(truth)
                continue
            mirrors[who].push()
            truth = {n: c for n, c in truth.items() if n not in touched} | {n: wanted[n] for n in touched & set(wanted)}
            seen[who] = dict(wanted)
        check = Mirror(store, "f", Path(scratch) / "check")
        check.pull()
        assert files(check.here) == truth


def test_a_damaged_and_a_missing_content_are_found_out(pods, memory):
    first = pods("a")
    fill(first.here, {"x": b"1"})
    first.push()
    store = ObjectStore(memory, "memory:///state")
    (blob,) = store.names("data/m/blobs")
    store.write(f"data/m/blobs/{blob}", b"other")
    with pytest.raises(StoreError, match=r"data/m/x: its content \w{12} is damaged"):
        pods("b")
    store.delete(f"data/m/blobs/{blob}")
    with pytest.raises(StoreError, match=r"is missing"):
        pods("c")


def test_an_error_within_publishes_nothing(tmp_path, monkeypatch):
    environment = Environment(
        home=tmp_path / "one", feature_repo=tmp_path, tracking_uri="", store=(tmp_path / "s").as_uri()
    )
    (tmp_path / "s").mkdir()

    def fail_within() -> None:
        with mirrored(environment, "data/m"):
            fill(tmp_path / "one/data/m", {"x": b"1"})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_within()
    assert ObjectStore.open(environment.store).names("data") == []


def test_without_a_store_the_folder_is_the_state(tmp_path):
    environment = Environment(home=tmp_path, feature_repo=tmp_path, tracking_uri="")
    fill(tmp_path / "data/m", {"x": b"1"})
    with mirrored(environment, "data/m") as publish:
        publish()
    assert files(tmp_path / "data/m") == {"x": b"1"}


def test_a_directory_comes_back_as_it_went_and_its_marker_goes_last(memory, tmp_path):
    directory = tmp_path / "version"
    fill(directory, {"bundle/m.onnx": b"model", "features.json": b"{}", "serving.json": b"{}"})
    dying = Dying(memory, 2)
    with pytest.raises(Killed):
        dying.upload(directory, "serving/m/versions/1", last="serving.json")
    store = ObjectStore(memory, "memory:///state")
    assert store.names("serving/m/versions/1") == ["bundle/m.onnx", "features.json"]
    where = store.upload(directory, "serving/m/versions/1", last="serving.json")
    assert where == "memory:///state/serving/m/versions/1"
    assert files(store.download("serving/m/versions/1", tmp_path / "copy")) == files(directory)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("... <Code>NoSuchBucket</Code> ...", "the bucket does not exist"),
        ("error sending request for url", "does not answer"),
    ],
)
def test_what_the_client_raises_says_what_to_do(text, hint):
    with pytest.raises(StoreError, match="reading x") as raised, object_store.translated("reading x"):
        raise obstore.exceptions.GenericError(text)
    assert hint in raised.value.hint


def test_a_url_of_no_store_is_refused():
    with pytest.raises(StoreError, match="opening ftp://x"):
        ObjectStore.open("ftp://x")


def test_many_writers_of_different_files_all_get_their_turn(memory, tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    def write(number: int) -> None:
        mirror = Mirror(ObjectStore(memory, "memory:///state"), "f", tmp_path / str(number))
        mirror.pull()
        fill(mirror.here, {**files(mirror.here), f"part-{number}": bytes([number])})
        mirror.push()

    numbers = list(range(12))
    random.Random(0).shuffle(numbers)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(write, numbers))
    last = Mirror(ObjectStore(memory, "memory:///state"), "f", tmp_path / "last")
    last.pull()
    assert sorted(files(last.here)) == sorted(f"part-{n}" for n in numbers)
