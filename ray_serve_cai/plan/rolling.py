"""Replacing a model's replicas step by step, where there is room for some more of them but not
for all. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ray_serve_cai.plan.room import NodeRoom, fits
from ray_serve_cai.spec import Resources


@dataclass(frozen=True)
class Step:
    """How many replicas of the new and of the old revision there are after it. The new ones come
    first: the old ones go when those answer."""

    new: int
    old: int


def steps(old: int, new: int, slots: Sequence[int]) -> tuple[Step, ...]:
    """From `old` replicas of one revision to `new` of the next, with never fewer than `old` of
    both together until the new ones are complete; empty when there is no such way.

    `slots` is that of `slots_after`.
    """
    found: list[Step] = []
    come, stay = 0, old
    while (come, stay) != (new, 0):
        more = min(new, slots[min(old - stay, len(slots) - 1)])
        if (found and more == come) or more == 0 < new:
            return ()
        come, stay = more, 0 if more == new else max(old - more, 0)
        found.append(Step(come, stay))
    return tuple(found)


def slots_after(
    rooms: Sequence[NodeRoom], held: Mapping[str, int], old: Resources | None, new: Resources
) -> tuple[int, ...]:
    """How many new replicas the nodes hold in all, by the number of old ones that have left.

    Serve decides which of them leave, so each figure is that of the worst choice. `held` maps node
    ids to old replicas there; without `old` nothing is known of the room that they leave.
    """
    least = [0]
    for room in rooms:
        leaving = held.get(room.id, 0) if old else 0
        here = [fits(new, room, gone, old) for gone in range(leaving + 1)]
        least = [
            min(
                least[gone - mine] + here[mine]
                for mine in range(len(here))
                if 0 <= gone - mine < len(least)
            )
            for gone in range(len(least) + leaving)
        ]
    return tuple(least)
