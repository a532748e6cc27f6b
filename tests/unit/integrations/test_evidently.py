import sys

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.stats import chisquare, ks_2samp, norm, wasserstein_distance

from evergrow.errors import EvergrowError, SpecError, public
from evergrow.integrations.evidently import EvidentlyDrift
from tests.unit.integrations.drift_frames import ORIGIN, WATCHED, WIND, answer_of, frame, shares_of

REFERENCE, CURRENT = frame(0), frame(1, rows=2000, shift=0.5, shares=(0.4, 0.4, 0.2))


def told(*tests, reference=REFERENCE, current=CURRENT):
    pytest.importorskip("evidently", reason="evidently is not installed")
    found = EvidentlyDrift(tests).compare(reference, current, (WIND, ORIGIN))
    return {(one.column, one.test): one for one in found}


def test_ks_is_scipys_with_its_statistic():
    found, expected = told("ks")["wind", "ks"], ks_2samp(REFERENCE["wind"], CURRENT["wind"])
    assert found.effect == pytest.approx(expected.statistic, abs=1e-12)
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-6)


def test_wasserstein_is_scipys_in_standard_deviations_of_the_reference():
    expected = wasserstein_distance(REFERENCE["wind"], CURRENT["wind"]) / REFERENCE["wind"].std(ddof=0)
    assert told("wasserstein")["wind", "wasserstein"].effect == pytest.approx(expected, rel=1e-9)


def test_distances_of_numbers_are_of_bins_of_equal_width_by_sturges_rule():
    found = told("psi", "jensenshannon")
    edges = np.histogram_bin_edges(np.concatenate([REFERENCE["wind"], CURRENT["wind"]]), bins="sturges")
    p, q = (np.histogram(rows["wind"], edges)[0] / len(rows) for rows in (REFERENCE, CURRENT))
    assert found["wind", "jensenshannon"].effect == pytest.approx(jensenshannon(p, q, base=2), rel=1e-9)
    p, q = np.where(p == 0, 1e-4, p), np.where(q == 0, 1e-4, q)
    assert found["wind", "psi"].effect == pytest.approx(np.sum((q - p) * np.log(q / p)), rel=1e-9)


def test_distances_of_categories_are_of_their_shares():
    found = told("psi", "jensenshannon", "chisquare")
    p, q = shares_of(REFERENCE, CURRENT, "origin")
    assert found["origin", "psi"].effect == pytest.approx(np.sum((q - p) * np.log(q / p)), rel=1e-9)
    assert found["origin", "jensenshannon"].effect == pytest.approx(jensenshannon(p, q, base=2), rel=1e-9)
    fit = chisquare(q * len(CURRENT), p * len(CURRENT))
    assert found["origin", "chi2-fit"].effect == pytest.approx(fit.statistic, rel=1e-9)
    assert found["origin", "chi2-fit"].p_value == pytest.approx(fit.pvalue, rel=1e-6)


@pytest.mark.filterwarnings("ignore:divide by zero")
def test_a_category_that_the_reference_lacks_is_beyond_all_fit():
    new = frame(1).assign(origin=["BOS"] * 100 + ["EWR"] * 2900)
    found = told("chisquare", current=new)["origin", "chi2-fit"]
    assert (found.effect, found.p_value) == (np.inf, 0)


@pytest.mark.parametrize(
    ("rows", "values", "chosen"),
    [
        (3000, {}, {("wind", "wasserstein"), ("origin", "jensenshannon")}),
        (900, {}, {("wind", "ks"), ("origin", "chi2-fit")}),
        (900, {"wind": [0.0, 1.0, 1.0] * 300, "origin": ["EWR", "JFK"] * 450}, {("wind", "z"), ("origin", "z")}),
    ],
)
def test_evidently_chooses_by_rows_and_values_unless_told(rows, values, chosen):
    assert set(told(reference=frame(0, rows).assign(**values), current=frame(1, rows).assign(**values))) == chosen


def test_the_effect_of_z_is_the_difference_of_shares():
    reference = frame(0, 500).assign(origin=["EWR"] * 300 + ["JFK"] * 200)
    current = frame(1, 500).assign(origin=["EWR"] * 200 + ["JFK"] * 300)
    found = told(reference=reference, current=current)["origin", "z"]
    assert found.effect == pytest.approx(0.2)
    assert found.p_value == pytest.approx(2 * norm.sf(0.2 / np.sqrt(0.5 * 0.5 * 2 / 500)), rel=1e-6)


def test_a_feature_that_no_named_test_is_for_has_evidentlys_choice():
    assert set(told("ks")) == {("wind", "ks"), ("origin", "jensenshannon")}


def test_a_test_that_evidently_does_not_have_is_refused():
    with pytest.raises(
        SpecError, match="`tests` must be of psi, ks, jensenshannon, wasserstein, chisquare, found 'ksx'"
    ):
        EvidentlyDrift(("psi", "ksx"))


def test_what_it_raises_is_ours_and_a_log_does_not_tell_the_rows_that_it_quotes(monkeypatch):
    class Broken:
        def __getattr__(self, name):
            raise ValueError("N14228")

    monkeypatch.setitem(sys.modules, "evidently", Broken())
    with pytest.raises(EvergrowError, match="Evidently: ValueError: N14228") as raised:
        EvidentlyDrift().compare(REFERENCE, CURRENT, (WIND,))
    assert "N14228" not in public(raised.value)


def test_it_does_not_call_home_though_it_would():
    pytest.importorskip("evidently", reason="evidently is not installed")
    script = f"""{WATCHED}
from evergrow.integrations.evidently import EvidentlyDrift
EvidentlyDrift().compare(rows, rows, features)
from evidently.telemetry import event_logger
event_logger.send_event("test", "test")
silent = noted()
import os
del os.environ["DO_NOT_TRACK"]
try:
    event_logger.send_event("test", "test")
except PermissionError:
    pass
print(json.dumps([silent, noted()]))
"""
    silent, unbound = answer_of(script)
    assert silent == []
    assert unbound != []
