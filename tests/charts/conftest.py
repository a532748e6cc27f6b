"""Every chart with each of its environments, found by discovery."""

from __future__ import annotations

import pytest

from tests.charts.policies import Release
from tests.charts.rendering import Variant, chart_names, namespace_of, rendered, variants


@pytest.fixture(params=chart_names())
def chart(request: pytest.FixtureRequest) -> str:
    """A chart's name."""
    return str(request.param)


@pytest.fixture(params=variants(), ids=str)
def variant(request: pytest.FixtureRequest) -> Variant:
    """A chart and an environment."""
    found: Variant = request.param
    return found


@pytest.fixture
def release(variant: Variant) -> Release:
    """What a variant renders to."""
    return Release(rendered(variant), namespace_of(variant), variant.external)
