"""Code blocks of Markdown pages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"(?:<!-- file: (?P<file>\S+) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)


class Block(NamedTuple):
    """One block; `file` is where a reader is told to write it, if so."""

    language: str
    text: str
    file: str | None


def blocks(page: Path) -> Iterator[Block]:
    """The code blocks of a page, in order."""
    for found in FENCE.finditer(page.read_text(encoding="utf-8")):
        yield Block(found["language"], found["text"], found["file"])
