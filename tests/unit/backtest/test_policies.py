"""Policies are documents, one for each combination of options."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evergrow.backtest.policies import merged, policies, reference, supposed
from evergrow.backtest.replay import check
from evergrow.backtest.run import checked
from evergrow.errors import SpecError
from evergrow.spec import load, parse
from evergrow.spec.policies import PolicySet
from tests.unit.backtest.places import GATE, WHEN, WINDOW, policy_set, small_document

ROOT = Path(__file__).parents[3]
RFC_7386 = [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    (["a", "b"], ["c", "d"], ["c", "d"]),
    ({"a": "b"}, ["c"], ["c"]),
    ({"a": "foo"}, None, None),
    ({"a": "foo"}, "bar", "bar"),
    ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
]


@pytest.mark.parametrize(("target", "patch", "expected"), RFC_7386)
def test_patches_merge_as_the_examples_of_the_rfc_say(target, patch, expected):
    assert merged(target, patch) == expected


def test_every_combination_of_options_is_a_policy_and_the_last_choice_varies_fastest():
    found = policies(small_document(), policy_set())
    assert len(found) == policy_set().count == len(WHEN) * len(WINDOW) * len(GATE)
    assert [one.name for one in found[:3]] == ["weekly/all/strict", "weekly/all/open", "weekly/30d/strict"]
    assert len({one.name for one in found}) == len(found)


def test_a_policy_changes_what_its_options_say_and_nothing_else():
    model = small_document()
    one = next(p for p in policies(model, policy_set()) if p.name == "old/30d/open")
    assert one.document.spec.training.window.length.days == 30
    assert one.document.spec.retraining.triggers[0].older_than.days == 20
    assert one.document.spec.evaluation.gate.margin == -0.05
    unchanged = one.document.model_copy(
        update={"spec": one.document.spec.model_copy(update={
            "training": model.spec.training, "retraining": model.spec.retraining, "evaluation": model.spec.evaluation,
        })}
    )  # fmt: skip
    assert unchanged == model
    assert one.document.spec.training.estimator == model.spec.training.estimator


def test_a_part_of_another_kind_takes_nothing_over_from_the_one_before():
    sliding = small_document(training={"window": {"kind": "sliding", "length": "30d"}})
    tried = policy_set(choices={"window": {"decay": {"training": {"window": {"kind": "decay", "halfLife": "9d"}}}}})
    assert policies(sliding, tried)[0].document.spec.training.window.half_life.days == 9


def test_the_base_is_of_every_policy_and_options_come_after_it():
    tried = policy_set(base={"evaluation": {"holdout": "6d", "gate": {"margin": 1.0}}})
    found = {one.name: one.document.spec.evaluation for one in policies(small_document(), tried)}
    assert {evaluation.holdout.days for evaluation in found.values()} == {6}
    assert (found["old/all/strict"].gate.margin, found["old/all/open"].gate.margin) == (1.0, -0.05)


def test_what_is_supposed_of_every_policy_comes_after_its_options_and_is_in_what_to_merge():
    supposed = {"evaluation": {"gate": {"margin": 0.5}}, "retraining": {"budget": {"trainings": 1}}}
    found = policies(small_document(), policy_set(whatIf={"spec": supposed}))
    assert {one.document.spec.evaluation.gate.margin for one in found} == {0.5}
    assert {one.document.spec.retraining.budget.trainings for one in found} == {1}
    assert all(one.patch["retraining"]["budget"] == {"trainings": 1} for one in found)
    assert len({one.document.spec.retraining.triggers for one in found}) == len(WHEN)


WORTH = {"monitoring": {"worth": {"currency": "EUR", "truePositive": 2}}}


def test_money_is_the_same_of_all_policies_or_they_are_refused():
    one = {"plain": {}, "dear": {"monitoring": {"worth": {"truePositive": 3}}}}
    with pytest.raises(SpecError, match=r"policy dear: spec.monitoring.worth: must be that of policy plain"):
        checked(small_document(), policy_set(base=WORTH, choices={"money": one}))
    found = checked(small_document(), policy_set(base=WORTH))
    assert {policy.document.spec.monitoring.worth.currency for policy in found} == {"EUR"}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (["labelDelay=14d"], {"labelDelay": "14d"}),
        (["cpuHoursPerMillionRows=2"], {"cpuHoursPerMillionRows": 2.0}),
        (
            ["retraining.budget.trainings=1", "retraining.budget.per=90d", "takes=6h"],
            {"takes": "6h", "spec": {"retraining": {"budget": {"trainings": 1, "per": "90d"}}}},
        ),
        (["monitoring.worth.prices.cpuHour=0.5"], {"spec": {"monitoring": {"worth": {"prices": {"cpuHour": 0.5}}}}}),
    ],
)
def test_what_is_supposed_on_the_command_line_is_added_to_what_the_set_supposes(said, expected):
    before = {"takes": "2h", "spec": {"evaluation": {"holdout": "6d"}}}
    wanted = merged(before, expected)
    assert supposed(policy_set(whatIf=before), said) == policy_set(whatIf=wanted)


def test_null_takes_a_key_of_the_document_away():
    searched = small_document(training={"search": {"trials": 2, "space": {"C": {"low": 0.1, "high": 1}}}})
    tried = policy_set(choices={"search": {"off": {"training": {"search": None}}, "on": {}}})
    assert [one.document.spec.training.search is None for one in policies(searched, tried)] == [True, False]


def test_pasting_a_policys_patch_into_the_document_gives_the_policy():
    model = small_document()
    for one in policies(model, policy_set()):
        document = model.dump()
        assert parse({**document, "spec": merged(document["spec"], one.patch)}) == one.document


def test_a_patch_that_makes_no_document_names_the_policy_and_the_fault():
    tried = policy_set(choices={"when": {"never": {}, "odd": {"retraining": {"trigers": []}}}})
    with pytest.raises(SpecError, match=r"policy odd: spec.retraining.trigers: unknown key; did you mean `triggers`"):
        policies(small_document(), tried)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"choices": {"when": {}}}, "choices.when` must have at least one option, found none"),
        ({"reference": {"wen": "old"}}, "`reference` must name choices, one of when, window, gate, found 'wen'"),
        ({"reference": {"when": "odd"}}, "`reference.when` must be one of weekly, once, old"),
        (
            {"choices": {str(i): {f"o{j}": {} for j in range(7)} for i in range(4)}},
            "at most 2,000 policies, found 2,401",
        ),
        ({"every": "10s"}, "every"),
    ],
)
def test_a_set_that_is_none_says_why(parts, message):
    with pytest.raises(SpecError) as error:
        policy_set(**parts)
    assert message in str(error.value)


def test_the_reference_is_the_first_option_of_each_choice_that_it_does_not_name():
    assert reference(policy_set()) == "weekly/all/strict"
    assert reference(policy_set(reference={"window": "30d"})) == "weekly/30d/strict"


VALUES = st.recursive(
    st.none() | st.integers(0, 3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES.filter(lambda v: isinstance(v, dict)), VALUES.filter(lambda v: isinstance(v, dict)))
def test_after_a_patch_everything_it_says_is_so(target, patch):
    found = merged(target, patch)

    def holds(value, said):
        for key, inner in said.items():
            if inner is None:
                assert key not in value
            elif isinstance(inner, dict):
                holds(value[key], inner)
            else:
                assert value[key] == inner

    holds(found, patch)
    assert merged(found, patch) == found


def test_a_policy_set_reads_from_yaml_as_users_write_it(tmp_path):
    text = "choices:\n  when:\n    monthly:\n      retraining: {triggers: [{kind: model-age, olderThan: 30d}]}\n"
    (tmp_path / "policies.yaml").write_text(text)
    assert load(tmp_path / "policies.yaml", PolicySet).count == 1


SETS = [path for path in sorted(ROOT.glob("models/*/*.yaml")) if "kind: PolicySet" in path.read_text()]


@pytest.mark.parametrize("path", SETS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_policy_sets_of_the_examples_make_policies_of_their_models(path):
    tried = load(path, PolicySet)
    found = {one.name: one for one in policies(load(path.with_name("model.yaml")), tried)}
    assert len(found) == tried.count > 1
    assert reference(tried) in found
    for one in found.values():
        check(one)


def test_the_examples_have_policy_sets():
    assert {path.name for path in SETS} >= {"policies.yaml", "rollouts.yaml", "features.yaml"}
