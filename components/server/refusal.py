"""The one exception that a caller sees."""

from __future__ import annotations


class Refusal(Exception):
    """A request that is not answered with a prediction.

    Attributes:
        status: HTTP status.
        message: where, which rule, what was found, and how to fix it; the answer is {"error": message}.
        reason: one word for metrics and the log, which get nothing that the caller sent.
        field: name of the field at fault, if it is one of the schema's.
    """

    def __init__(self, status: int, message: str, reason: str = "invalid", field: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.reason = reason
        self.field = field
