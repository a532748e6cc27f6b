"""The object store: where a cluster's state lives, since the pods that change it come and go.

Steps work in folders. `Mirror` makes a folder what the store has, and publishes what a step changed, all of it or
nothing; `ObjectStore` copies whole folders that are written once, such as the versions that KServe loads.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError, PreconditionError
from obstore.store import LocalStore

from evergrow.contracts import Value
from evergrow.environment import Environment
from evergrow.errors import ConflictError, StoreError

INDEX, BLOBS = "index.json", "blobs"
# In a folder here: that a mirror made it.
MARK = ".mirrored"
LOCK = ".swap.lock"
SIDE_BY_SIDE = 8
# How long a store that does not answer is asked again: one that restarts is back by then. The pauses grow by chance, so
# it is time that ends them, not their number.
PATIENCE = timedelta(minutes=2)
ATTEMPTS = 10_000
# Writers that meet at one index take turns; more than this many in a row is no accident.
TURNS = 30

SILENT = "error sending request"
_HINTS: Mapping[str, str] = {
    "NoSuchBucket": "the bucket does not exist: make it, or mend `data.store` of the environment",
    "PermissionDeniedError": "the bucket does not exist, the credentials lack a right, or the secret key is wrong",
    "UnauthenticatedError": "the store does not know the credentials: see the Secret that `data.secrets` names",
    SILENT: "the store does not answer: is `data.endpoint` of the environment right, and is it up?",
}


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn what the store's client raises into a StoreError that says what was being done."""
    try:
        yield
    except (BaseError, FileNotFoundError) as error:
        text = f"{type(error).__name__}: {error}"
        sign = next((sign for sign in _HINTS if sign in text), "")
        # Whatever else it is, the store may be back in a moment; a bucket or a right does not come by itself.
        retriable = sign in ("", SILENT)
        raise StoreError(
            f"{doing}: {str(error).splitlines()[0]}", hint=_HINTS.get(sign, ""), retriable=retriable
        ) from error


class ObjectStore:
    """Folders in an object store: "s3://bucket/folder", "gs://...", "az://...", "file:///...".

    Endpoint, region and credentials are read from the environment, as the provider's own tools read them.
    """

    def __init__(self, store: Any, url: str) -> None:
        self.store = store
        self.url = url.rstrip("/")

    @classmethod
    def open(cls, url: str, patience: timedelta = PATIENCE) -> Self:
        """Connect to the store that a URL names; nothing is asked of it yet.

        Args:
            url: of the store.
            patience: how long it is asked again while it does not answer.

        Raises:
            StoreError: the URL names no store.
        """
        from obstore.store import from_url

        with translated(f"opening {url}"):
            return cls(from_url(url, retry_config={"max_retries": ATTEMPTS, "retry_timeout": patience}), url)

    @classmethod
    def of(cls, environment: Environment, patience: timedelta = PATIENCE) -> Self:
        """An environment's; on one machine its folder, `home`.

        Raises:
            StoreError: its URL names no store.
        """
        if environment.store is None:
            environment.home.mkdir(parents=True, exist_ok=True)
        return cls.open(environment.store or environment.home.as_uri(), patience)

    def read(self, name: str) -> tuple[bytes, str] | None:
        """An object and its entity tag; None if there is none.

        Raises:
            StoreError: the store refused or does not answer, or there is no such bucket.
        """
        with translated(f"reading {self.url}/{name}"):
            try:
                found = obstore.get(self.store, name)
                return bytes(found.bytes()), str(found.meta["e_tag"])
            except (NotFoundError, FileNotFoundError) as error:
                if "NoSuchBucket" in str(error):
                    raise
                return None

    def fetch(self, name: str, to: Path) -> str | None:
        """Copy an object into the file `to`, in pieces; returns its SHA-256, None if there is no such object."""
        to.parent.mkdir(parents=True, exist_ok=True)
        aside, hashed = to.with_name(f".{to.name}.{os.getpid()}"), hashlib.sha256()
        with translated(f"reading {self.url}/{name}"):
            try:
                pieces = obstore.get(self.store, name).stream()
            except (NotFoundError, FileNotFoundError):
                return None
            with aside.open("wb") as file:
                for piece in pieces:
                    hashed.update(piece)
                    file.write(piece)
        aside.replace(to)
        return hashed.hexdigest()

    def write(self, name: str, content: bytes | Path) -> None:
        """Put an object in place, whole, over what was there; of a large file, in pieces."""
        with translated(f"writing {self.url}/{name}"):
            obstore.put(self.store, name, content)

    def swap(self, name: str, content: bytes, seen: str | None) -> bool:
        """Replace an object if it still is what was seen (None: if there still is none); returns whether it was."""
        mode: Any = {"e_tag": seen} if seen else "create"
        if seen and isinstance(self.store, LocalStore):
            return self._swap_file(name, content, seen)
        with translated(f"replacing {self.url}/{name}"):
            try:
                obstore.put(self.store, name, content, mode=mode)
            except (AlreadyExistsError, PreconditionError):
                return False
            return True

    def _swap_file(self, name: str, content: bytes, seen: str) -> bool:
        """A folder of this machine has no compare-and-swap of its own: those who swap take turns by a lock."""
        with (Path(self.store.prefix) / LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            found = self.read(name)
            if found is None or found[1] != seen:
                return False
            self.write(name, content)
            return True

    def names(self, folder: str) -> list[str]:
        """Names of all objects below a folder, relative to it, sorted."""
        return sorted(self.written(folder))

    def written(self, folder: str) -> dict[str, datetime]:
        """When each object below a folder was written, by the store's clock; names are relative to the folder."""
        with translated(f"listing {self.url}/{folder}"):
            found = [m for page in obstore.list(self.store, f"{folder}/") for m in page]
        return {m["path"].removeprefix(f"{folder}/"): m["last_modified"] for m in found}

    def delete(self, name: str) -> None:
        """Remove an object; one that is not there is removed already."""
        with translated(f"deleting {self.url}/{name}"):
            obstore.delete(self.store, name)

    def download(self, folder: str, to: Path) -> Path:
        """Copy all objects below a folder of the store into the directory `to`."""
        _each(self.names(folder), lambda name: self._download(f"{folder}/{name}", to / name))
        return to

    def copy(self, name: str, to: Path) -> None:
        """Copy what has this name, an object or a folder, to the path `to`."""
        if self.fetch(name, to) is None:
            self.download(name, to)

    def upload(self, directory: Path, folder: str, last: str | None = None) -> str:
        """Copy a directory into a folder of the store; returns its URL.

        Args:
            directory: what is copied.
            folder: where to.
            last: the file that is copied when all others are there, so that it marks the folder complete.
        """
        names = [path.relative_to(directory).as_posix() for path in sorted(directory.rglob("*")) if path.is_file()]
        _each([n for n in names if n != last], lambda name: self.write(f"{folder}/{name}", directory / name))
        if last is not None:
            self.write(f"{folder}/{last}", directory / last)
        return f"{self.url}/{folder}"

    def _download(self, name: str, path: Path) -> None:
        if self.fetch(name, path) is None:
            raise StoreError(f"{self.url}/{name}: was removed while it was being copied", hint="run it again")


class Entry(Value):
    """A file of a mirrored folder."""

    digest: str
    size: int


Files = dict[str, Entry]


class Mirror:
    """A folder here, and the same folder in an object store.

        <folder>/index.json        name, SHA-256 and size of each file; replaced by compare-and-swap
        <folder>/blobs/<sha256>    their contents; written once, never changed

    A reader sees the folder as one push left it, never a mixture. Killed at any point, a push is done or it is not.
    Pushes of different files join; of two that change the same file the second is refused.
    """

    def __init__(self, store: ObjectStore, folder: str, here: Path) -> None:
        self.store, self.folder, self.here = store, folder, here
        self._pulled: Files = {}

    def pull(self) -> None:
        """Make the folder here what the store has.

        Raises:
            StoreError: the store does not answer, or lost a file; or the folder holds what never came from a store.
        """
        there, _ = self._index()
        here = _scan(self.here)
        self._own(here)
        for name in here.keys() - there.keys():
            (self.here / name).unlink()
        _each([name for name, entry in there.items() if here.get(name) != entry], lambda n: self._get(n, there[n]))
        self._pulled = there

    def push(self) -> None:
        """Publish what has changed here since the last pull or push.

        Raises:
            ConflictError: a file that changed here has been changed by another in the meantime.
            StoreError: the store does not answer.
        """
        here = _scan(self.here)
        changed = {name: entry for name, entry in here.items() if self._pulled.get(name) != entry}
        removed = self._pulled.keys() - here.keys()
        if changed or removed:
            self._publish(changed, removed)
        self._pulled = here
        self._mark()

    def _own(self, here: Files) -> None:
        """Mark the folder as a mirror's; one that was filled by other means is nobody's to empty."""
        if here and not (self.here / MARK).exists():
            raise StoreError(
                f"{self.here}: holds {len(here)} files that did not come from {self._url}, which would replace them",
                hint="unset EVERGROW_STORE to work on what is here, or choose another EVERGROW_HOME",
            )
        self._mark()

    def _mark(self) -> None:
        self.here.mkdir(parents=True, exist_ok=True)
        (self.here / MARK).touch()

    def _publish(self, changed: Files, removed: set[str]) -> None:
        _each(list(changed), lambda name: self._put(name, changed[name]))
        for turn in range(TURNS):
            there, seen = self._index()
            self._check(there, changed, removed)
            joined = {n: e for n, e in {**there, **changed}.items() if n not in removed}
            if self.store.swap(f"{self.folder}/{INDEX}", _dump(joined), seen):
                return
            time.sleep(random.uniform(0, 0.05 * (turn + 1)))  # noqa: S311 - nobody has to be unable to guess it
        raise ConflictError(f"{self._url}: others went on writing to it", hint="run it again", retriable=True)

    def _check(self, there: Files, changed: Files, removed: set[str]) -> None:
        for name in sorted({*changed, *removed}):
            now, ours = there.get(name), changed.get(name)
            if now != self._pulled.get(name) and now != ours:
                raise ConflictError(
                    f"{self._url}: {name} has been changed by another run since this one read it",
                    hint="nothing of this run was published; run it again",
                    retriable=True,
                )

    def _index(self) -> tuple[Files, str | None]:
        found = self.store.read(f"{self.folder}/{INDEX}")
        if found is None:
            return {}, None
        return {name: Entry.model_validate(entry) for name, entry in json.loads(found[0]).items()}, found[1]

    def _get(self, name: str, entry: Entry) -> None:
        digest = self.store.fetch(f"{self.folder}/{BLOBS}/{entry.digest}", self.here / name)
        if digest != entry.digest:
            state = "missing" if digest is None else "damaged"
            raise StoreError(
                f"{self._url}/{name}: its content {entry.digest[:12]} is {state}", hint="restore the bucket"
            )

    def _put(self, name: str, entry: Entry) -> None:
        self.store.write(f"{self.folder}/{BLOBS}/{entry.digest}", self.here / name)

    @property
    def _url(self) -> str:
        return f"{self.store.url}/{self.folder}"


@contextmanager
def mirrored(environment: Environment, folder: str) -> Iterator[Callable[[], None]]:
    """Work in `<home>/<folder>` on what the environment's object store holds of it, and publish it at the end.

    Yields a function that publishes what was done so far. Where there is no object store, the folder is the state.
    An error publishes nothing.
    """
    if environment.store is None:
        yield lambda: None
        return
    mirror = Mirror(ObjectStore.open(environment.store), folder, environment.home / folder)
    mirror.pull()
    yield mirror.push
    mirror.push()


def fetch(environment: Environment, folder: str) -> Path:
    """Make `<home>/<folder>` what the environment's object store holds of it, to be read; returns its path."""
    here = environment.home / folder
    if environment.store is not None:
        Mirror(ObjectStore.open(environment.store), folder, here).pull()
    return here


def publish(environment: Environment, path: Path) -> None:
    """Put a file that lies below `home` in the same place of the environment's object store, if it has one."""
    if environment.store is not None:
        ObjectStore.open(environment.store).write(path.relative_to(environment.home).as_posix(), path)


def withdraw(environment: Environment, path: Path) -> None:
    """Remove a file that lies below `home`, here and from the environment's object store, if it has one."""
    if environment.store is not None:
        ObjectStore.open(environment.store).delete(path.relative_to(environment.home).as_posix())
    path.unlink(missing_ok=True)


def copy_here(environment: Environment, path: Path) -> None:
    """Make a file below `home` what was published under its name, if there is an object store."""
    if environment.store is None:
        return
    name = path.relative_to(environment.home).as_posix()
    if ObjectStore.open(environment.store).fetch(name, path) is None:
        path.unlink(missing_ok=True)


def copy_all_here(environment: Environment, folder: Path) -> None:
    """Make a folder below `home` hold the files that were published in it, if there is an object store."""
    if environment.store is None:
        return
    store, name = ObjectStore.open(environment.store), folder.relative_to(environment.home).as_posix()
    published = store.names(name)
    for stray in {p for p in folder.rglob("*") if p.is_file()} - {folder / n for n in published}:
        stray.unlink()
    store.download(name, folder)


def _scan(folder: Path) -> Files:
    """The files that count: neither hidden ones, which are still being written, nor locks."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    names = ((path.relative_to(folder), path) for path in found if path.name != "lock")
    return {
        name.as_posix(): Entry(digest=_sha256(path), size=path.stat().st_size)
        for name, path in names
        if not any(part.startswith(".") for part in name.parts)
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _dump(files: Files) -> bytes:
    return (json.dumps({n: e.model_dump() for n, e in sorted(files.items())}, indent=1) + "\n").encode()


def _each(names: list[str], do: Callable[[str], None]) -> None:
    """Do something for each name, several at once; the first error is raised when all have ended."""
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        for done in [pool.submit(do, name) for name in names]:
            done.result()
