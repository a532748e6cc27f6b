import pytest

from evergrow.errors import SpecError
from evergrow.learning.search import read_trials, search, write_trials
from evergrow.spec.model import Search

SPACE = {"rate": {"low": 0.001, "high": 1.0, "log": True}, "depth": {"low": 1.5, "high": 8.2, "integer": True}}


def spec(trials=15):
    return Search.model_validate({"trials": trials, "space": SPACE})


def bowl(parameters):
    return (parameters["rate"] - 0.1) ** 2 + 0.01 * (parameters["depth"] - 4) ** 2


def test_the_best_of_the_trials_is_found():
    found = search(spec(), 0, bowl)
    assert bowl(found.parameters) == min(trial.loss for trial in found.trials)
    assert len(found.trials) == 15


def test_values_stay_within_their_ranges_and_whole_numbers_are_whole():
    for trial in search(spec(), 0, bowl).trials:
        assert 0.001 <= trial.parameters["rate"] <= 1.0
        assert trial.parameters["depth"] in range(2, 9)


def test_the_same_seed_makes_the_same_trials_and_another_others():
    assert search(spec(), 3, bowl) == search(spec(), 3, bowl)
    assert search(spec(), 3, bowl).trials != search(spec(), 4, bowl).trials


def test_a_refused_or_infinite_trial_fails_and_the_search_goes_on():
    def loss(parameters):
        if parameters["depth"] > 6:
            raise SpecError("too deep")
        return float("inf") if parameters["depth"] < 3 else bowl(parameters)

    found = search(spec(25), 0, loss)
    assert {trial.loss is None for trial in found.trials} == {True, False}
    assert 3 <= found.parameters["depth"] <= 6


def test_a_search_in_which_nothing_succeeds_is_an_error():
    with pytest.raises(SpecError, match="none of 15 trials succeeded"):
        search(spec(), 0, lambda parameters: float("nan"))


def test_trials_are_read_back_as_written(tmp_path):
    trials = search(spec(3), 0, bowl).trials
    write_trials(tmp_path, trials)
    assert read_trials(tmp_path) == trials


def test_a_bundle_without_a_search_has_no_trials(tmp_path):
    assert read_trials(tmp_path) == ()
