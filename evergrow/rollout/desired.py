"""What must be so in the world while a rollout has a status; whoever is killed reads it off the status again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from evergrow.contracts import Route
from evergrow.spec.rollout import Rollout, RolloutSpec, RolloutStatus

DRAIN = timedelta(seconds=60)
"""What gets no requests any more is stopped so long after: by then what was under way is done."""


@dataclass(frozen=True)
class Desired:
    """The state that actions lead to.

    Attributes:
        route: who answers; None: as it is, for nobody who could answer is ready.
        replicas: that each candidate must have ready before it gets more traffic.
        champion: the version that the registry's alias must name; None: as it is.
    """

    route: Route | None
    replicas: Mapping[int, int]
    champion: int | None


def desired(
    spec: RolloutSpec, rollout: Rollout, status: RolloutStatus, ready: Mapping[int, int], following: int
) -> Desired:
    """What must be so.

    Args:
        spec: what is rolled out.
        rollout: how.
        status: of the rollout.
        ready: ready replicas by version; versions that have none may be left out.
        following: percent that a candidate is to answer next (`machine.next_weight`).
    """
    candidates = () if status.ended else tuple(one for one in spec.candidates if one not in status.dropped)
    return Desired(
        route=route_of(spec, rollout, status, ready),
        replicas={
            one: covering(status.stable, ready, max(following, status.weights.get(str(one), 0))) for one in candidates
        },
        champion=status.winner,
    )


def answering(status: RolloutStatus) -> int | None:
    """The version that answers callers once a rollout is over, and most of them before; None: none does."""
    return status.stable if status.winner is None else status.winner


def kept(spec: RolloutSpec, rollout: Rollout, status: RolloutStatus) -> dict[int, datetime | None]:
    """Until when each version stays for the sake of a rollout that is over; None: as long as that is the newest.

    What the route no longer names may have requests under way; what served before a promotion is kept warm.
    """
    if status.ended is None:
        return {}
    served = () if status.stable is None else (status.stable,)
    until: dict[int, datetime | None] = dict.fromkeys((*spec.candidates, *served), status.ended + DRAIN)
    if status.phase == "Promoted" and status.stable is not None:
        until[status.stable] = status.ended + max(rollout.keep_warm, DRAIN)
    if (serves := answering(status)) is not None:
        until[serves] = None
    return until


def covering(stable: int | None, ready: Mapping[int, int], weight: int) -> int:
    """Replicas that answer a share as the stable version's answer all of it now; at least one.

    >>> covering(3, {3: 4}, 30), covering(3, {3: 4}, 0), covering(None, {}, 100)
    (2, 1, 1)
    """
    whole = ready.get(stable, 1) if stable is not None else 1
    return max(1, -(-whole * weight // 100))


def route_of(spec: RolloutSpec, rollout: Rollout, status: RolloutStatus, ready: Mapping[int, int]) -> Route | None:
    """The status' weights, laid on versions that are ready; None if there is none to lay them on.

    The share of a version that is not ready goes to the stable one; if that is not ready itself, to the others.
    """
    up = {version for version, replicas in ready.items() if replicas > 0}
    weights = {int(version): weight for version, weight in status.weights.items() if int(version) in up and weight > 0}
    missing = 100 - sum(weights.values())
    if missing and status.stable in up and status.stable is not None:
        weights[status.stable] = weights.get(status.stable, 0) + missing
    elif not weights:
        return None
    mirror = status.mirror if status.mirror in up else None
    known = {*spec.candidates, *weights} | ({status.stable} if status.stable is not None else set())
    return Route(
        model=spec.model,
        weights=dict(sorted(in_proportion(weights).items())),
        mirror=mirror,
        mirror_percent=status.mirror_percent if mirror is not None else 0,
        warm=tuple(sorted(known & up)),
        sticky=bool(rollout.sticky),
    )


def in_proportion(weights: Mapping[int, int]) -> dict[int, int]:
    """Whole percents that sum to 100, as near to the proportions as can be (largest remainders).

    >>> in_proportion({1: 1, 2: 1, 3: 1})
    {1: 34, 2: 33, 3: 33}
    """
    total = sum(weights.values())
    whole = {version: 100 * weight // total for version, weight in weights.items()}
    behind = sorted(weights, key=lambda version: (-(100 * weights[version] % total), version))
    for version in behind[: 100 - sum(whole.values())]:
        whole[version] += 1
    return whole
