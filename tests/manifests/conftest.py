"""kubectl builds kustomizations: without it, tests that need one are skipped, or fail where it must be there."""

import os
import shutil

import pytest


@pytest.fixture
def kubectl():
    """Skip the test without kubectl, or fail it where EVERGROW_REQUIRE_HELM=1 says that it must be there."""
    if shutil.which("kubectl") is None:
        reason = "kubectl is not on PATH"
        if os.environ.get("EVERGROW_REQUIRE_HELM") == "1":
            pytest.fail(f"{reason}, and EVERGROW_REQUIRE_HELM=1")
        pytest.skip(reason)
