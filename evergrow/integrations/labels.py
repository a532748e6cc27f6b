"""Labels by which what we make on a cluster is found again, whoever made it: the chart, a runner or the deploy step."""

from __future__ import annotations

from collections.abc import Mapping

MANAGED_BY: Mapping[str, str] = {"app.kubernetes.io/managed-by": "evergrow"}

MODEL, VERSION, ENVIRONMENT = "evergrow.dev/model", "evergrow.dev/version", "evergrow.dev/environment"
PIPELINE, STEP = "evergrow.dev/pipeline", "evergrow.dev/step"
RUN, JOB, SUBMISSION = "evergrow.dev/run", "evergrow.dev/job", "evergrow.dev/submission"
"""Of the runner `pods`: a driver's run, the Job of its driver, and the identity of what was submitted."""
