"""What monitoring has seen, in the object store: `monitoring/<model>/`, so that nothing is read or judged twice.

days/<day>/v<version>.parquet     profiles of the day's answers, and the segments that they are of
observations/<day>.json           what was seen of a day, once it was over
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from datetime import date

from evergrow.contracts import Observation
from evergrow.errors import ConflictError
from evergrow.integrations.object_store import ObjectStore
from evergrow.integrations.prediction_store import PredictionStore
from evergrow.monitoring.baseline import Baseline
from evergrow.monitoring.days import Day

TURNS = 10


class WatchStore:
    """The monitoring state of one model."""

    def __init__(self, store: ObjectStore, model: str) -> None:
        self.store, self.model = store, model
        self.folder = f"monitoring/{model}"

    def days(self, day: date) -> dict[int, Day]:
        """What is known of a day's answers, by version."""
        return {version: Day.load(content) for version, (content, _) in self._stored(day)}

    def count(self, predictions: PredictionStore, day: date, baseline: Callable[[int], Baseline]) -> dict[int, Day]:
        """Count what was shipped of a day since it was counted last; a segment is read once for ever.

        A day's file holds the counts and the names of the segments they are of, and is replaced whole: killed at any
        point, a segment is counted or it is not.

        Args:
            predictions: the log.
            day: UTC.
            baseline: of a version.

        Returns:
            What is known of the day now, by version.
        """
        for _ in range(TURNS):
            counted = self._count(predictions, day, baseline)
            if counted is not None:
                return counted
        raise ConflictError(f"{self.folder}: others went on writing to it", hint="run it again", retriable=True)

    def _count(
        self, predictions: PredictionStore, day: date, baseline: Callable[[int], Baseline]
    ) -> dict[int, Day] | None:
        """Count once; None if another has written in the meantime, and all of it must be done again."""
        seen = dict(self._stored(day))
        before = {version: Day.load(content) for version, (content, _) in seen.items()}
        counted = {name for of_version in before.values() for name in of_version.segments}
        after = dict(before)
        for name in predictions.segments(self.model, day):
            if name not in counted:
                rows = predictions.segment(name)
                version = int(rows["version"][0].as_py())
                known = after.get(version) or Day.none(day, version, baseline(version), rows.column_names)
                after[version] = known.add(name, rows, baseline(version))
        changed = [version for version in after if after[version] is not before.get(version)]
        written = all(
            self.store.swap(
                self._place(day, version), after[version].save(), seen[version][1] if version in seen else None
            )
            for version in changed
        )
        return after if written else None

    def _place(self, day: date, version: int) -> str:
        return f"{self.folder}/days/{day.isoformat()}/v{version}.parquet"

    def _stored(self, day: date) -> Iterator[tuple[int, tuple[bytes, str]]]:
        folder = f"{self.folder}/days/{day.isoformat()}"
        for name in self.store.names(folder):
            content = self.store.read(f"{folder}/{name}")
            if content is not None:
                yield int(name.removeprefix("v").removesuffix(".parquet")), content

    def observations(self, day: date) -> list[Observation] | None:
        """What was seen of a day; None if it was not judged yet."""
        content = self.store.read(f"{self.folder}/observations/{day.isoformat()}.json")
        return None if content is None else [Observation.model_validate(one) for one in json.loads(content[0])]

    def keep(self, day: date, observations: Sequence[Observation]) -> None:
        """Keep what was seen of a day, in the place of what was."""
        content = json.dumps([one.model_dump(mode="json") for one in observations], indent=1)
        self.store.write(f"{self.folder}/observations/{day.isoformat()}.json", content.encode())
