"""The append-only record of who put which version into service, when and why."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Self

from evergrow.contracts import Instant, ModelVersion, Value
from evergrow.errors import RegistryError

GENESIS = "0" * 64
"""What the first record names as the digest of the one before."""


class Promotion(Value):
    """One change of a model's champion."""

    at: Instant
    actor: str
    model: str
    replaced: int | None
    """Version that was the champion until then."""
    version: int
    identity: str
    model_digest: str
    reason: str

    @classmethod
    def of(cls, version: ModelVersion, champion: ModelVersion | None, actor: str, reason: str, now: datetime) -> Self:
        """The record of `version` taking the place of `champion`."""
        return cls(
            at=now,
            actor=actor,
            model=version.model,
            replaced=champion.version if champion else None,
            version=version.version,
            identity=version.identity,
            model_digest=version.model_digest,
            reason=reason,
        )


class AuditLog:
    """JSON lines, each with the SHA-256 of the line before: an altered, removed or inserted record breaks the chain.

    Removing the newest records leaves a valid, shorter chain; the digest that `append` returned, kept elsewhere, shows
    that (the registry keeps it as a tag of the promoted version).
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, promotion: Promotion) -> str:
        """Add a record and return its digest. On return it is on disk; a kill before leaves the log as it was.

        Raises:
            RegistryError: the log's chain is broken.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._locked() as descriptor:
            whole = self._drop_torn_line(descriptor)
            line = json.dumps(promotion.model_dump(mode="json") | {"previous": self._verify(whole)}, sort_keys=True)
            os.lseek(descriptor, 0, os.SEEK_END)
            os.write(descriptor, line.encode() + b"\n")
            os.fsync(descriptor)
        return _digest(line.encode())

    def records(self) -> list[Promotion]:
        """All records, oldest first.

        Raises:
            RegistryError: the chain is broken; says at which line.
        """
        self.verify()
        return [
            Promotion.model_validate({k: v for k, v in json.loads(line).items() if k != "previous"})
            for line in self._lines()
        ]

    def verify(self) -> str:
        """Check the chain and return the digest of the newest record.

        Raises:
            RegistryError: a record was altered, removed or inserted; says at which line.
        """
        return self._verify(self._lines())

    def _verify(self, lines: list[bytes]) -> str:
        previous = GENESIS
        for number, line in enumerate(lines, start=1):
            try:
                named = json.loads(line)["previous"]
            except (ValueError, KeyError, TypeError):
                named = "nothing readable"
            if named != previous:
                raise RegistryError(
                    f"{self.path}: line {number} names {named[:12]} as the record before it, which is {previous[:12]}",
                    hint="a record was altered, removed or inserted; restore the file from a backup",
                )
            previous = _digest(line)
        return previous

    def _lines(self) -> list[bytes]:
        return self.path.read_bytes().splitlines() if self.path.exists() else []

    @contextmanager
    def _locked(self) -> Iterator[int]:
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
        finally:
            os.close(descriptor)

    def _drop_torn_line(self, descriptor: int) -> list[bytes]:
        """Lines that were written whole. A writer killed midway leaves a torn one, which nobody was told of."""
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        os.ftruncate(descriptor, len(whole))
        return whole.splitlines()


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()
