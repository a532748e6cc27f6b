"""What the worker process is told to do in tests; that process imports this module, and it alone."""

from __future__ import annotations

import os
import signal
import time

from evergrow.errors import ServingError


def double(number):
    return os.getpid(), 2 * number


def refuse(message):
    raise ServingError(message, hint="mend it", retriable=True)


def stumble():
    raise KeyError("N14228")


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def sleep():
    time.sleep(60)
