"""What every tool behind `DriftTool` keeps to."""

import os
import sys
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest

from evergrow.errors import DataError, EvergrowError
from evergrow.integrations import alibi_detect
from evergrow.integrations.alibi_detect import AlibiDetectDrift
from evergrow.integrations.evidently import EvidentlyDrift
from evergrow.integrations.whylogs import WhylogsDrift
from evergrow.monitoring.drift import ProfileDrift
from tests.unit.integrations.drift_frames import ORIGIN, WIND, effects, frame, with_missing

NAMED = ("psi", "ks", "jensenshannon", "wasserstein", "chisquare")
needs_evidently = pytest.mark.skipif(not find_spec("evidently"), reason="evidently is not installed")
needs_whylogs = pytest.mark.skipif(
    not (find_spec("whylogs") and find_spec("IPython")), reason="whylogs and ipython are not installed"
)
needs_alibi_detect = pytest.mark.skipif(
    alibi_detect.PYTHON not in os.environ, reason=f"{alibi_detect.PYTHON} names no interpreter"
)

# With what its sketches may err by.
PEERS = [
    pytest.param(EvidentlyDrift, 0.0, id="evidently", marks=needs_evidently),
    pytest.param(lambda: EvidentlyDrift(NAMED), 0.0, id="evidently-named", marks=needs_evidently),
    pytest.param(WhylogsDrift, 0.06, id="whylogs", marks=needs_whylogs),
    pytest.param(AlibiDetectDrift, 0.0, id="alibi-detect", marks=needs_alibi_detect),
]
every_tool = pytest.mark.parametrize(("tool", "noise"), [pytest.param(ProfileDrift, 0.0, id="evergrow"), *PEERS])
every_peer = pytest.mark.parametrize(("tool", "noise"), PEERS)


@every_tool
def test_a_frame_does_not_differ_from_itself(tool, noise):
    found = tool().compare(frame(), frame(), (WIND, ORIGIN))
    assert found
    assert all(0 <= one.effect <= noise + 1e-9 for one in found)
    assert all(one.p_value is None or one.p_value > 0.5 for one in found)


@every_tool
def test_a_shift_and_a_change_of_shares_are_seen(tool, noise):
    before = effects(tool().compare(frame(0), frame(1), (WIND, ORIGIN)))
    after = tool().compare(frame(0), frame(1, shift=2, shares=(0.2, 0.3, 0.5)), (WIND, ORIGIN))
    assert set(effects(after)) == set(before)
    assert all(one.effect > 3 * before[one.column, one.test] for one in after)
    assert all(one.p_value is None or one.p_value < 1e-6 for one in after)


@every_tool
def test_missing_values_are_no_values(tool, noise):
    reference, current = frame(0), frame(1, shift=1)
    whole = tool().compare(reference, current, (WIND, ORIGIN))
    holed = tool().compare(with_missing(reference), with_missing(current), (WIND, ORIGIN))
    assert {(one.rows, one.reference_rows) for one in (*whole, *holed)} == {(3000, 3000)}
    assert effects(holed) == pytest.approx(effects(whole), rel=1e-6, abs=noise)


@every_tool
def test_each_feature_has_a_comparison_or_more_in_the_order_asked_for(tool, noise):
    found = tool().compare(frame(0), frame(1), (WIND, ORIGIN))
    assert [one.column for one in found] == sorted((one.column for one in found), reverse=True)
    assert {one.column for one in found} == {"origin", "wind"}
    assert all(one.test == one.test.lower() for one in found)


@every_tool
def test_a_feature_without_values_in_either_frame_has_no_comparison(tool, noise):
    empty = frame().assign(wind=np.nan)
    for reference, current in ((frame(), empty), (empty, frame())):
        assert {one.column for one in tool().compare(reference, current, (WIND, ORIGIN))} == {"origin"}
    assert list(tool().compare(empty, empty, (WIND,))) == []


@every_tool
def test_a_constant_column_that_stays_is_no_drift(tool, noise):
    constant = frame().assign(wind=3.5, origin="EWR")
    assert all(one.effect == pytest.approx(0, abs=1e-9) for one in tool().compare(constant, constant, (WIND, ORIGIN)))


@every_peer
def test_a_column_that_is_not_there_is_named(tool, noise):
    with pytest.raises(DataError, match="`current` must have a column for each feature, found none for 'wind'"):
        tool().compare(frame(), frame().drop(columns="wind"), (ORIGIN, WIND))


@every_peer
def test_text_in_a_numeric_column_is_told_without_the_text(tool, noise):
    with pytest.raises(DataError, match="`reference`: 'wind' must hold numbers") as raised:
        tool().compare(frame().astype({"wind": object}).assign(wind="N14228"), frame(), (WIND,))
    assert "N14228" not in str(raised.value)


@every_peer
def test_an_infinite_number_counts_as_missing(tool, noise):
    reference, current = frame(0), frame(1, shift=1)
    with_infinity = pd.concat([current, current.head(50).assign(wind=np.inf)], ignore_index=True)
    found = tool().compare(reference, with_infinity, (WIND,))
    assert {one.rows for one in found} == {3000}
    assert effects(found) == pytest.approx(effects(tool().compare(reference, current, (WIND,))), abs=noise + 1e-9)


@pytest.mark.parametrize(
    ("tool", "package", "hint"),
    [(EvidentlyDrift, "evidently", "evidently>=0.7.20"), (WhylogsDrift, "whylogs", "ipython")],
)
def test_a_package_that_is_missing_is_told_with_how_to_install_it(monkeypatch, tool, package, hint):
    for module in {package, *(name for name in sys.modules if name.partition(".")[0] == package)}:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(EvergrowError, match="(Evidently|whylogs) cannot be imported") as raised:
        tool().compare(frame(), frame(), (WIND,))
    assert hint in raised.value.hint
