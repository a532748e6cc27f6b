"""The book of a model's loop in the object store: `loops/<model>/book.jsonl`, replaced by compare-and-swap."""

from __future__ import annotations

from collections.abc import Sequence

from evergrow.errors import ConflictError
from evergrow.integrations.object_store import ObjectStore
from evergrow.loop.book import Entry, read, written


class StoredBook:
    """`evergrow.loop.ports.Book` as it was when it was first read: who reads it later has another.

    An entry is added only to what was read, so what is decided by a book cannot be added to another one.
    """

    def __init__(self, store: ObjectStore, model: str) -> None:
        self.store, self.name = store, f"loops/{model}/book.jsonl"
        self._content: bytes | None = None
        self._revision: str | None = None
        self._entries: list[Entry] = []

    def entries(self) -> Sequence[Entry]:
        """All of them, oldest first.

        Raises:
            LoopError: a line is no entry; says which.
            StoreError: the store does not answer.
        """
        self._read()
        return tuple(self._entries)

    def append(self, entry: Entry) -> None:
        """Add an entry; it is in the store on return. A kill before leaves the book with it or without.

        Raises:
            ConflictError: somebody has written since it was read.
            StoreError: the store does not answer.
        """
        content = self._read() + written(entry)
        if not self.store.swap(self.name, content, self._revision):
            raise ConflictError(
                f"{self.store.url}/{self.name}: somebody else has written in it", hint="look again", retriable=True
            )
        self._entries.append(entry)
        self._content = content
        self._revision = self._revision_of(content)

    def _read(self) -> bytes:
        if self._content is None:
            found = self.store.read(self.name)
            self._content, self._revision = found or (b"", None)
            self._entries = read(self._content, f"{self.store.url}/{self.name}")
        return self._content

    def _revision_of(self, content: bytes) -> str:
        """Of what we wrote; if others wrote since, of nothing that is there."""
        found = self.store.read(self.name)
        if found is None or found[0] != content:
            raise ConflictError(
                f"{self.store.url}/{self.name}: somebody else has written in it", hint="look again", retriable=True
            )
        return found[1]
