import os
import sys
from importlib.util import find_spec

import pandas as pd
import pytest
from scipy.stats import chi2_contingency, ks_2samp

from evergrow.contracts import Comparison
from evergrow.errors import EvergrowError, SpecError
from evergrow.integrations import alibi_detect
from evergrow.integrations.alibi_detect import AlibiDetectDrift
from tests.unit.integrations.drift_frames import ORIGIN, WIND, answer_of, frame, with_missing

REFERENCE, CURRENT = frame(0), frame(1, rows=2000, shift=0.1, shares=(0.47, 0.32, 0.21))


@pytest.mark.skipif(alibi_detect.PYTHON not in os.environ, reason=f"{alibi_detect.PYTHON} names no interpreter")
def test_its_tests_are_scipys():
    found = {one.test: one for one in AlibiDetectDrift().compare(REFERENCE, CURRENT, (WIND, ORIGIN))}
    ks = ks_2samp(REFERENCE["wind"], CURRENT["wind"], method="asymp")
    table = pd.concat([rows["origin"].value_counts() for rows in (REFERENCE, CURRENT)], axis=1)
    chi2 = chi2_contingency(table)
    assert (found["ks"].effect, found["ks"].p_value) == pytest.approx((ks.statistic, ks.pvalue), rel=1e-4)
    assert (found["chi2"].effect, found["chi2"].p_value) == pytest.approx((chi2.statistic, chi2.pvalue), rel=1e-4)


def test_without_an_interpreter_it_is_told_how_to_get_one(monkeypatch):
    monkeypatch.delenv(alibi_detect.PYTHON, raising=False)
    with pytest.raises(EvergrowError, match="must name its interpreter, found none") as raised:
        AlibiDetectDrift()
    assert "requirements/alibi_detect.txt" in raised.value.hint


def test_an_interpreter_that_is_not_there_is_told(tmp_path):
    with pytest.raises(EvergrowError, match="Alibi Detect's interpreter: .*No such file"):
        AlibiDetectDrift(str(tmp_path / "python")).compare(REFERENCE, CURRENT, (WIND,))


@pytest.mark.skipif(bool(find_spec("alibi_detect")), reason="Alibi Detect is installed here")
def test_an_environment_without_alibi_detect_is_told_with_how_to_make_one():
    with pytest.raises(EvergrowError, match="ended with 1: Alibi Detect cannot be imported") as raised:
        AlibiDetectDrift(sys.executable).compare(REFERENCE, CURRENT, (WIND,))
    assert "requirements/alibi_detect.txt" in raised.value.hint


def test_a_process_that_takes_too_long_is_given_up(tmp_path):
    with pytest.raises(EvergrowError, match="took longer than 0.2 s") as raised:
        AlibiDetectDrift(interpreter(tmp_path, "#!/bin/sh\nexec sleep 60\n"), timeout=0.2).compare(
            REFERENCE, CURRENT, (WIND,)
        )
    assert raised.value.retriable


def test_the_process_has_both_frames_and_the_package_and_nothing_of_this_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    tool = AlibiDetectDrift(interpreter(tmp_path, f"#!{sys.executable}\n{STAND_IN}"), ("ks", "chi2"), seed=7)
    found = tool.compare(with_missing(REFERENCE), frame(1, rows=20), (WIND, ORIGIN))
    assert found == (Comparison(column="wind", test="ks", effect=0.5, rows=20, reference_rows=3000),)


def interpreter(folder, text):
    """An executable that stands in for Alibi Detect's Python."""
    (file := folder / "python").write_text(text)
    file.chmod(0o755)
    return str(file)


STAND_IN = """
import json, os, sys
import pandas as pd

_, _, module, reference, current, features, out, *rest = sys.argv
assert module == "evergrow.integrations.alibi_detect"
assert "alibi_detect.py" in os.listdir("evergrow/integrations")
assert "PYTHONPATH" not in os.environ
assert rest == ["--tests", "ks", "chi2", "--seed", "7"]
assert [f["name"] for f in json.load(open(features))] == ["wind", "origin"]
reference, current = pd.read_parquet(reference), pd.read_parquet(current)
assert reference["wind"].dtype == float
found = {"column": "wind", "test": "ks", "effect": 0.5, "p_value": None,
         "rows": int(current["wind"].count()), "reference_rows": int(reference["wind"].count())}
json.dump([found], open(out, "w"))
"""


@pytest.mark.parametrize("tests", [("psi", "chi2"), ("ks", "mmd"), ("chi2",), ()])
def test_tests_that_alibi_detect_does_not_have_or_that_leave_a_kind_out_are_refused(tests):
    with pytest.raises(SpecError, match=r"`tests` must be of ks, mmd, chi2, at least one for numbers"):
        AlibiDetectDrift(sys.executable, tests)


def test_of_evergrow_it_imports_what_needs_pandas_and_pydantic_only():
    script = """
import json, sys
import evergrow.integrations.alibi_detect
print(json.dumps(sorted(m for m in sys.modules if m.partition(".")[0] == "evergrow")))
"""
    integrations = [f"evergrow.integrations{name}" for name in ("", ".alibi_detect", ".paired_columns")]
    assert answer_of(script) == ["evergrow", "evergrow.contracts", "evergrow.errors", *integrations]
