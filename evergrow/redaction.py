"""What no log may hold, taken out of what is said: secrets, by their values and by the forms they come in.

This is the second line of defence. The first is not to say them (docs/how-to/what-to-log.md), and for data it is the
only one: nothing tells a feature's value from any other number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, unquote, urlsplit

MASK = "***"
SHORTEST = 6
"""Characters of a value that is looked for; shorter ones occur in words that are none."""

_NAMES = re.compile(r"SECRET|PASSWORD|PASSWD|TOKEN|ACCESS_KEY|HASH_KEY|API_KEY|CREDENTIAL|_HEADERS$", re.IGNORECASE)
_FORMS: tuple[tuple[re.Pattern[str], str], ...] = (
    # A URL's user and password
    (re.compile(r"://[^\s:/@'\"]*:[^\s/'\"]*@"), rf"://{MASK}@"),
    # Headers, as text, as JSON, as a tuple of bytes
    (
        re.compile(
            r"(?i)\b((?:proxy-)?authorization|x-api-key|x-amz-security-token|(?:set-)?cookie)"
            r"(['\"]?\s*[:=,]\s*b?['\"]?)[^'\"\r\n]+"
        ),
        rf"\1\2{MASK}",
    ),
    (re.compile(r"(?i)\b(bearer|basic)\s+[a-z0-9._~+/=-]{8,}"), rf"\1 {MASK}"),
    # Signed URLs
    (re.compile(r"(?i)([?&][\w-]*(?:signature|credential|token|sig|password|key)=)[^&\s'\"]+"), rf"\1{MASK}"),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"), MASK),
    # password=..., "secret_access_key": "..."
    (
        re.compile(
            r"(?i)\b(\w*(?:password|passwd|secret|token|access_key|hash_key))(['\"]?\s*[=:]\s*['\"]?)[^\s'\",;&}]+"
        ),
        rf"\1\2{MASK}",
    ),
)


class Redaction:
    """Takes secrets out of texts.

    >>> Redaction({"AWS_SECRET_ACCESS_KEY": "hunter2hunter2"})("used hunter2hunter2 at redis://me:pw@host/0")
    'used *** at redis://***@host/0'
    """

    def __init__(self, variables: Mapping[str, str]) -> None:
        """Learn the secrets.

        Args:
            variables: the process's environment: its secrets are looked for by name, and passwords in its URLs.
        """
        found = {form for value in _secrets(variables) for form in (value, quote(value, safe=""), unquote(value))}
        longest_first = sorted((value for value in found if len(value) >= SHORTEST), key=len, reverse=True)
        self._values = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def __call__(self, text: str) -> str:
        """The text without them."""
        if self._values is not None:
            text = self._values.sub(MASK, text)
        for form, instead in _FORMS:
            text = form.sub(instead, text)
        return text

    def of(self, value: Any) -> Any:
        """A JSON-able value without them, keys left as they are."""
        if isinstance(value, str):
            return self(value)
        if isinstance(value, Mapping):
            return {key: self.of(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [self.of(each) for each in value]
        return value


def _secrets(variables: Mapping[str, str]) -> Iterator[str]:
    for name, value in variables.items():
        if _NAMES.search(name):
            yield value
        elif "://" in value:
            yield from _passwords(value)


def _passwords(text: str) -> Iterator[str]:
    """Of all URLs in a text."""
    for word in re.findall(r"[a-z][a-z0-9+]*://[^\s'\"]+", text, re.IGNORECASE):
        try:
            password = urlsplit(word).password
        except ValueError:
            continue
        if password:
            yield password
