"""Connections to Feast's online stores that a server can hold: SQLite, and Redis over one multiplexed connection.

Both answer a list of lookups with one list of slots per lookup: for every view of the lookup's group its serialized
feature values in the plan's order, then its event time in seconds since 1970, each None where nothing is stored.
Every wait is bounded.
"""

from __future__ import annotations

import asyncio
import calendar
import os
import socket
import sqlite3
import ssl
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, unquote, urlsplit

from evergrow.errors import FeatureStoreError
from evergrow.integrations.feast_layout import decode_timestamp

CONNECT_SECONDS = 1.0
REPLY_SECONDS = 1.0
# After a failed attempt to connect, requests are refused for this long without another attempt.
BACKOFF_SECONDS = 0.2

Lookup = tuple[int, bytes]
"""Number of the group of views, and the serialized entity key."""

Slots = Sequence[Any]


class StoreUnavailable(FeatureStoreError):
    """The online store cannot be reached, or did not answer in time; trying again may help."""


class OnlineStore(Protocol):
    """Where the latest feature values are."""

    where: str
    """The place, for messages; never holds a secret."""

    def fetch(self, lookups: Sequence[Lookup]) -> list[Slots]:
        """One list of slots per lookup."""
        ...

    async def fetch_async(self, lookups: Sequence[Lookup]) -> list[Slots]:
        """The same without blocking the event loop."""
        ...

    async def ping(self) -> None:
        """Return if the store can be read.

        Raises:
            StoreUnavailable: it cannot.
        """
        ...


def connect(store: Mapping[str, Any], project: str, groups: Sequence[Mapping[str, Any]]) -> OnlineStore:
    """The connection that a plan's `store` describes; opened on first use."""
    if store["type"] == "sqlite":
        return SqliteStore(store, groups)
    return RedisStore(store, project, groups)


def parse_url(url: str) -> dict[str, Any]:
    """A plan's `store` from a URL: sqlite:///<path>, redis://[user:password@]host[:port][/db], rediss:// for TLS.

    Raises:
        FeatureStoreError: it is none of these.

    >>> parse_url("redis://features:6380/1")["port"]
    6380
    """
    parts = urlsplit(url)
    if parts.scheme == "sqlite" and parts.path:
        return {"type": "sqlite", "path": unquote(parts.path)}
    database = parts.path.strip("/") or "0"
    if parts.scheme in ("redis", "rediss") and parts.hostname and database.isdecimal():
        return {
            "type": "redis",
            "host": parts.hostname,
            "port": parts.port or 6379,
            "db": int(database),
            "tls": parts.scheme == "rediss",
            "username": unquote(parts.username or ""),
            "password": unquote(parts.password or ""),
        }
    raise FeatureStoreError(
        f"the online store must be sqlite:///<path> or redis://[user:password@]host:port/db, found scheme "
        f"{parts.scheme!r}",
        hint="set EVERGROW_ONLINE_STORE to such a URL, or leave it unset to use the plan's own",
    )


class SqliteStore:
    """Feast's SQLite layout: one table per view, one row per entity key and feature. Read-only."""

    def __init__(self, store: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> None:
        self._path = Path(store["path"])
        self.where = f"sqlite at {self._path}"
        self._statements = [_union(group["views"]) for group in groups]
        self._places = [dict(_places(group["views"])) for group in groups]
        self._sizes = [_size(group["views"]) for group in groups]
        self._times = [_times(group["views"]) for group in groups]
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None

    def fetch(self, lookups: Sequence[Lookup]) -> list[Slots]:
        """One list of slots per lookup, each by one prepared statement.

        Raises:
            StoreUnavailable: no file, no table of a view, or locked for longer than a second.
        """
        try:
            execute = (self._connection or self._open()).execute
            return [self._slots(group, execute(self._statements[group], (key,))) for group, key in lookups]
        except sqlite3.Error as error:
            self._close()
            raise StoreUnavailable(f"the online store ({self.where}) cannot be read: {error}") from error

    async def fetch_async(self, lookups: Sequence[Lookup]) -> list[Slots]:
        """The same: a lookup takes microseconds, less than handing it to a thread."""
        return self.fetch(lookups)

    async def ping(self) -> None:
        """Return if every table can be read; reopens the file if another one is in its place."""
        if self._connection and self._file != _identity(self._path):
            self._close()
        self.fetch([(group, b"") for group in range(len(self._statements))])

    def _open(self) -> sqlite3.Connection:
        uri = f"file:{quote(str(self._path))}?mode=ro"
        self._connection = sqlite3.connect(uri, uri=True, timeout=REPLY_SECONDS, isolation_level=None)
        self._file = _identity(self._path)
        return self._connection

    def _close(self) -> None:
        if self._connection:
            self._connection.close()
        self._connection = None

    def _slots(self, group: int, rows: sqlite3.Cursor) -> Slots:
        slots: list[Any] = [None] * self._sizes[group]
        places = self._places[group]
        for view, feature, value, event_time in rows:
            place = places.get((view, feature))
            if place is not None:
                slots[place] = value
            slots[places[view, None]] = event_time
        for slot in self._times[group]:
            if slots[slot] is not None:
                slots[slot] = _utc(slots[slot])
        return slots


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _utc(event_time: int) -> int:
    """Feast stores UTC as if it were local time, and reads it back so: seconds since 1970 where local time is UTC."""
    return calendar.timegm(time.localtime(event_time))


def _union(views: Sequence[Mapping[str, Any]]) -> str:
    """One statement for all views of a group."""
    return " UNION ALL ".join(
        f'SELECT {number}, feature_name, value, event_ts FROM "{view["table"]}" WHERE entity_key = ?1'  # noqa: S608
        for number, view in enumerate(views)
    )


def _places(views: Sequence[Mapping[str, Any]]) -> Iterator[tuple[tuple[int, str | None], int]]:
    """(view, feature) → slot; (view, None) → the slot of its event time."""
    slot = 0
    for number, view in enumerate(views):
        for feature in view["features"]:
            yield (number, feature["name"]), slot
            slot += 1
        yield (number, None), slot
        slot += 1


def _times(views: Sequence[Mapping[str, Any]]) -> list[int]:
    """The slots of event times."""
    return [slot for (_, name), slot in _places(views) if name is None]


def _size(views: Sequence[Mapping[str, Any]]) -> int:
    return sum(len(view["features"]) + 1 for view in views)


class RedisStore:
    """Feast's Redis layout: one hash per entity key, one field per feature of every view."""

    def __init__(self, store: Mapping[str, Any], project: str, groups: Sequence[Mapping[str, Any]]) -> None:
        self._store = store
        self.where = f"redis at {store['host']}:{store['port']}/{store['db']}"
        self._project = project.encode()
        self._commands = [_hmget(group["views"]) for group in groups]
        self._times = [_times(group["views"]) for group in groups]
        self._connection: _Connection | None = None
        self._connecting: asyncio.Task[_Connection] | None = None
        self._refused_until = 0.0

    def fetch(self, lookups: Sequence[Lookup]) -> list[Slots]:
        """One list of slots per lookup, over a connection of its own: for scripts and tests, not for a server."""
        import hiredis

        replies: list[Any] = []
        reader = hiredis.Reader()
        try:
            with self._dial() as connection:
                commands = [*self._greeting(), *(self._command(lookup) for lookup in lookups)]
                connection.sendall(b"".join(commands))
                while len(replies) < len(commands):
                    received = connection.recv(65536)
                    if not received:
                        raise ConnectionError("closed by the server")
                    reader.feed(received)
                    replies += _complete(reader)
        except (OSError, hiredis.ProtocolError) as error:
            raise self._unavailable(error) from error
        _refuse_errors(replies, self.where)
        return self._slots(lookups, replies[len(commands) - len(lookups) :])

    async def fetch_async(self, lookups: Sequence[Lookup]) -> list[Slots]:
        """One list of slots per lookup: all commands in one write, all requests over one connection.

        Raises:
            StoreUnavailable: no connection, or no reply, within a second.
        """
        connection = self._connection
        if connection is None or not connection.usable:
            connection = await self._connect()
        replies = await connection.ask([self._command(lookup) for lookup in lookups])
        return self._slots(lookups, replies)

    async def ping(self) -> None:
        """Return if the server answers."""
        connection = self._connection
        if connection is None or not connection.usable:
            connection = await self._connect()
        await connection.ask([b"*1\r\n$4\r\nPING\r\n"])

    def _command(self, lookup: Lookup) -> bytes:
        group, key = lookup
        head, fields = self._commands[group]
        key += self._project
        return b"%b$%d\r\n%b\r\n%b" % (head, len(key), key, fields)

    def _slots(self, lookups: Sequence[Lookup], replies: list[Any]) -> list[Slots]:
        for (group, _), reply in zip(lookups, replies, strict=True):
            for slot in self._times[group]:
                if reply[slot] is not None:
                    reply[slot] = decode_timestamp(reply[slot])
        return replies

    async def _connect(self) -> _Connection:
        """The connection; however many ask for it at once, one attempt is made."""
        if self._connecting is None:
            if time.monotonic() < self._refused_until:
                raise StoreUnavailable(f"the online store ({self.where}) cannot be reached")
            self._connecting = asyncio.ensure_future(self._open())
        try:
            return await asyncio.shield(self._connecting)
        finally:
            if self._connecting and self._connecting.done():
                self._connecting = None

    async def _open(self) -> _Connection:
        loop = asyncio.get_running_loop()
        store = self._store
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                _, connection = await loop.create_connection(
                    lambda: _Connection(self.where), store["host"], store["port"], ssl=_tls(store)
                )
                await connection.ask(self._greeting())
        except (OSError, StoreUnavailable) as error:
            self._refused_until = time.monotonic() + BACKOFF_SECONDS
            raise self._unavailable(error) from error
        self._connection = connection
        return connection

    def _unavailable(self, error: Exception) -> StoreUnavailable:
        if isinstance(error, StoreUnavailable):
            return error
        reason = str(error) or f"no answer within {CONNECT_SECONDS:g} s"
        return StoreUnavailable(f"the online store ({self.where}) cannot be reached: {reason}")

    def _dial(self) -> socket.socket:
        store = self._store
        plain = socket.create_connection((store["host"], store["port"]), timeout=REPLY_SECONDS)
        context = _tls(store)
        return context.wrap_socket(plain, server_hostname=store["host"]) if context else plain

    def _greeting(self) -> list[bytes]:
        """What a connection begins with: who we are, and which database."""
        store, commands = self._store, []
        if store.get("password"):
            user = [store["username"]] if store.get("username") else []
            commands.append(_pack("AUTH", *user, store["password"]))
        return [*commands, _pack("SELECT", str(store["db"]))]


class _Connection(asyncio.Protocol):
    """One connection on which requests do not wait for each other: replies come in the order of the commands."""

    def __init__(self, where: str) -> None:
        import hiredis

        self.broken = False
        self._where = where
        self._reader = hiredis.Reader()
        self._protocol_error = hiredis.ProtocolError
        self._waiting: deque[tuple[int, asyncio.Future[list[Any]], float]] = deque()
        self._received: list[Any] = []
        self._watch: asyncio.TimerHandle | None = None

    @property
    def usable(self) -> bool:
        """Whether it can be asked; an event loop that ends closes it without a word."""
        return not self.broken and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(f"connection lost: {error}" if error else "connection closed by the server")

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            self._received += _complete(self._reader)
        except self._protocol_error as error:
            self._fail(f"not a Redis server: {error}")
        while self._waiting and len(self._received) >= self._waiting[0][0]:
            count, waiter, _ = self._waiting.popleft()
            replies, self._received = self._received[:count], self._received[count:]
            if not waiter.done():
                waiter.set_result(replies)

    async def ask(self, commands: Sequence[bytes]) -> list[Any]:
        """The replies to `commands`."""
        if self.broken:
            raise StoreUnavailable(f"the online store ({self._where}) closed the connection")
        if not commands:
            return []
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[list[Any]] = loop.create_future()
        self._waiting.append((len(commands), waiter, loop.time() + REPLY_SECONDS))
        # One timer watches the oldest request: a timer per request would cost more than the request.
        if self._watch is None:
            self._watch = loop.call_later(REPLY_SECONDS, self._check)
        self._transport.write(b"".join(commands))
        replies = await waiter
        _refuse_errors(replies, self._where)
        return replies

    def _check(self) -> None:
        self._watch = None
        if self._waiting:
            loop = asyncio.get_running_loop()
            left = self._waiting[0][2] - loop.time()
            if left <= 0:
                self._fail(f"no answer within {REPLY_SECONDS:g} s")
            else:
                self._watch = loop.call_later(left, self._check)

    def _fail(self, reason: str) -> None:
        self.broken = True
        self._transport.abort()
        while self._waiting:
            _, waiter, _ = self._waiting.popleft()
            if not waiter.done():
                waiter.set_exception(StoreUnavailable(f"the online store ({self._where}) cannot be read: {reason}"))


def _complete(reader: Any) -> Iterator[Any]:
    """The replies that have arrived whole."""
    while (reply := reader.gets()) is not False:
        yield reply


def _refuse_errors(replies: Sequence[Any], where: str) -> None:
    for reply in replies:
        if isinstance(reply, Exception):
            raise StoreUnavailable(f"the online store ({where}) refused: {reply}")


def _tls(store: Mapping[str, Any]) -> ssl.SSLContext | None:
    return ssl.create_default_context(cafile=os.environ.get("EVERGROW_ONLINE_STORE_CA")) if store.get("tls") else None


def _pack(*words: str | bytes) -> bytes:
    """A Redis command as it goes over the wire."""
    parts = [word if isinstance(word, bytes) else word.encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


def _hmget(views: Sequence[Mapping[str, Any]]) -> tuple[bytes, bytes]:
    """The constant parts of a group's HMGET: before and after the key."""
    fields: list[bytes] = []
    for view in views:
        fields += [bytes.fromhex(feature["field"]) for feature in view["features"]]
        fields.append(f"_ts:{view['name']}".encode())
    head = b"*%d\r\n$5\r\nHMGET\r\n" % (2 + len(fields))
    return head, b"".join(b"$%d\r\n%b\r\n" % (len(field), field) for field in fields)
