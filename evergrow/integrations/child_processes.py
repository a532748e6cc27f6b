"""Processes that end with the one that started them, however that ends."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

# Run in the child, before the program: the kernel ends it with the thread that started it (PR_SET_PDEATHSIG is 1),
# unless that was gone before we could ask. Elsewhere than on Linux nothing does.
# In a process group of its own, it is not hit by Ctrl-C in a terminal: whoever started it stops it in its turn.
_WITH_PARENT = """
import os, signal, sys
os.setpgid(0, 0)
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() == int(sys.argv[1]):
    os.execvp(sys.argv[2], sys.argv[2:])
"""


def start_child(
    command: Sequence[str], log: Path, variables: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a program that gets SIGTERM when the thread that starts it ends.

    Args:
        command: the program and its arguments.
        log: what it prints is added to this file.
        variables: its environment; this process's if None.
    """
    with_parent = [sys.executable, "-I", "-S", "-c", _WITH_PARENT, str(os.getpid()), *command]
    with log.open("ab") as told:
        return subprocess.Popen(with_parent, stdin=subprocess.DEVNULL, stdout=told, stderr=told, env=variables)  # noqa: S603
