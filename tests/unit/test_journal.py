"""What a step in a pod leaves behind when it fails."""

import pytest

from evergrow import journal
from evergrow.errors import EvergrowError


@pytest.fixture
def left(monkeypatch, tmp_path):
    """Fail as a step in a pod; returns what Kubernetes is left to show."""
    file = tmp_path / "termination-log"
    file.touch()
    monkeypatch.setattr(journal, "TERMINATION", file)
    monkeypatch.setenv(journal.FOLDER, journal.STDOUT)

    def fail(error):
        def main():
            raise error

        main.__module__ = "components.train.step"
        with pytest.raises(type(error)):
            journal.step(main)()
        return file.read_text()

    return fail


def test_an_error_that_may_pass_is_left_as_it_is(left):
    error = EvergrowError("the store does not answer", hint="does it run?", retriable=True)
    assert left(error) == "EvergrowError: the store does not answer\n  hint: does it run?"


@pytest.mark.parametrize("error", [EvergrowError("no rows"), KeyError("a mistake of ours")])
def test_an_error_that_would_come_again_says_so_first(left, error):
    assert left(error) == f"{journal.FINAL}\n{type(error).__name__}: {error}"
