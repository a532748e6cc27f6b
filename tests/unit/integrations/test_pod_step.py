"""What a step's pod does around its step: artifacts come before it and are kept after it, or the pod says so."""

import json
import sys

import pytest

from evergrow.errors import StoreError
from evergrow.integrations import pod_step
from evergrow.integrations.object_store import ObjectStore


@pytest.fixture
def pod(tmp_path, monkeypatch):
    """Run a step that is a line of Python, in a pod of its own root; its exit code."""
    root, store = tmp_path / "pod", tmp_path / "store"
    store.mkdir()
    monkeypatch.setattr(pod_step, "ROOT", root)
    monkeypatch.setattr(pod_step.signal, "signal", lambda *_: None)
    monkeypatch.setenv("EVERGROW_STORE", store.as_uri())

    def run(line: str, task: str, reads: tuple[str, ...] = ()) -> int:
        inputs = {"artifacts": {n: {"artifacts": [{"uri": str(root / n)}]} for n in reads}}
        told = {"inputs": inputs, "outputs": {"outputFile": str(root / task / pod_step.OUTPUT)}}
        step = [sys.executable, "-c", line, str(root)]
        return pod_step.main(["runs/r", "--", *step, "--executor_input", json.dumps(told)])

    run.store = ObjectStore.open(store.as_uri())
    return run


WRITE = "import pathlib, sys; (pathlib.Path(sys.argv[1]) / 'one' / 'model').write_text('m')"


def test_what_one_step_wrote_the_next_one_reads(pod, tmp_path):
    assert pod(WRITE, "one") == 0
    (tmp_path / "pod/one/model").unlink()
    read = "import pathlib, sys; sys.exit((pathlib.Path(sys.argv[1]) / 'one' / 'model').read_text() != 'm')"
    assert pod(read, "two", reads=("one/model",)) == 0


def test_a_step_that_failed_keeps_nothing_and_its_exit_code_is_the_pods(pod):
    assert pod(WRITE + "; sys.exit(3)", "one") == 3
    assert pod.store.names("runs") == []


@pytest.mark.parametrize(("retriable", "code"), [(True, pod_step.TEMPORARY), (False, StoreError.exit_code)])
def test_a_store_that_cannot_keep_the_outputs_is_told_with_whether_it_may_in_a_moment(
    pod, monkeypatch, capsys, retriable, code
):
    def fail(*_, **__):
        raise StoreError("writing s3://x", hint="mend it", retriable=retriable)

    monkeypatch.setattr(ObjectStore, "upload", fail)
    assert pod(WRITE, "one") == code
    assert "StoreError: writing s3://x\n  hint: mend it" in capsys.readouterr().out
