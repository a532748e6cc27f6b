"""What a step's pod runs: fetch the artifacts that the step reads, run it, keep what it wrote.

python -m evergrow.integrations.pod_step FOLDER -- COMMAND...

FOLDER is the run's in the object store. COMMAND is what KFP would run, its executor input among it; the artifacts'
paths in it are below ROOT, and their places in the store are below FOLDER by the same names.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evergrow import logs
from evergrow.environment import Environment
from evergrow.errors import EvergrowError, as_text
from evergrow.integrations.object_store import ObjectStore
from evergrow.journal import NAME, leave_word

ROOT = Path("/home/evergrow/state/run")
"""Where artifacts are in every pod."""
OUTPUT = "executor_output.json"
TEMPORARY = os.EX_TEMPFAIL
"""Exit code where the step did nothing wrong: its artifacts could not be fetched or kept, and may be in a moment."""


def executor_input(command: Sequence[str]) -> Mapping[str, Any]:
    """What KFP tells a step of its inputs and outputs."""
    read: Mapping[str, Any] = json.loads(command[command.index("--executor_input") + 1])
    return read


def task_folder(told: Mapping[str, Any]) -> Path:
    """The folder that all of a task's outputs are in."""
    return Path(told["outputs"]["outputFile"]).parent


def inputs(told: Mapping[str, Any]) -> Iterator[Path]:
    """Where the step looks for the artifacts that it reads."""
    for artifacts in told.get("inputs", {}).get("artifacts", {}).values():
        for artifact in artifacts["artifacts"]:
            yield Path(artifact["uri"])


def main(arguments: Sequence[str]) -> int:
    """Run the step; returns its exit code, having kept its outputs if that is 0; TEMPORARY if trying again may help."""
    folder, _, *command = arguments
    os.environ[NAME] = Path(folder).name
    try:
        return _carry_out(folder, command)
    except EvergrowError as error:
        why = as_text(str(error), error.hint, type(error).__name__)
        if logs.is_json():
            logs.configure(sys.stdout, run=os.environ[NAME])
            logs.logger.error("%s: %s", type(error).__name__, error, extra={"hint": error.hint})
        else:
            print(why, flush=True)
        leave_word(why, error.retriable)
        return TEMPORARY if error.retriable else error.exit_code


def _carry_out(folder: str, command: Sequence[str]) -> int:
    store = ObjectStore.open(str(Environment.read().store))
    told = executor_input(command)
    for path in inputs(told):
        store.copy(f"{folder}/{path.relative_to(ROOT).as_posix()}", path)
    task_folder(told).mkdir(parents=True, exist_ok=True)
    code = _run(command)
    if code == 0:
        where = f"{folder}/{task_folder(told).relative_to(ROOT).as_posix()}"
        store.upload(task_folder(told), where, last=OUTPUT if (task_folder(told) / OUTPUT).exists() else None)
    return code


def _run(command: Sequence[str]) -> int:
    """Run the step. Told to stop, it stops: the first process of a container gets no signal that it does not take."""
    with subprocess.Popen(command) as step:  # noqa: S603 - KFP's command
        signal.signal(signal.SIGTERM, lambda *_: step.terminate())
        code = step.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
