"""Asking the Kubernetes API: whatever its connection does, an answer is whole or it is asked for again."""

import pytest

from evergrow.errors import ClusterError
from evergrow.integrations.kubernetes import POD, Kubernetes
from tests.unit.integrations.fake_kubernetes import FakeKubernetes


class CutShort(FakeKubernetes):
    """Loses the connection in the middle of its first answers."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def cut(self, content: bytes) -> bytes:
        self.times -= 1
        return content[: len(content) // 2] if self.times >= 0 else content


def opened(fake: FakeKubernetes, tmp_path, patience: float) -> Kubernetes:
    from kubernetes import config

    return Kubernetes(config.new_client_from_config(str(fake.kubeconfig(tmp_path / "config"))), "default", patience)


def test_an_answer_that_is_cut_off_in_the_middle_is_asked_for_again(tmp_path):
    with CutShort(times=2) as fake:
        fake.put(POD, {"metadata": {"name": "one"}, "status": {"phase": "Running"}})
        fake.logs["default", "one"] = "first line\nsecond line\n"
        kubernetes = opened(fake, tmp_path, patience=30)
        assert kubernetes.get(POD, "one")["status"] == {"phase": "Running"}
        fake.times = 1
        assert kubernetes.log("one") == "first line\nsecond line\n"


def test_answers_that_are_always_cut_off_are_a_server_that_does_not_answer(tmp_path):
    with CutShort(times=1000) as fake:
        fake.put(POD, {"metadata": {"name": "one"}})
        with pytest.raises(ClusterError, match="does not answer") as caught:
            opened(fake, tmp_path, patience=0).get(POD, "one")
        assert caught.value.retriable
