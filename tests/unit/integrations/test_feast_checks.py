"""Feast is imported faster, and checks what it did."""

import inspect

import pytest
from typeguard import TypeCheckError, _decorators
from typeguard._decorators import instrument

from evergrow.integrations.feast_checks import Sparing, feast, sparing

CHECKED = [
    method
    for one in (feast.Entity, feast.StreamFeatureView, feast.PushSource, feast.FeatureService)
    for method in vars(one).values()
    if inspect.isfunction(method) and method.__qualname__.startswith(f"{one.__name__}.")
]


@pytest.mark.parametrize("method", CHECKED, ids=lambda method: method.__qualname__)
def test_what_is_instrumented_sparingly_is_the_same_code(method):
    whole = instrument(method)
    with sparing():
        spared, again = instrument(method), instrument(method)
    assert whole.__code__ == spared.__code__ == again.__code__
    assert list(whole.__code__.co_positions()) == list(spared.__code__.co_positions())
    assert whole.__code__ is not spared.__code__


def test_what_is_instrumented_checks_its_arguments():
    assert len(CHECKED) > 20
    with pytest.raises(TypeCheckError, match='argument "name"'):
        feast.Entity(name=3)


def test_typeguard_is_as_it_was_afterwards():
    with sparing():
        assert _decorators.TypeguardTransformer is Sparing
    assert _decorators.TypeguardTransformer is not Sparing
    assert inspect.ismodule(_decorators.ast)
