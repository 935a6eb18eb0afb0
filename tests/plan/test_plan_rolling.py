"""The steps of a rolling replacement: always enough that answer, never more than there is room
for, and an end."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_serve_cai.plan.rolling import Step, slots_after, steps
from ray_serve_cai.plan.room import NodeRoom
from ray_serve_cai.spec import Resources

COUNTS = range(7)


def pairs(found: tuple[Step, ...]) -> list[tuple[int, int]]:
    return [(step.new, step.old) for step in found]


def equal(old: int, free: int) -> tuple[int, ...]:
    """The room where a new replica needs as much as an old one."""
    return tuple(free + gone for gone in range(old + 1))


@pytest.mark.parametrize(
    ("old", "new", "free", "way"),
    [
        (2, 2, 1, [(1, 1), (2, 0)]),
        (2, 2, 2, [(2, 0)]),
        (2, 2, 0, []),
        (4, 4, 3, [(3, 1), (4, 0)]),
        (4, 2, 1, [(1, 3), (2, 0)]),
        (3, 1, 1, [(1, 0)]),
        (1, 3, 2, [(2, 0), (3, 0)]),
        # The nodes hold two: that there is room for one more is not enough.
        (1, 3, 1, []),
        (3, 0, 0, [(0, 0)]),
    ],
)
def test_ways(old: int, new: int, free: int, way: list[tuple[int, int]]) -> None:
    assert pairs(steps(old, new, equal(old, free))) == way


def test_every_small_case() -> None:
    for old, new, free in itertools.product(COUNTS[1:], COUNTS, COUNTS):
        way = steps(old, new, equal(old, free))
        check(old, new, equal(old, free), way)
        # One more and the whole of the new ones: then there is a way.
        assert bool(way) == (new == 0 or (free > 0 and old + free >= new))


@given(
    st.integers(1, 40), st.integers(0, 40), st.lists(st.integers(0, 5), min_size=1, max_size=41)
)
def test_any_room(old: int, new: int, more: list[int]) -> None:
    slots = tuple(itertools.accumulate(more))
    check(old, new, slots, steps(old, new, slots))


def check(old: int, new: int, slots: tuple[int, ...], way: tuple[Step, ...]) -> None:
    come, stay = 0, old
    for step in way:
        assert step.new > come or (step.new == new and stay > 0)
        assert step.new <= slots[min(old - stay, len(slots) - 1)]
        assert 0 <= step.old <= stay
        assert step.new + step.old >= old or step.new == new
        come, stay = step.new, step.old
    assert not way or (come, stay) == (new, 0)


def node(name: str, free: float) -> NodeRoom:
    return NodeRoom(name, "g", 8, 0, 2**30, free, 0, 2**30)


def need(cpu: float) -> Resources:
    return Resources(cpu=cpu)


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 4)), min_size=1, max_size=3),
    st.integers(1, 4),
    st.integers(1, 4),
)
def test_slots_are_those_of_the_worst_choice(
    nodes: list[tuple[int, int]], old: int, new: int
) -> None:
    """Against trying every choice of which old replicas leave."""
    rooms = [node(str(at), free) for at, (free, _) in enumerate(nodes)]
    held = {str(at): count for at, (_, count) in enumerate(nodes)}
    worst: dict[int, int] = {}
    for gone in itertools.product(*(range(count + 1) for _, count in nodes)):
        fit = sum((free + g * old) // new for (free, _), g in zip(nodes, gone, strict=True))
        worst[sum(gone)] = min(fit, worst.get(sum(gone), fit))
    found = slots_after(rooms, held, need(old), need(new))
    assert found == tuple(worst[gone] for gone in range(len(worst)))


@pytest.mark.parametrize(
    ("held", "old", "slots"),
    [({"a": 2}, need(1), (1, 2, 3)), ({"a": 2}, None, (1,)), ({"other": 2}, need(1), (1,))],
)
def test_room_that_is_known(held: Any, old: Any, slots: tuple[int, ...]) -> None:
    assert slots_after([node("a", 1), node("b", 0)], held, old, need(1)) == slots


def test_fractions_add_up() -> None:
    """0.1 + 2 * 0.1 is not 0.3 in binary."""
    assert slots_after([node("a", 0.1)], {"a": 2}, need(0.1), need(0.1)) == (1, 2, 3)
