"""What is not carried out yet is refused before anything is promoted."""

import pytest

from components.deploy.step import check_strategy
from evergrow.errors import SpecError
from evergrow.spec import load, parse
from tests.pipelines.conftest import DOCUMENT


def test_a_version_takes_over_when_it_is_ready():
    check_strategy(load(DOCUMENT))


@pytest.mark.parametrize("kind", ["shadow", "canary", "blue-green", "ab-test", "bandit"])
def test_a_document_that_asks_for_more_evidence_is_refused_and_told_why(kind):
    dumped = load(DOCUMENT).dump()
    dumped["spec"]["rollout"] = {"strategy": {"kind": kind}}

    with pytest.raises(SpecError, match=rf"spec\.rollout\.strategy\.kind: must be single.*found {kind}"):
        check_strategy(parse(dumped))
