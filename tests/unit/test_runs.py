"""When a run counts as done, in both directions."""

import copy
from datetime import timedelta

import pandas as pd
import pytest

from evergrow import runs
from evergrow.contracts import instant
from evergrow.data.lake import Lake
from evergrow.environment import Environment
from evergrow.spec import parse
from tests.unit.spec.test_load import DOCUMENT

AS_OF = "2024-03-01T00:00:00+00:00"


def document(**metadata):
    changed = copy.deepcopy(DOCUMENT)
    changed["metadata"] |= metadata
    changed["spec"]["source"]["entrypoint"] = "tests.toy_model.data:Demand"
    changed["spec"]["training"]["estimator"]["entrypoint"] = "tests.toy_model.estimator:build"
    return parse(changed)


@pytest.fixture
def environment(tmp_path):
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "views.py").write_text("x = 1\n")
    places = {"EVERGROW_HOME": str(tmp_path / "home"), "EVERGROW_FEATURE_REPO": str(tmp_path / "features")}
    read = Environment.read(places)
    Lake(read.data("tips")).append("t", pd.DataFrame({"x": [1]}), instant(AS_OF))
    return read


@pytest.fixture
def report(environment):
    path = environment.home / "report.html"
    path.write_text("page")
    runs.remember(environment, "training", document(), AS_OF, {"champion": 3, "told": "all"}, [path])
    return path


def recalled(environment, pipeline="training", model=None, as_of=AS_OF, champion=3):
    return runs.recall(environment, pipeline, model or document(), as_of, lambda: champion)


def test_a_run_that_was_never_made_is_not_recalled(environment):
    assert recalled(environment) is None


def test_the_same_run_is_recalled_with_what_it_told(environment, report):
    assert recalled(environment) == {"champion": 3, "told": "all"}
    assert recalled(environment, as_of="2024-03-01T01:00:00+01:00") is not None


def test_another_pipeline_instant_document_or_champion_is_another_run(environment, report):
    later = (instant(AS_OF) + timedelta(seconds=1)).isoformat()
    assert recalled(environment, pipeline="batch_scoring") is None
    assert recalled(environment, as_of=later) is None
    assert recalled(environment, model=document(labels={"team": "x"})) is None
    assert recalled(environment, champion=4) is None
    assert recalled(environment, champion=None) is None


def test_a_run_whose_files_are_gone_counts_no_more(environment, report):
    report.unlink()
    assert recalled(environment) is None


def test_changed_feature_declarations_make_another_run(environment, report):
    (environment.feature_repo / "views.py").write_text("x = 2\n")
    assert recalled(environment) is None


def test_data_that_was_not_read_up_to_the_instant_makes_another_run(environment, report):
    Lake(environment.data("tips")).append("u", pd.DataFrame({"x": [1]}), instant(AS_OF) - timedelta(seconds=1))
    assert recalled(environment) is None
    Lake(environment.data("tips")).append("u", pd.DataFrame({"x": [1]}), instant(AS_OF) + timedelta(days=9))
    assert recalled(environment) is not None


def test_the_registry_is_not_asked_when_all_else_says_no(environment, report):
    report.unlink()

    def asked() -> int:
        raise AssertionError("asked")

    assert runs.recall(environment, "training", document(), AS_OF, asked) is None
