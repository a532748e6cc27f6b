"""How long `make test-cluster` takes: installation from nothing, then every test on the cluster.

For a cluster that is empty but for base images, which KUBECONFIG names (and CLUSTER_TOOLS, for CI's).
"""

from __future__ import annotations

import os
import re
import subprocess
import time

from benchmarks.measure import Result, Skipped

MOST_MINUTES = 15


def run() -> list[Result]:
    """Run it.

    Raises:
        RuntimeError: a test failed; shows the end of what was said.
    """
    if not os.environ.get("KUBECONFIG"):
        raise Skipped("KUBECONFIG names no cluster; it should be a fresh one")
    begun = time.monotonic()
    done = subprocess.run(["make", "test-cluster"], capture_output=True, text=True, check=False)
    minutes = (time.monotonic() - begun) / 60
    if done.returncode:
        raise RuntimeError(f"make test-cluster failed:\n{done.stdout[-3000:]}")
    passed = re.findall(r"(\d+) passed", done.stdout)[-1]
    load = os.getloadavg()[2]
    detail = f"{passed} tests, installation and images included; load of the machine {load:.1f} in its last 15 minutes"
    return [
        Result(
            "make test-cluster, on a fresh cluster",
            minutes,
            "min",
            f"≤ {MOST_MINUTES}",
            minutes <= MOST_MINUTES,
            detail,
        )
    ]
