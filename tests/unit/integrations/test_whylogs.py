import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chisquare, ks_2samp

from evergrow.errors import SpecError
from evergrow.integrations.whylogs import WhylogsDrift
from tests.unit.integrations.drift_frames import ORIGIN, WATCHED, WIND, answer_of, frame, shares_of

ROOT = Path(__file__).parents[3]
needs_whylogs = pytest.mark.skipif(
    not (find_spec("whylogs") and find_spec("IPython")), reason="whylogs and ipython are not installed"
)
REFERENCE, CURRENT = frame(0, 20_000), frame(1, 20_000, shift=1, shares=(0.49, 0.31, 0.2))


def told():
    return {(one.column, one.test): one for one in WhylogsDrift().compare(REFERENCE, CURRENT, (WIND, ORIGIN))}


@needs_whylogs
def test_ks_is_scipys_up_to_its_quantiles_and_its_sketch():
    found = told()["wind", "ks"]
    assert found.effect == pytest.approx(ks_2samp(REFERENCE["wind"], CURRENT["wind"]).statistic, abs=0.03)
    assert found.p_value < 1e-6


@needs_whylogs
def test_hellinger_is_that_of_thirty_bins_up_to_its_sketch():
    both = np.concatenate([REFERENCE["wind"], CURRENT["wind"]])
    edges = np.linspace(both.min(), both.max(), 31)
    p, q = (np.histogram(rows["wind"], edges)[0] / len(rows) for rows in (REFERENCE, CURRENT))
    expected = np.linalg.norm(np.sqrt(p) - np.sqrt(q)) / np.sqrt(2)
    assert told()["wind", "hellinger"].effect == pytest.approx(expected, abs=0.03)


@needs_whylogs
def test_chi_square_takes_the_references_shares_for_exact():
    p, q = shares_of(REFERENCE, CURRENT, "origin")
    fit = chisquare(q * len(CURRENT), p * len(CURRENT))
    found = told()["origin", "chi2-fit"]
    assert found.effect == pytest.approx(fit.statistic, rel=0.01)  # it cuts expected counts down to whole ones
    assert found.p_value == pytest.approx(fit.pvalue, rel=0.1)


@pytest.mark.parametrize("tests", [("psi",), ("ks",), ("chi2-fit",), ("ks", "chi2-fit", "psi"), ()])
def test_scores_that_whylogs_does_not_have_or_that_leave_a_kind_out_are_refused(tests):
    with pytest.raises(SpecError, match=r"`tests` must be of ks, hellinger, chi2-fit, at least one for numbers"):
        WhylogsDrift(tests)


@needs_whylogs
def test_it_does_not_call_home_even_if_somebody_switched_that_on_though_it_would():
    script = f"""{WATCHED}
from evergrow.integrations.whylogs import WhylogsDrift
WhylogsDrift().compare(rows, rows, features)
import whylogs.api.usage_stats as usage
usage._TELEMETRY_DISABLED = False
WhylogsDrift().compare(rows, rows, features)
usage.emit_usage("test")
silent = noted()
usage._TELEMETRY_DISABLED = False
usage.emit_usage("test")
print(json.dumps([silent, noted()]))
"""
    silent, unbound = answer_of(script)
    assert silent == []
    assert unbound != []


@needs_whylogs
def test_it_leaves_how_this_process_reads_timestamps_from_sqlite_alone():
    """In a process of its own: only the first import would change it."""
    script = (
        "import sqlite3; from tests.unit.integrations.test_whylogs import told\n"
        "sqlite3.register_converter('timestamp', len); before = dict(sqlite3.converters)\n"
        "told(); assert sqlite3.converters == before, 'changed'\n"
        "import IPython.core.history as h; assert h, 'IPython is what would have changed it'"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
