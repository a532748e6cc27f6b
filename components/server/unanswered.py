"""What metrics and the log say of requests that were not answered: nothing that a caller sent."""

from __future__ import annotations

import logging

from components.server import metrics
from components.server.refusal import Refusal

LINES_A_SECOND = 10
"""A store that is away must not fill the disks of those who collect logs."""


class AtMost(logging.Filter):
    """Lets so many lines through each second; one that comes after others were left out says how many."""

    def __init__(self, lines: int) -> None:
        super().__init__()
        self.lines = lines
        self._second = self._told = self._left_out = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is told."""
        if int(record.created) != self._second:
            self._second, self._told = int(record.created), 0
        self._told += 1
        if self._told > self.lines:
            self._left_out += 1
            return False
        if self._left_out:
            record.msg = f"{record.msg}; {self._left_out:,} lines before it were left out"
            self._left_out = 0
        return True


logger = logging.getLogger("evergrow.server.requests")
logger.addFilter(AtMost(LINES_A_SECOND))


def log_refusal(protocol: str, refusal: Refusal, request_id: str) -> None:
    """Count it, and say of it what the caller did not send: the answer says more, to the caller alone."""
    metrics.REFUSALS.labels(refusal.reason).inc()
    level = logging.WARNING if refusal.status >= 500 else logging.INFO
    about = f": {refusal.field}" if refusal.field else ""
    logger.log(
        level, "refused %s: %d %s%s", protocol, refusal.status, refusal.reason, about, extra={"request_id": request_id}
    )


def log_fault(protocol: str, error: Exception, request_id: str) -> None:
    """Say where a fault of ours was raised."""
    logger.error("a %s request failed", protocol, exc_info=error, extra={"request_id": request_id})
