"""What each locked set of requirements takes on disk, installed alone."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import Result

ROOT = Path(__file__).parent.parent
# Bytecode included. scikit-learn, SciPy, pandas and Arrow are most of the steps; pandas comes with KServe, too.
REACH_MB = {"server": 450, "steps": 1100}


def installed_mb(name: str, folder: Path) -> tuple[float, int]:
    """Megabytes (10^6 bytes) of site-packages, and how many packages are in it."""
    target = folder / name
    uv = Path(sys.executable).with_name("uv")
    command = [str(uv), "pip", "install", "-q", "--require-hashes", "--target", str(target)]
    # Bytecode is compiled as an image would, so that a container's first start does not have to.
    subprocess.run([*command, "--compile-bytecode", "-r", str(ROOT / f"requirements/{name}.txt")], check=True)
    size = sum(f.stat().st_size for f in target.rglob("*") if f.is_file() and not f.is_symlink())
    return size / 1e6, len(list(target.glob("*.dist-info")))


def run() -> list[Result]:
    """One number per set."""
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for name, reach in REACH_MB.items():
            size, packages = installed_mb(name, Path(folder))
            results.append(
                Result(
                    f"size of the {name} requirements", size, "MB", f"≤ {reach}", size <= reach, f"{packages} packages"
                )
            )
    return results
