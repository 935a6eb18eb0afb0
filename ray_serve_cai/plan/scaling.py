"""How many replicas a load needs: the decision of the autoscaler. Pure; times are monotonic."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from ray_serve_cai.spec import ReplicaRange


@dataclass(frozen=True)
class Load:
    """What a model has to do now.

    `ongoing`: requests that its replicas run or queue; `held`: those that wait for a first
    replica; `arrived`: whether any came since the last look, also one that is over already.
    """

    ongoing: int = 0
    held: int = 0
    arrived: bool = False


@dataclass(frozen=True)
class Course:
    """Where a model's autoscaling is.

    `wanted`: replicas now. `low_since`: since when fewer would do, None when they would not, and
    `high`: the most that were needed since. `busy_at`: when there was last a request.
    """

    wanted: int
    busy_at: float
    low_since: float | None = None
    high: int = 0


def step(limits: ReplicaRange, course: Course, load: Load, now: float) -> Course:
    """The course after a look at the load.

    More replicas are wanted at once. Fewer are wanted when fewer have been enough for the whole
    cool-down, and then as many as were needed at its busiest moment. The last one goes, where
    `min` is 0, after `idle_after` without a request.
    """
    requests = load.ongoing + load.held
    busy = requests > 0 or load.arrived
    busy_at = now if busy else course.busy_at
    if limits.min == 0 and not busy and now - busy_at >= limits.idle_after:
        return Course(0, busy_at)
    needed = _needed(limits, requests, present=course.wanted > 0 or load.arrived)
    if needed > course.wanted:
        return Course(needed, busy_at)
    if needed == course.wanted:
        return Course(course.wanted, busy_at)
    if course.low_since is None:
        return Course(course.wanted, busy_at, now, needed)
    high = max(course.high, needed)
    if now - course.low_since < limits.cool_down:
        return replace(course, busy_at=busy_at, high=high)
    return Course(max(high, needed), busy_at)


def first_count(limits: ReplicaRange, running: int) -> int:
    """With how many replicas a deploy starts: those that run now, at least one, since a deploy
    ends with an answer of the model's."""
    return min(max(running, limits.min, 1), limits.max)


def kept_count(limits: ReplicaRange, running: int) -> int:
    """What becomes of the count of a model that only gets another range."""
    return min(max(running, limits.min), limits.max)


def range_of(replicas: int | ReplicaRange) -> dict[str, Any] | None:
    """A range as data, None for a fixed number."""
    return None if isinstance(replicas, int) else replicas.model_dump()


def described(replicas: int | ReplicaRange, count: int) -> str:
    """For people; `count` is the number where it is fixed."""
    if isinstance(replicas, int):
        return f"{count} replicas"
    each = f"{replicas.target_ongoing_requests:g} requests each"
    return f"{replicas.min} to {replicas.max} replicas, {each}"


def notes_of(replicas: int | ReplicaRange) -> list[str]:
    """What a plan says of a range beside its actions."""
    if isinstance(replicas, int):
        return []
    shown = described(replicas, replicas.max)
    return [f"replicas follow the load, {shown}; room for {replicas.max} is not reserved"]


def _needed(limits: ReplicaRange, requests: int, *, present: bool) -> int:
    wanted = math.ceil(requests / limits.target_ongoing_requests)
    # Only idleness takes the last one.
    least = max(limits.min, 1 if present else 0)
    return min(max(wanted, least), limits.max)
