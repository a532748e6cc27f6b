"""Programs in the place of docker, kind, kubectl, ...: they note how they are called, and answer as they are told."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

# A Python a call is what these tests take their time for: -I -S is one with nothing but the standard library.
PYTHON = f"{sys.executable} -IS"
PROGRAM = """#!{python}
import json, pathlib, sys
here = pathlib.Path(__file__).parent
name, arguments = pathlib.Path(sys.argv[0]).name, sys.argv[1:]
line = " ".join([name, *arguments])
text = sys.stdin.read() if "--filename=-" in arguments else ""
values = [b for a, b in zip(arguments, arguments[1:]) if a == "--values"]
files = [pathlib.Path(each).read_text() for each in values]
with open(here / "calls", "a") as calls:
    calls.write(json.dumps({{"line": line, "text": text, "files": files}}) + "\\n")
for part, code, answer in json.loads((here / "answers").read_text()):
    if part in line:
        print(answer, file=sys.stderr if code else sys.stdout)
        sys.exit(code)
"""


class Programs:
    """A folder of fake programs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.answers: list[tuple[str, int, str]] = []
        self._write()

    def add(self, *names: str) -> None:
        """Have these programs; they succeed and say nothing."""
        for name in names:
            file = self.folder / name
            file.write_text(PROGRAM.format(python=PYTHON), encoding="utf-8")
            file.chmod(0o755)

    def remove(self, name: str) -> None:
        """Be without a program."""
        (self.folder / name).unlink()

    def answer(self, part: str, text: str = "", code: int = 0) -> None:
        """Answer calls that contain `part`; what was told last counts first."""
        self.answers.insert(0, (part, code, text))
        self._write()

    def _write(self) -> None:
        (self.folder / "answers").write_text(json.dumps(self.answers), encoding="utf-8")

    def calls(self) -> list[dict[str, Any]]:
        """Every call so far."""
        file = self.folder / "calls"
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []

    def lines(self) -> list[str]:
        """Every call so far, as it would be typed."""
        return [call["line"] for call in self.calls()]
