"""`evergrow watch` as a process: where it listens, who is warned, and how it ends."""

import os
import re
import signal
import socket
import subprocess
import sys

import httpx
import pytest

from components.watch.__main__ import listening, warning
from evergrow.cli.watch import watch_command
from evergrow.errors import ServingError
from tests.unit.watch.builders import MODEL


def started(*arguments, home):
    command = [*watch_command("127.0.0.1", 0), *arguments]
    return subprocess.Popen(
        command, env={**os.environ, "EVERGROW_HOME": str(home), "EVERGROW_WATCH_TOKEN": ""},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 0)])
def test_the_process_tells_its_address_and_ends_when_told_even_with_a_listener(tmp_path, sent, code):
    with started("--model", MODEL, home=tmp_path / "home") as process:
        told = process.stdout.readline()
        url = re.search(r"http://127\.0\.0\.1:\d+", told)[0]
        assert f"/models/{MODEL} " in told
        with httpx.stream("GET", f"{url}/events", timeout=30) as answer:
            assert next(answer.iter_lines()) == "retry: 3000"
            process.send_signal(sent)
            assert process.wait(20) == code
        assert process.stderr.read() == ""


def test_a_port_that_is_in_use_is_told_as_such(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ServingError, match=f"127.0.0.1:{port} cannot be listened on: Address already in use"):
            listening("127.0.0.1", port)


def test_who_opens_it_to_others_is_warned():
    assert warning("127.0.0.1", "") == ""
    assert warning("localhost", "") == ""
    assert "EVERGROW_WATCH_TOKEN" in warning("0.0.0.0", "")
    assert "unencrypted" in warning("0.0.0.0", "s3cret")


def test_the_command_is_this_python_and_its_options():
    assert watch_command("::1", 9000, "delays", True) == [
        sys.executable, "-m", "components.watch", "--host", "::1", "--port", "9000", "--model", "delays", "--open",
    ]  # fmt: skip
