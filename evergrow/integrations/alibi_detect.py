"""Alibi Detect as a `DriftTool`, by a process in an environment of its own.

Alibi Detect needs numpy 1 and cannot be installed beside evergrow; its licence, the Business Source License 1.1,
restricts use in production. It is optional. Both frames go to that process as Parquet files, and its answer comes back
as JSON:

python -m evergrow.integrations.alibi_detect REFERENCE CURRENT FEATURES.json OUT.json [--tests ks chi2 mmd]

The process imports of evergrow what needs numpy, pandas, pyarrow and pydantic only; requirements/alibi_detect.txt is
its environment.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import TypeAdapter

import evergrow
from evergrow.contracts import Comparison, Feature
from evergrow.errors import EvergrowError, SpecError, exit_code_of
from evergrow.integrations.paired_columns import Pair, pairs, translated

MODULE = "evergrow.integrations.alibi_detect"
PYTHON = "EVERGROW_ALIBI_DETECT_PYTHON"
INSTALL = "python -m venv alibi && alibi/bin/pip install -r requirements/alibi_detect.txt"

Test = Literal["ks", "chi2", "mmd"]
KINDS: Mapping[str, str] = {"ks": "numeric", "mmd": "numeric", "chi2": "categorical"}
"""The kind of feature that each test is for."""
MOST_ROWS = 1000
"""Rows of each sample that "mmd" takes: its memory and time grow with their square."""

FEATURES = TypeAdapter(tuple[Feature, ...])
COMPARISONS = TypeAdapter(tuple[Comparison, ...])


class AlibiDetectDrift:
    """`evergrow.ports.DriftTool` by Alibi Detect.

    "ks" is its KSDrift, the exact two-sample test; "chi2" its ChiSquareDrift, Pearson's test of independence (by
    Yates' correction where there are two categories); "mmd" its MMDDrift, the maximum mean discrepancy of one column,
    squared, with a p-value by permutation, of at most `MOST_ROWS` rows drawn from each frame. "mmd" also needs PyTorch
    or TensorFlow there.
    """

    def __init__(
        self,
        python: str | None = None,
        tests: Sequence[Test] = ("ks", "chi2"),
        *,
        seed: int = 0,
        timeout: float = 600.0,
    ) -> None:
        """Run these tests, each for the features it is for, with the interpreter of Alibi Detect's environment.

        Args:
            python: the interpreter; that of EVERGROW_ALIBI_DETECT_PYTHON if not given.
            tests: of "ks", "chi2", "mmd".
            seed: of the rows that "mmd" draws and of its permutations.
            timeout: seconds until the process is given up.

        Raises:
            SpecError: Alibi Detect has no such test here, or a kind of feature would have none.
            EvergrowError: there is no interpreter.
        """
        self.python = python or os.environ.get(PYTHON, "")
        if not self.python:
            raise EvergrowError(
                f"Alibi Detect runs in its own environment: `python` or {PYTHON} must name its interpreter, found none",
                hint=f"{INSTALL}; export {PYTHON}=alibi/bin/python",
            )
        self.tests = checked(tests)
        self.seed = seed
        self.timeout = timeout

    def compare(
        self, reference: pd.DataFrame, current: pd.DataFrame, features: Sequence[Feature]
    ) -> Sequence[Comparison]:
        """One comparison for each feature and test; see `evergrow.ports.DriftTool`.

        Raises:
            DataError: a frame lacks a column, or one holds what is not of the feature's kind.
            EvergrowError: Alibi Detect is not installed there, fails, or took longer than the timeout.
        """
        found = list(pairs(reference, current, features))
        if not found:
            return []
        with tempfile.TemporaryDirectory(prefix="alibi-detect-") as scratch:
            folder = Path(scratch)
            for name in ("reference", "current"):
                _frame(found, name).to_parquet(folder / f"{name}.parquet")
            (folder / "features.json").write_bytes(FEATURES.dump_json(tuple(pair.feature for pair in found)))
            self._run(folder)
            return COMPARISONS.validate_json((folder / "found.json").read_bytes())

    def _run(self, folder: Path) -> None:
        # The package alone: what else is installed beside it is of another environment.
        (folder / "evergrow").symlink_to(Path(str(evergrow.__file__)).resolve().parent)
        files = ("reference.parquet", "current.parquet", "features.json", "found.json")
        command = [self.python, "-m", MODULE, *files, "--tests", *self.tests, "--seed", str(self.seed)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        try:
            ended = subprocess.run(  # noqa: S603 - the interpreter that the user named
                command, cwd=folder, env=environment, capture_output=True, text=True, timeout=self.timeout, check=False
            )
        except OSError as error:
            raise EvergrowError(f"Alibi Detect's interpreter: {error}", hint=INSTALL) from error
        except subprocess.TimeoutExpired as error:
            raise EvergrowError(f"Alibi Detect took longer than {self.timeout:g} s", retriable=True) from error
        if ended.returncode:
            # What it logs comes before the error that `exit_code_of` tells.
            message, _, hint = ended.stderr.rpartition("error: ")[2].strip().partition("\n  hint: ")
            told = message[-2000:]
            raise EvergrowError(f"Alibi Detect's process ended with {ended.returncode}: {told}", hint=hint, data=[told])


def is_installed(python: str) -> bool:
    """Whether an interpreter finds Alibi Detect; it is not loaded."""
    asked = "import importlib.util, sys; sys.exit(importlib.util.find_spec('alibi_detect') is None)"
    try:
        return subprocess.run([python, "-I", "-c", asked], capture_output=True, check=False).returncode == 0  # noqa: S603
    except OSError:
        return False


def checked(tests: Sequence[str]) -> tuple[str, ...]:
    """The tests, if they are known and each kind of feature has one.

    Raises:
        SpecError: they are not.
    """
    if not set(tests) <= set(KINDS) or {KINDS[test] for test in tests} != set(KINDS.values()):
        rule = f"`tests` must be of {', '.join(KINDS)}, at least one for numbers and one for categories"
        raise SpecError(f"{rule}; found {', '.join(tests) or 'none'}")
    return tuple(tests)


def _frame(found: Sequence[Pair], which: str) -> pd.DataFrame:
    """The pairs' values side by side, the shorter ones with missing ones below."""
    return pd.DataFrame({pair.feature.name: getattr(pair, which).reset_index(drop=True) for pair in found})


# -- in Alibi Detect's environment -------------------------------------------------------------------------------------


def kolmogorov_smirnov(pair: Pair, seed: int) -> tuple[float, float]:
    """Statistic and p-value of KSDrift."""
    from alibi_detect.cd import KSDrift

    return _predicted(KSDrift(_column(pair.reference)), _column(pair.current), drift_type="feature")


def chi_square(pair: Pair, seed: int) -> tuple[float, float]:
    """Statistic and p-value of ChiSquareDrift."""
    from alibi_detect.cd import ChiSquareDrift

    codes, levels = pd.factorize(pd.concat([pair.reference, pair.current]))
    reference, current = np.split(codes[:, None], [len(pair.reference)])
    detector = ChiSquareDrift(reference, categories_per_feature={0: len(levels)})
    return _predicted(detector, current, drift_type="feature")


def mean_discrepancy(pair: Pair, seed: int) -> tuple[float, float]:
    """Squared discrepancy and p-value of MMDDrift, of rows drawn from both."""
    from alibi_detect.cd import MMDDrift

    backend = _seeded_backend(seed)
    reference, current = (
        _column(values.sample(min(MOST_ROWS, len(values)), random_state=seed)).astype(np.float32)
        for values in (pair.reference, pair.current)
    )
    return _predicted(MMDDrift(reference, backend=backend), current)


def _seeded_backend(seed: int) -> str:
    try:
        import torch
    except ImportError:
        import tensorflow

        tensorflow.random.set_seed(seed)
        return "tensorflow"
    torch.manual_seed(seed)
    return "pytorch"


def _column(values: pd.Series) -> Any:
    return values.to_numpy(np.float64)[:, None]


def _predicted(detector: Any, current: Any, **options: Any) -> tuple[float, float]:
    data = detector.predict(current, **options)["data"]
    return float(np.ravel(data["distance"])[0]), float(np.ravel(data["p_val"])[0])


DETECTORS: Mapping[str, Callable[[Pair, int], tuple[float, float]]] = {
    "ks": kolmogorov_smirnov,
    "chi2": chi_square,
    "mmd": mean_discrepancy,
}


def detect(found: Iterator[Pair], tests: Sequence[str], seed: int) -> Iterator[Comparison]:
    """Each pair by each test that is for its kind."""
    for pair in found:
        for test in tests:
            if KINDS[test] == pair.feature.kind:
                yield pair.compared(test, *DETECTORS[test](pair, seed))


def answer(options: argparse.Namespace) -> None:
    """Compare the files that the command line names, and write what was found."""
    features = FEATURES.validate_json(options.features.read_bytes())
    reference, current = pd.read_parquet(options.reference), pd.read_parquet(options.current)
    with translated("Alibi Detect", f"{INSTALL}; for mmd also torch or tensorflow"):
        found = tuple(detect(pairs(reference, current, features), checked(options.tests), options.seed))
    options.out.write_bytes(COMPARISONS.dump_json(found))


def main(arguments: Sequence[str]) -> int:
    """Exit code 0, or that of the error."""
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=__doc__.partition("\n")[0])
    parser.add_argument("reference", type=Path, help="Parquet file with a column for each feature")
    parser.add_argument("current", type=Path, help="the same, of now")
    parser.add_argument("features", type=Path, help="JSON: a list of {name, kind}")
    parser.add_argument("out", type=Path, help="JSON: the list of comparisons, written")
    parser.add_argument("--tests", nargs="+", choices=list(KINDS), default=["ks", "chi2"])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    return exit_code_of(lambda: answer(options))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
