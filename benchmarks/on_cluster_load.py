"""Requests at a fixed rate, whatever becomes of them: python -m benchmarks.on_cluster_load URL HOST RATE < body.

Arrivals keep to their schedule: a server that answers slowly is sent no fewer requests, and latency counts from when
a request was due. Every request is sent once and counted once, by its status or by the error that it ended in;
nothing is tried again. A 200 that holds no prediction is not an answer. SIGTERM ends it, with a report in JSON.
"""

from __future__ import annotations

import asyncio
import json
import resource
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import aiohttp

GOOD = "200"
NO_PREDICTION = "200 without a prediction"
TIMEOUT_SECONDS = 10.0


@dataclass
class Report:
    """What became of the requests.

    Attributes:
        rate: requests per second that were due.
        seconds: for how long.
        outcomes: how many ended in which way: a status, or the name of an error.
        failures: those that were not answered rightly: when each was due, in seconds from the start, and why, in the
            words of the error or of the answer.
        latencies: milliseconds from when a request was due to its answer, of those that were answered rightly.
        late: milliseconds by which requests were sent after they were due: the generator's own delay.
    """

    rate: float
    seconds: float = 0.0
    outcomes: dict[str, int] = field(default_factory=dict)
    failures: list[tuple[float, str]] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)

    @property
    def sent(self) -> int:
        """All requests."""
        return sum(self.outcomes.values())

    @property
    def failed(self) -> int:
        """Those that were not answered rightly."""
        return self.sent - self.outcomes.get(GOOD, 0)

    @property
    def kept_up(self) -> bool:
        """Whether the rate was held: else nothing follows from the absence of failures."""
        return self.seconds > 0 and self.sent >= 0.99 * self.rate * self.seconds

    def percentile(self, which: int) -> float:
        """Of the latencies."""
        return statistics.quantiles(self.latencies, n=100)[which - 1]


async def offer(url: str, host: str, body: bytes, rate: float, stop: asyncio.Event) -> Report:
    """Send requests until told to stop, then wait for the answers to those that were sent."""
    report, counted = Report(rate), Counter[str]()
    headers = {"host": host, "content-type": "application/json"}
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
        begun = time.perf_counter()

        async def one(due: float) -> None:
            report.late.append(1000 * (time.perf_counter() - begun - due))
            outcome, why = await _ask(session, url, headers, body)
            counted[outcome] += 1
            if outcome == GOOD:
                report.latencies.append(1000 * (time.perf_counter() - begun - due))
            else:
                report.failures.append((round(due, 3), f"{outcome} {why}".strip()))

        async with asyncio.TaskGroup() as requests:
            number = 0
            while not stop.is_set():
                await asyncio.sleep(number / rate - (time.perf_counter() - begun))
                requests.create_task(one(number / rate))
                number += 1
            report.seconds = time.perf_counter() - begun
    report.outcomes = dict(counted)
    return report


async def _ask(session: aiohttp.ClientSession, url: str, headers: dict[str, str], body: bytes) -> tuple[str, str]:
    """How one request ended, and in which words.

    A POST on a kept connection that the server has closed is not sent again by aiohttp.
    """
    try:
        async with session.post(url, data=body, headers=headers) as answer:
            text = await answer.read()
            good = answer.status != 200 or _holds_prediction(text)
            return str(answer.status) if good else NO_PREDICTION, text.decode(errors="replace")[:200]
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        return type(error).__name__, str(error)


def _holds_prediction(text: bytes) -> bool:
    try:
        predictions = json.loads(text)["predictions"]
    except (ValueError, KeyError, TypeError):
        return False
    return isinstance(predictions, list) and len(predictions) == 1 and isinstance(predictions[0], float)


@contextmanager
def under_load(url: str, host: str, body: bytes, rate: float) -> Iterator[Report]:
    """While the body runs, send requests from a process of their own; the report is filled when it has ended."""
    report = Report(rate)
    command = [sys.executable, "-m", "benchmarks.on_cluster_load", url, host, str(rate)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(body)
        process.stdin.close()
        assert process.stdout.readline() == b"sending\n"
        try:
            yield report
        finally:
            process.send_signal(signal.SIGTERM)
            told = process.stdout.read()
    vars(report).update(json.loads(told))


async def main(url: str, host: str, rate: str) -> None:
    """Send until SIGTERM, and report."""
    # Each request that waits holds a connection: answers that take long must not end as the generator's own errors.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    body, stop = sys.stdin.buffer.read(), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print("sending", flush=True)
    report: Any = asdict(await offer(url, host, body, float(rate), stop))
    print(json.dumps(report))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
