"""Two columns to compare, and a process in which a tool cannot call home unseen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from evergrow.contracts import Feature

WIND, ORIGIN = Feature(name="wind", kind="numeric"), Feature(name="origin", kind="categorical")
ROOT = Path(__file__).parents[3]


def frame(seed=0, rows=3000, shift=0.0, shares=(0.5, 0.3, 0.2)):
    """Wind is normal with a standard deviation of 2, and moves by `shift`; origins have these shares."""
    random = np.random.default_rng(seed)
    origins = random.choice(["EWR", "JFK", "LGA"], rows, p=shares)
    return pd.DataFrame({"wind": random.normal(10 + shift, 2, rows), "origin": origins})


def with_missing(rows, share=0.8):
    """The same rows in another order, and so many more that lack all values that these are `share` of all."""
    longer = rows.reindex(np.arange(round(len(rows) / (1 - share)))).sample(frac=1, random_state=0)
    return longer.assign(origin=longer["origin"].astype(object).where(longer["origin"].notna(), None))


def shares_of(reference, current, column):
    """Shares of all levels in both."""
    levels = sorted(set(reference[column]) | set(current[column]))
    return [rows[column].value_counts(normalize=True).reindex(levels, fill_value=0) for rows in (reference, current)]


def effects(found):
    """Effects by column and test."""
    return {(one.column, one.test): one.effect for one in found}


def answer_of(script):
    """What a Python process of its own prints last, as JSON; nothing there has switched reporting off already."""
    kept = {k: v for k, v in os.environ.items() if k not in ("DO_NOT_TRACK", "WHYLOGS_NO_ANALYTICS")}
    environment = {**kept, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# Calls of the outside world are noted and refused, in every thread.
WATCHED = """
import json, sys, threading
calls = []

def watch(event, found):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto", "subprocess.Popen", "os.posix_spawn"):
        calls.append(event)
        raise PermissionError(event)

def noted():
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join(5)
    return list(calls)

sys.addaudithook(watch)
import pandas as pd
from evergrow.contracts import Feature
rows, features = pd.DataFrame({"x": [float(n) for n in range(50)]}), [Feature(name="x", kind="numeric")]
"""
