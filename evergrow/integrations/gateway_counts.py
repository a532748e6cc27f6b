"""What a gateway counted of each version since a rollout began."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import get_args

from evergrow.integrations.envoy import Counts
from evergrow.integrations.envoy_config import Arm
from evergrow.rollout.guardrails import Answered


class RequestCounts:
    """Requests and errors of each version since a rollout began, by the gateway's counters.

    Copies that a shadow was too slow to be sent are not its errors, and do not count.

    Counters begin at 0 when Envoy is started or a version comes back onto the route. What was added up is kept in a
    file, so a restart costs what was counted after the last look, a second before. How many answers were late is not
    counted here (`late` is None): the prediction log tells.
    """

    def __init__(self, count: Callable[[int, Arm], Counts], unsent: Callable[[int], int], path: Path) -> None:
        """Counts that go on from a file.

        Args:
            count: the gateway's counters of one way to one version.
            unsent: how many of a version's copies were not sent, which the former has as failures.
            path: of the file; it need not be there.
        """
        self.count, self.unsent, self.path = count, unsent, path
        self.attempt: str | None = None
        self.totals: dict[int, Counts] = {}
        self._last: dict[tuple[int, str], Counts] = {}
        if path.exists():
            kept = json.loads(path.read_text(encoding="utf-8"))
            self.attempt = kept["attempt"]
            self.totals = {int(version): Counts(*counted) for version, counted in kept["versions"].items()}

    def look(self, attempt: str, versions: Iterable[int]) -> None:
        """Add what was counted since the last look; of an attempt that is new, begin at 0.

        Raises:
            ServingError: the gateway is not there.
        """
        news = {version: self._news(version) for version in versions}
        if attempt != self.attempt:
            self.attempt, self.totals, news = attempt, {}, dict.fromkeys(news, Counts(0, 0))
        before = dict(self.totals)
        for version, (requests, failures) in news.items():
            had = self.totals.get(version, Counts(0, 0))
            self.totals[version] = Counts(had.requests + requests, had.failures + failures)
        if self.totals != before:
            aside = self.path.with_name(f".{self.path.name}")
            aside.write_text(json.dumps({"attempt": self.attempt, "versions": self.totals}), encoding="utf-8")
            aside.replace(self.path)

    def __call__(self, model: str) -> Mapping[int, Answered]:
        """As of the last look, by version."""
        counted = {version: Counts(*(max(0, n) for n in counts)) for version, counts in self.totals.items()}
        return {version: Answered(counts.requests, counts.failures, None) for version, counts in counted.items()}

    def _news(self, version: int) -> Counts:
        """What was counted since the last look."""
        arms = [self._since(version, arm, self.count(version, arm)) for arm in get_args(Arm)]
        unsent = self.unsent(version)  # asked last: for a moment it may have more than the others, and never less
        lost = self._since(version, "unsent", Counts(unsent, unsent))
        return Counts(
            sum(one.requests for one in arms) - lost.requests, sum(one.failures for one in arms) - lost.failures
        )

    def _since(self, version: int, way: str, now: Counts) -> Counts:
        """By how much it has grown; all of it if it is less than it was, for then it began anew."""
        last = self._last.get((version, way), Counts(0, 0))
        self._last[version, way] = now
        if now.requests < last.requests or now.failures < last.failures:
            return now
        return Counts(now.requests - last.requests, now.failures - last.failures)
