"""Kubeflow Pipelines: how a component is made, and how a pipeline runs on this machine."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evergrow.environment import Environment
from evergrow.errors import PipelineError
from evergrow.importing import load_object
from evergrow.integrations.object_store import ObjectStore
from evergrow.journal import FOLDER, Event, Journal, failure, returned
from evergrow.spec.environment import EnvironmentSpec

# Local KFP takes an image without "python" in its name for one that cannot run a Python function, and warns.
DEFAULT_IMAGE = "evergrow/steps-python:0.1.0"

# Set for the orchestrator's process: its steps run in pods.
IN_PODS = "EVERGROW_STEPS_IN_PODS"
# KFP's own, in a step's process: its modules then hold back all but what components need.
IN_A_STEP = "_KFP_RUNTIME"
# In a run's folder: where in the object store its artifacts are.
REMOTE = "remote"


def component(function: Callable[..., Any]) -> Any:
    """Make a thin function a KFP component: its body imports one step and calls it.

    The image (EVERGROW_IMAGE when it is compiled) carries evergrow, the step and the same kfp, so nothing is
    installed when it starts. Not to be used in a module with `from __future__ import annotations`: KFP reads the
    annotations as types.
    """
    from kfp import dsl

    image = os.environ.get("EVERGROW_IMAGE", DEFAULT_IMAGE)
    return dsl.component(function, base_image=image, install_kfp_package=False)


@contextmanager
def whole_kfp() -> Iterator[None]:
    """All of KFP within a step, which has only what a component needs: KFP says so by a variable when it starts one.

    Who compiles or submits pipelines from a step imports KFP anew; the modules that the step runs by stay as they are.
    """
    if os.environ.get(IN_A_STEP) != "true":
        yield
        return
    limited = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "kfp"}
    for name in limited:
        del sys.modules[name]
    del os.environ[IN_A_STEP]
    try:
        yield
    finally:
        os.environ[IN_A_STEP] = "true"
        sys.modules.update(limited)


@dataclass(frozen=True)
class Run:
    """A pipeline that ran to its end.

    Attributes:
        folder: everything of the run: `log.txt`, `events.jsonl`, `arguments.json`, `artifacts/`.
        returned: what each step returned.
        seconds: how long it took.
    """

    folder: Path
    returned: Mapping[str, str]
    seconds: float

    def artifact(self, step: str, name: str) -> Path:
        """The file or folder a step wrote as its output `name`; of a step that ran in a pod, a copy.

        Raises:
            PipelineError: it wrote none.
        """
        found = sorted((self.folder / "artifacts").glob(f"*/{step.replace('_', '-')}*"))
        if found and not (found[-1] / name).exists():
            self._copy_here(found[-1] / name)
        if not found or not (found[-1] / name).exists():
            raise PipelineError(f"step {step} wrote no {name!r} in {self.folder}")
        return found[-1] / name

    def _copy_here(self, path: Path) -> None:
        remote = self.folder / REMOTE
        if remote.exists():
            store = ObjectStore.open(str(Environment.read().store))
            place = path.relative_to(self.folder / "artifacts").as_posix()
            store.copy(f"{remote.read_text(encoding='utf-8')}/{place}", path)


class LocalRunner:
    """Runs a compiled-in-memory pipeline with kfp.local: each step in a process of its own, on this machine.

    Given an environment of a cluster, each step runs there in a Pod of its own instead.

    KFP's orchestrator lives in a child process, because it takes over standard output, `print` and the root
    logger; all it says goes to the run's log. With its steps it is a process group of its own, which ends as a whole
    when we are told to stop. If we are killed it goes on to its end, and keeps the descriptors it `inherits` till then.
    """

    def __init__(
        self, environment: Environment, place: EnvironmentSpec | None = None, inherits: Sequence[int] = ()
    ) -> None:
        self.environment = environment
        self.place = place
        self.inherits = inherits

    def run(self, pipeline: str, arguments: Mapping[str, Any], watch: Callable[[Event], None] = lambda _: None) -> Run:
        """Run "package.module:pipeline" and hand each event of its steps to `watch` as it happens.

        Raises:
            EvergrowError: the failed step's own error; PipelineError where it had none.
        """
        folder = self._folder(pipeline)
        (folder / "arguments.json").write_text(json.dumps(arguments, indent=1), encoding="utf-8")
        started = time.monotonic()
        code = self._watch(self._start(pipeline, folder), Journal(folder), watch)
        events = list(Journal(folder).read())
        if code != 0:
            raise self._error(events, folder)
        return Run(folder, returned(events), time.monotonic() - started)

    def _folder(self, pipeline: str) -> Path:
        name = pipeline.rpartition(":")[2]
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        folder = self.environment.home / "runs" / name / f"{stamp}-{uuid.uuid4().hex[:6]}"
        folder.mkdir(parents=True)
        return folder

    def _start(self, pipeline: str, folder: Path) -> subprocess.Popen[bytes]:
        with (folder / "log.txt").open("wb") as log:
            return subprocess.Popen(  # noqa: S603 - this Python and a module of ours
                [sys.executable, "-m", "evergrow.integrations.kubeflow", pipeline, str(folder)],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=self._variables(folder),
                pass_fds=self.inherits,
                process_group=0,
            )

    def _variables(self, folder: Path) -> dict[str, str]:
        """What steps inherit: their places, one thread each, and no calls home."""
        python_path = os.pathsep.join(filter(None, [str(Path.cwd()), os.environ.get("PYTHONPATH")]))
        # Steps are started as `python3`, which must be this Python and not the system's.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        return {
            "OMP_NUM_THREADS": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "FEAST_USAGE": "False",
            **os.environ,
            "EVERGROW_HOME": str(self.environment.home),
            "EVERGROW_ENV": self.environment.name,
            "EVERGROW_FEATURE_REPO": str(self.environment.feature_repo),
            "MLFLOW_TRACKING_URI": self.environment.tracking_uri,
            "PYTHONPATH": python_path,
            "PYTHONUNBUFFERED": "1",
            "PATH": path,
            FOLDER: str(folder),
            **self._variables_of_place(),
        }

    def _variables_of_place(self) -> dict[str, str]:
        return {IN_PODS: "1", "EVERGROW_IMAGE": self.place.code.images.steps} if self.place else {}

    def _watch(self, process: subprocess.Popen[bytes], journal: Journal, watch: Callable[[Event], None]) -> int:
        seen = 0
        try:
            while True:
                code = process.poll()
                for event in journal.read(skip=seen):
                    seen += 1
                    watch(event)
                if code is not None:
                    return code
                time.sleep(0.05)
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait()
            raise

    def _error(self, events: list[Event], folder: Path) -> Exception:
        log = folder / "log.txt"
        error = failure(events)
        if error is None:
            said = _first_error(log.read_text(encoding="utf-8", errors="replace"))
            error = PipelineError(f"the pipeline failed before or between its steps: {said}")
        error.hint = f"{error.hint}\n" * bool(error.hint) + f"the whole log: {log}"
        return error


def _first_error(log: str) -> str:
    """Our own error if there is one, else the line that ends the first traceback: later ones follow from it."""
    for error in (r"evergrow\.errors\.\w+: (.*)", r"((?:\w+\.)*\w*(?:Error|Exception): .*)"):
        if found := re.search(rf"^\s*{error}$", log, re.MULTILINE):
            return found[1]
    return (log.strip().splitlines() or ["no output"])[-1]


def execute(pipeline: str, folder: Path) -> None:
    """Run a pipeline in this process. KFP's local configuration is global: one pipeline a process."""
    from kfp import local

    if os.environ.get(IN_PODS):
        from evergrow.integrations.pods import run_steps_in_pods

        run_steps_in_pods(folder)
    local.init(
        runner=local.SubprocessRunner(use_venv=False),
        pipeline_root=str(folder / "artifacts"),
        workspace_root=str(folder / "workspace"),
        raise_on_error=True,
    )
    load_object(pipeline, "pipeline")(**json.loads((folder / "arguments.json").read_text(encoding="utf-8")))


if __name__ == "__main__":
    execute(sys.argv[1], Path(sys.argv[2]))
