"""Servers as processes: small ones that say when they are ready, and end in the ways that servers do."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from evergrow.errors import ServingError
from evergrow.integrations import server_processes
from evergrow.integrations.envoy_config import Backend
from evergrow.integrations.server_processes import ServerProcesses, version_directory
from evergrow.rollout.desired import covering

SERVER = '''
"""Ready while there is a file `ready` in its directory; ends at once while there is one `broken`, which it prints."""
import http.server, os, signal, sys, threading, time
from pathlib import Path

folder, port = Path(sys.argv[1]), int(sys.argv[2])
(folder / "starts").open("a").write(f"{os.getpid()} {port}\\n")
if (folder / "broken").exists():
    print((folder / "broken").read_text(), end="", flush=True)
    sys.exit(7)

class Answers(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        (folder / "asked").touch()
        time.sleep(0.5 if self.path == "/slow" or (folder / "hangs").exists() else 0)
        self.send_response(200 if (folder / "ready").exists() else 503)
        self.send_header("content-length", "0")
        self.end_headers()
    def log_message(self, *_): ...

def end(*_):
    if not (folder / "deaf").exists():
        threading.Thread(target=server.shutdown).start()

server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Answers)
server.daemon_threads = False  # closing it waits for what is under way
signal.signal(signal.SIGTERM, end)
server.serve_forever(0.01)
server.server_close()
'''


def until(holds: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not so within {seconds} s"
        time.sleep(0.01)


def prepare(root: Path, name: str, version: int | None = None, *files: str) -> Path:
    directory = root / "versions" / name
    directory.mkdir(parents=True)
    (directory / "serving.json").write_text(json.dumps({"version": version or int(name)}))
    for file in files:
        (directory / file).write_text("the bundle is torn\n")
    return directory


def starts(directory: Path) -> list[tuple[int, int]]:
    """Process id and port of each start."""
    path = directory / "starts"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(int(pid), int(port)) for pid, port in (line.split() for line in lines)]


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "serving"


@pytest.fixture
def fleet(root: Path, tmp_path: Path) -> Iterator[ServerProcesses]:
    program = tmp_path / "server.py"
    program.write_text(SERVER)

    def start(directory: Path, at: Backend) -> list[str]:
        return [sys.executable, "-S", str(program), str(directory), str(at.http_port)]

    made = ServerProcesses("delays", root, tmp_path / "logs", start)
    yield made
    for server in [*made._servers.values(), *(one for one, _ in made._leaving)]:
        server.process.kill()
        server.process.wait()


def is_ready(fleet: ServerProcesses, *versions: int) -> Callable[[], bool]:
    return lambda: set(fleet.ready("delays")) == set(versions)


def test_a_server_that_is_silent_for_a_moment_is_ready_and_one_that_stays_so_is_not(
    fleet: ServerProcesses, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = prepare(root, "3", None, "ready")
    fleet.ensure("delays", 3, 1)
    until(is_ready(fleet, 3))
    monkeypatch.setattr(server_processes, "PROBE_SECONDS", 0.1)
    (directory / "hangs").touch()
    assert [set(fleet.ready("delays")) for _ in range(4)] == [{3}, {3}, set(), set()]
    (directory / "hangs").unlink()
    monkeypatch.undo()
    until(is_ready(fleet, 3))
    (directory / "ready").unlink()
    assert fleet.ready("delays") == {}


def test_nothing_runs_before_it_is_asked_for(fleet: ServerProcesses) -> None:
    assert (fleet.ready("delays"), fleet.processes(), fleet.backends) == ({}, {}, {})


def test_a_version_is_ready_when_its_server_says_so_and_no_sooner(fleet: ServerProcesses, root: Path) -> None:
    directory = prepare(root, "3")
    fleet.ensure("delays", 3, 1)
    until(lambda: bool(starts(directory)))
    (pid, port) = starts(directory)[0]
    assert fleet.processes() == {3: pid}
    assert fleet.backends[3].http_port == port
    until(lambda: _answers(port))
    assert fleet.ready("delays") == {}
    (directory / "ready").touch()
    until(is_ready(fleet, 3))
    (directory / "ready").unlink()
    assert fleet.ready("delays") == {}


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status == 503
    except OSError:
        return False
    finally:
        connection.close()


def test_a_process_stands_for_as_many_replicas_as_are_wanted(fleet: ServerProcesses, root: Path) -> None:
    directory = prepare(root, "3", None, "ready")
    for replicas in (2, 3, 1):
        fleet.ensure("delays", 3, replicas)
    until(is_ready(fleet, 3))
    assert fleet.ready("delays") == {3: 3}
    assert len(starts(directory)) == 1
    fleet.keep("delays", frozenset({3}))
    assert fleet.ready("delays") == {3: 1}


@pytest.mark.parametrize("weight", [0, 1, 50, 100])
def test_one_process_each_is_enough_for_every_share(weight: int) -> None:
    assert covering(3, {3: 1, 4: 1}, weight) == 1


def test_a_version_that_was_never_prepared_is_refused_with_what_prepares_it(fleet: ServerProcesses, root: Path) -> None:
    prepare(root, "3")
    with pytest.raises(ServingError, match=r"delays: version 4 is not prepared") as refused:
        fleet.ensure("delays", 4, 1)
    assert "evergrow run training" in refused.value.hint
    assert (fleet.processes(), fleet.backends) == ({}, {})


def test_another_model_has_no_servers_here(fleet: ServerProcesses, root: Path) -> None:
    prepare(root, "3", None, "ready")
    with pytest.raises(ServingError, match="model must be delays, .* found bikes"):
        fleet.ensure("bikes", 3, 1)
    fleet.ensure("delays", 3, 1)
    until(is_ready(fleet, 3))
    fleet.keep("bikes", frozenset())
    assert (fleet.ready("bikes"), fleet.ready("delays")) == ({}, {3: 1})


def test_a_server_that_dies_is_started_again_where_it_was(fleet: ServerProcesses, root: Path) -> None:
    directory = prepare(root, "3", None, "ready")
    fleet.ensure("delays", 3, 2)
    until(is_ready(fleet, 3))
    (pid, port) = starts(directory)[0]
    os.kill(pid, signal.SIGKILL)
    until(lambda: not fleet.processes())
    assert fleet.ready("delays") == {}
    fleet.ensure("delays", 3, 1)
    until(is_ready(fleet, 3))
    assert [at for _, at in starts(directory)] == [port, port]
    assert fleet.processes()[3] != pid
    assert fleet.ready("delays") == {3: 2}


def test_a_server_that_never_becomes_ready_is_told_and_tried_at_growing_intervals(
    fleet: ServerProcesses, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = prepare(root, "3", None, "broken")
    elapsed = 0.0
    monkeypatch.setattr(server_processes.time, "monotonic", lambda: elapsed)
    fleet.ensure("delays", 3, 1)
    begun = []
    for second in range(40):
        until(lambda: not fleet.processes())
        elapsed = float(second)
        with pytest.raises(ServingError, match="version 3 ended with exit code 7, never ready: the bundle is torn"):
            fleet.ensure("delays", 3, 1)
        begun.append(len(starts(directory)))
    assert [begun.count(n) for n in sorted(set(begun))][1:4] == [4, 8, 16]
    (directory / "broken").unlink()
    (directory / "ready").touch()
    elapsed += 60.0
    with pytest.raises(ServingError):
        fleet.ensure("delays", 3, 1)
    monkeypatch.undo()
    until(is_ready(fleet, 3))
    fleet.ensure("delays", 3, 1)


def test_others_end_after_what_they_have_under_way_and_nobody_waits(fleet: ServerProcesses, root: Path) -> None:
    kept, gone = prepare(root, "3", None, "ready"), prepare(root, "4", None, "ready")
    for version in (3, 4):
        fleet.ensure("delays", version, 1)
    until(is_ready(fleet, 3, 4))
    connection = http.client.HTTPConnection("127.0.0.1", fleet.backends[4].http_port, timeout=10)
    (gone / "asked").unlink()
    connection.request("GET", "/slow")
    until((gone / "asked").exists)
    (pid, _) = starts(gone)[0]
    fleet.keep("delays", frozenset({3, 9}))
    assert lives(pid)  # it still answers
    assert (fleet.ready("delays"), set(fleet.backends), set(fleet.processes())) == ({3: 1}, {3}, {3})
    assert connection.getresponse().status == 200
    connection.close()
    until(lambda: not fleet.ready("delays") or not fleet._leaving)
    assert not lives(pid)
    assert lives(starts(kept)[0][0])


def test_one_that_does_not_listen_is_ended(fleet: ServerProcesses, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = prepare(root, "3", None, "ready", "deaf")
    fleet.ensure("delays", 3, 1)
    until(is_ready(fleet, 3))
    (pid, _) = starts(directory)[0]
    fleet.keep("delays", frozenset())
    fleet.ready("delays")
    assert lives(pid)
    monkeypatch.setattr(server_processes, "STOP_SECONDS", 0.0)
    fleet.stop()
    assert not lives(pid)


def test_a_version_comes_back_while_its_last_server_still_ends(fleet: ServerProcesses, root: Path) -> None:
    directory = prepare(root, "3", None, "ready", "deaf")
    fleet.ensure("delays", 3, 1)
    until(is_ready(fleet, 3))
    fleet.keep("delays", frozenset())
    fleet.ensure("delays", 3, 1)
    until(is_ready(fleet, 3))
    assert len({port for _, port in starts(directory)}) == 2


PARENT = """
import sys, time
from pathlib import Path
from evergrow.integrations.server_processes import ServerProcesses
root, program = Path(sys.argv[1]), sys.argv[2]
start = lambda folder, at: [sys.executable, program, str(folder), str(at.http_port)]
fleet = ServerProcesses("delays", root, root, start)
fleet.ensure("delays", 3, 1)
time.sleep(60)
"""


def test_servers_end_with_the_process_that_started_them_however_that_ends(root: Path, tmp_path: Path) -> None:
    directory = prepare(root, "3", None, "ready")
    (tmp_path / "server.py").write_text(SERVER)
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(root), str(tmp_path / "server.py")])
    until(lambda: bool(starts(directory)))
    (pid, port) = starts(directory)[0]
    until(lambda: _takes(port))
    parent.kill()
    parent.wait()
    until(lambda: not lives(pid))


def _takes(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


# -- directories --


def test_what_is_served_now_stands_for_its_version(root: Path) -> None:
    first, second = prepare(root, "3"), prepare(root, "3-abcd1234", 3)
    os.utime(first, ns=(2_000_000_000, 2_000_000_000))
    os.utime(second, ns=(1_000_000_000, 1_000_000_000))
    assert version_directory(root, 3) == first
    (root / "current").symlink_to("versions/3-abcd1234")
    assert version_directory(root, 3) == second.resolve()
    assert version_directory(root, 31) is None


def test_of_a_version_that_was_prepared_twice_the_last_counts_but_never_half_of_one(root: Path) -> None:
    prepare(root, "3")
    last = prepare(root, "3-abcd1234", 3)
    os.utime(root / "versions" / "3", ns=(1_000_000_000, 1_000_000_000))
    (root / "versions" / ".3-ffff.77").mkdir()
    (root / "versions" / "3-eeee").mkdir()
    prepare(root, "31")
    (root / "current").symlink_to("versions/31")
    assert version_directory(root, 3) == last
