import copy
import json
from datetime import timedelta

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from evergrow.errors import SpecError
from evergrow.spec import ModelRollout, load, parse, stored
from evergrow.spec.base import write_duration
from evergrow.spec.model import ContinualModel, SearchRange
from tests.documents import STRATEGIES, attempt

DOCUMENT = {
    "apiVersion": "evergrow.dev/v1alpha1",
    "kind": "ContinualModel",
    "metadata": {"name": "tips"},
    "spec": {
        "task": "binary-classification",
        "source": {"entrypoint": "models.tips.data:Tips"},
        "features": {"service": "tips"},
        "label": {"column": "generous"},
        "training": {"estimator": {"entrypoint": "models.tips.estimator:build"}, "window": {"kind": "all"}},
        "evaluation": {"holdout": "30d", "metrics": ["log_loss"], "gate": {"metric": "log_loss"}},
    },
}


def changed(path: str, value: object) -> dict:
    document = copy.deepcopy(DOCUMENT)
    *parents, last = path.split(".")
    node = document
    for key in parents:
        node = node.setdefault(key, {})
    node[last] = value
    return document


def test_a_minimal_document_is_read_with_its_defaults():
    model = parse(DOCUMENT)
    assert model.name == "tips"
    assert model.spec.evaluation.holdout == timedelta(days=30)
    assert model.spec.training.calibration == "none"


def test_a_dumped_document_reads_back_as_itself():
    model = parse(changed("spec.training.window", {"kind": "sliding", "length": "90d12h"}))
    assert parse(model.dump()) == model


def test_labels_cannot_be_joined_by_what_the_log_leaves_out():
    document = changed("spec.label", {"column": "generous", "key": ["waiter", "guest"]})
    document["spec"]["serving"] = {"log": {"leftOut": ["guest"]}}
    with pytest.raises(SpecError, match=r"`label.key`: must be .*, found 'guest'"):
        parse(document)
    document["spec"]["serving"] = {"log": {"hashed": ["guest"]}}
    assert parse(document).spec.label.key == ("waiter", "guest")


def test_callers_cannot_be_kept_to_a_version_by_what_the_log_leaves_out():
    document = changed("spec.rollout", {"sticky": ["guest"]})
    document["spec"]["serving"] = {"log": {"leftOut": ["guest"]}}
    with pytest.raises(SpecError, match=r"`rollout.sticky`: must be .*, found 'guest'"):
        parse(document)
    document["spec"]["serving"] = {"log": {"hashed": ["guest"]}}
    assert parse(document).spec.rollout.sticky == ("guest",)


def test_groups_of_a_regression_have_no_rates_of_true_positives():
    document = changed("spec.task", "regression")
    document["spec"]["evaluation"] = {"holdout": "30d", "metrics": ["mae"], "gate": {"metric": "mae"}}
    document["spec"]["monitoring"] = {"fairness": [{"column": "sex", "metric": "true_positive_rate"}]}
    with pytest.raises(SpecError, match=r"`monitoring.fairness\[0\].metric` needs a classification"):
        parse(document)
    document["spec"]["monitoring"] = {"fairness": [{"column": "sex", "metric": "loss"}]}
    assert parse(document).spec.monitoring.fairness[0].limit == 0.1


def test_slices_are_those_of_the_evaluation_unless_monitoring_has_its_own():
    document = changed("spec.evaluation.slices", ["city"])
    assert parse(document).spec.monitoring.slices_of(parse(document).spec.evaluation) == ("city",)
    document["spec"]["monitoring"] = {"slices": []}
    assert parse(document).spec.monitoring.slices_of(parse(document).spec.evaluation) == ()


def test_other_drift_tools_are_known_ones_each_named_once():
    document = changed("spec.monitoring.driftTools", ["whylogs", "evidently"])
    assert parse(document).spec.monitoring.drift_tools == ("whylogs", "evidently")
    assert parse(DOCUMENT).spec.monitoring.drift_tools == ()
    with pytest.raises(SpecError, match=r"spec.monitoring: `driftTools` must name each tool once, found 'evidently'"):
        parse(changed("spec.monitoring.driftTools", ["evidently", "whylogs", "evidently"]))
    with pytest.raises(SpecError, match=r"spec.monitoring.driftTools\[0\].*found 'deepchecks'"):
        parse(changed("spec.monitoring.driftTools", ["deepchecks"]))


def test_a_document_cannot_be_changed_after_reading():
    with pytest.raises(Exception, match="frozen"):
        parse(DOCUMENT).spec.task = "regression"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            "spec.evaluation.gate.alpha",
            0.7,
            "spec.evaluation.gate.alpha: input should be less than 0.5, found 0.7",
        ),
        ("spec.evaluation.holdout", "30 days", 'spec.evaluation.holdout: must be a duration such as "30d"'),
        ("spec.evaluation.holdout", 30, "found 30"),
        ("spec.evaluation.holdout", "9999999999d", "must be a duration such as"),
        ("spec.evaluation.holdout", "30d\n", "must be a duration such as"),
        ("spec.evaluation.holdout", "٣d", "must be a duration such as"),
        ("spec.evaluation.holdot", "3d", "spec.evaluation.holdot: unknown key; did you mean `holdout`?"),
        ("spec.evaluation.minimum_rows2", 3, "did you mean `minimumRows`?"),
        ("spec.training.window.lenght", "3d", "spec.training.window.lenght: unknown key; known here: kind"),
        ("spec.training.window", {"kind": "slidign"}, "spec.training.window: "),
        ("spec.evaluation.metrics", ["mae"], "`evaluation.metrics[0]` must be one of log_loss, brier"),
        ("spec.evaluation.gate.metric", "roc_auc", "`evaluation.gate.metric` must be one of log_loss, brier"),
        ("spec.evaluation.gate.floors", [{"metric": "brier"}], "exactly one of `atLeast` and `atMost`"),
        ("spec.monitoring.falseAlarmsPerMonth", 0, "falseAlarmsPerMonth: input should be greater than 0, found 0"),
        ("spec.monitoring.worth", {"currency": "euro"}, "spec.monitoring.worth.currency: string should match pattern"),
        (
            "spec.monitoring.worth",
            {"currency": "EUR", "perUnitOfError": 2},
            "`monitoring.worth.perUnitOfError` is for a regression",
        ),
        ("spec.task", "clustering", "spec.task: input should be 'binary-classification' or 'regression'"),
        ("spec.source.entrypoint", "models/tips.py", "spec.source.entrypoint: string should match pattern"),
        ("spec.source.entrypoint", "models.café:Tips", "spec.source.entrypoint: string should match pattern"),
        ("metadata.name", "Tips!", "metadata.name: string should match pattern"),
        (
            "apiVersion",
            "evergrow.dev/v9",
            "apiVersion: input should be 'evergrow.dev/v1alpha1', found 'evergrow.dev/v9'",
        ),
        ("spce", {}, "spce: unknown key; did you mean `spec`?"),
    ],
)
def test_an_error_names_the_path_the_rule_and_the_value(path, value, message):
    with pytest.raises(SpecError) as error:
        parse(changed(path, value))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"candidates": []}, "spec.candidates: tuple should have at least 1 item"),
        ({"rollout": {"strategy": {"kind": "canray"}}}, "spec.rollout.strategy: input tag 'canray' found using 'kind'"),
        (
            {"rollout": {"strategy": {"kind": "canary", "step": []}}},
            "strategy.step: unknown key; did you mean `steps`?",
        ),
        (
            {"rollout": {"strategy": {"kind": "canary", "steps": []}}},
            "must have rising weights, at least one, found []",
        ),
        (
            {"rollout": {"stickyFor": "30s"}},
            "spec.rollout.stickyFor: input should be greater than or equal to 1 minute, found '30s'",
        ),
        ({"requested_bye": "me"}, "spec.requested_bye: unknown key; did you mean `requestedBy`?"),
    ],
)
def test_an_error_of_an_attempt_is_told_as_well(spec, message):
    with pytest.raises(SpecError) as error:
        parse(attempt(spec), "attempt.yaml", ModelRollout)
    assert message in str(error.value)
    assert str(error.value).startswith("attempt.yaml: ")


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
def test_an_attempt_reads_back_as_it_is_written(strategy, tmp_path):
    rollout = parse(attempt({"rollout": {"strategy": strategy}}), kind=ModelRollout)
    assert (rollout.name, rollout.status.phase) == ("tips-v4", "Pending")
    path = tmp_path / "attempt.yaml"
    path.write_text(yaml.safe_dump(rollout.dump()))
    assert load(path, ModelRollout) == rollout
    with pytest.raises(SpecError, match="kind: input should be 'ContinualModel', found 'ModelRollout'"):
        load(path)


def test_what_an_api_server_adds_to_a_document_is_left_out_when_it_is_read():
    added = {"uid": "1", "generation": 3, "resourceVersion": "9", "managedFields": [], "namespace": "dev"}
    labels = {"team": "waiters"}
    found = {**DOCUMENT, "metadata": {"name": "tips", "labels": labels, **added}, "status": {"serving": 3}}
    model = stored(found, ContinualModel)
    assert model.spec == parse(DOCUMENT).spec
    assert model.metadata.labels == labels
    assert stored({**attempt(), "status": {"phase": "Paused"}}, ModelRollout).status.phase == "Paused"
    with pytest.raises(SpecError, match="ContinualModel tips: spec.task: input should be"):
        stored({**found, "spec": {**DOCUMENT["spec"], "task": "x"}}, ContinualModel)


def test_every_fault_of_a_document_is_listed_at_once():
    document = changed("spec.evaluation.gate.alpha", 2)
    document["spec"]["training"]["seed"] = -1
    with pytest.raises(SpecError) as error:
        parse(document)
    assert len(str(error.value).splitlines()) == 2


def test_a_missing_key_is_named_with_its_path():
    document = copy.deepcopy(DOCUMENT)
    del document["spec"]["label"]
    with pytest.raises(SpecError, match=r"spec\.label: is required"):
        parse(document)


def test_calibration_of_a_regression_is_refused():
    document = changed("spec.task", "regression")
    document["spec"]["evaluation"] |= {"metrics": ["mae"], "gate": {"metric": "mae"}}
    assert parse(document).spec.task == "regression"
    document["spec"]["training"]["calibration"] = "isotonic"
    with pytest.raises(SpecError, match="`training.calibration` must be none for regression"):
        parse(document)


def test_a_file_is_read_and_its_name_is_part_of_the_error(tmp_path):
    path = tmp_path / "model.yaml"
    path.write_text(yaml.safe_dump(DOCUMENT))
    assert load(path) == parse(DOCUMENT)
    path.write_text("kind: ContinualModel\nkind: Other\n")
    with pytest.raises(SpecError, match=r"model.yaml: is not YAML: (?s:.*)'kind' occurs twice"):
        load(path)


@pytest.mark.parametrize(("text", "message"), [("a: [", "is not YAML"), ("- 1", "must be a mapping"), ("", "NoneType")])
def test_what_is_no_document_is_refused_in_words(tmp_path, text, message):
    path = tmp_path / "model.yaml"
    path.write_text(text)
    with pytest.raises(SpecError, match=message):
        load(path)


def test_a_missing_file_is_refused_in_words(tmp_path):
    with pytest.raises(SpecError, match="cannot be read: No such file"):
        load(tmp_path / "none.yaml")


@given(st.integers(0, 10**8))
def test_a_duration_survives_writing_and_reading(seconds):
    length = timedelta(seconds=seconds)
    document = changed("spec.evaluation.holdout", write_duration(length))
    assert parse(document).spec.evaluation.holdout == length


@pytest.mark.parametrize(
    ("low", "high", "log", "message"), [(3, 1, False, "below `high`"), (0, 1, True, "above 0 on a log scale")]
)
def test_a_search_range_that_holds_nothing_is_refused(low, high, log, message):
    with pytest.raises(ValueError, match=message):
        SearchRange(low=low, high=high, log=log)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
PATHS = [
    "spec",
    "metadata",
    "spec.training",
    "spec.training.window",
    "spec.evaluation.gate",
    "spec.evaluation.metrics",
]


@given(st.sampled_from(PATHS), JSON)
def test_any_value_anywhere_is_read_or_refused_in_words(path, value):
    try:
        assert isinstance(parse(changed(path, value)), ContinualModel)
    except SpecError as error:
        assert str(error)


@pytest.mark.parametrize("write", [json.dumps, yaml.safe_dump], ids=["JSON", "YAML"])
def test_a_document_travels_as_text_with_its_numbers_and_nulls_as_they_were(write):
    given = {"rate": 1e-05, "depth": 3, "limit": None, "share": 2.0}
    model = parse(changed("spec.training.estimator.parameters", given))
    read = parse(write(model.dump()))
    assert read == model
    numbers = read.spec.training.estimator.parameters
    assert {name: type(value) for name, value in numbers.items()} == {n: type(v) for n, v in given.items()}
