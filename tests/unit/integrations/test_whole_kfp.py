"""Submitting from within a step, where KFP holds back what components do not need."""

import os
import subprocess
import sys

WITHIN = """
import sys
from kfp import dsl
limited = sys.modules["kfp"]
assert not hasattr(limited, "Client"), "KFP holds nothing back any more: whole_kfp can go"
from evergrow.integrations.kubeflow import whole_kfp
with whole_kfp():
    import kfp
    from evergrow.integrations.pods_submit import PodRuns
    from pipelines.compile import PIPELINES
    assert hasattr(kfp, "Client") and PIPELINES["training"].pipeline_spec
assert sys.modules["kfp"] is limited and sys.modules["kfp.dsl"] is dsl
import os
assert os.environ["_KFP_RUNTIME"] == "true"
"""


def run(code: str, **variables: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-W", "ignore", "-c", code]
    return subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, check=False)


def test_within_a_step_all_of_kfp_is_there_while_it_is_needed_and_no_longer():
    done = run(WITHIN, _KFP_RUNTIME="true")
    assert done.returncode == 0, done.stderr


def test_without_it_what_drives_pipelines_cannot_be_imported_in_a_step():
    done = run("import kfp.dsl, evergrow.integrations.pods_submit", _KFP_RUNTIME="true")
    assert "AttributeError" in done.stderr


def test_elsewhere_nothing_is_imported_anew():
    code = (
        "import kfp, sys\nfrom evergrow.integrations.kubeflow import whole_kfp\n"
        "with whole_kfp(): assert sys.modules['kfp'] is kfp"
    )
    assert run(code).returncode == 0
