"""Rolling with replicas that only count: what answers never gets less than it was, and nothing is
asked for that has no room."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from ray_serve_cai.cluster.state import ClusterState
from ray_serve_cai.errors import ModelError
from ray_serve_cai.plan.rolling import steps
from ray_serve_cai.serving import rolling
from ray_serve_cai.serving.revisions import RevisionRecord, Revisions
from ray_serve_cai.serving.rolling import roll, roll_back

SMALL = range(1, 5)


@dataclass
class Room:
    """Stands in for `Running`: replicas get a place at once as long as there is one, and keep it;
    of the new revision `works` answer. `seen` has how many answered in all, after each change."""

    size: int
    works: int = 99
    asked: dict[int, int] = field(default_factory=lambda: {1: 0, 2: 0})
    placed: dict[int, int] = field(default_factory=lambda: {1: 0, 2: 0})
    seen: list[int] = field(default_factory=list)

    def run(self, record: RevisionRecord, replicas: int, *_: Any) -> None:
        self.asked[record.revision] = replicas
        for number, count in self.asked.items():
            self.placed[number] = min(self.placed[number], count)
        for number, count in self.asked.items():
            free = self.size - sum(self.placed.values())
            self.placed[number] += min(count - self.placed[number], free)
        self.seen.append(self.answer(1) + self.answer(2))

    def admit(self, record: RevisionRecord) -> None:
        pass

    def serves(self, record: RevisionRecord) -> bool:
        return self.asked[record.revision] > 0

    def end(self, record: RevisionRecord) -> None:
        self.run(record, 0)

    def wait(self, record: RevisionRecord, replicas: int, *_: Any) -> None:
        assert self.placed == self.asked, "asked for more than there is room for"
        if self.ready(record) < replicas:
            raise ModelError("CAI-MODEL-002", "no luck")

    def ready(self, record: RevisionRecord) -> int:
        return self.answer(record.revision)

    def rows(self, record: RevisionRecord) -> range:
        return range(self.placed[record.revision])

    def answer(self, number: int) -> int:
        return min(self.placed[number], self.works) if number == 2 else self.placed[number]


def revision(number: int, replicas: int, way: list[list[int]] | None = None) -> RevisionRecord:
    words: tuple[Any, ...] = (
        "m",
        number,
        "starting",
        {},
        "",
        "",
        "",
        "echo",
        "grpc",
        replicas,
        0.0,
    )
    return RevisionRecord(*words, steps=way or [])


def quiet(*_: object) -> None:
    pass


@pytest.fixture
def revisions() -> Revisions:
    state = ClusterState("demo")
    state.create()
    return Revisions(state)


def cases() -> list[tuple[int, int, int, list[list[int]]]]:
    """Old count, new count, size of the room, and the way."""
    found = []
    for old, new, free in itertools.product(SMALL, SMALL, SMALL):
        way = steps(old, new, [free + gone for gone in range(old + 1)])
        if way:
            found.append((old, new, old + free, [[step.new, step.old] for step in way]))
    return found


def test_every_roll_ends_with_the_new_ones(revisions: Revisions) -> None:
    for old, new, size, way in cases():
        room, first, second = Room(size), revision(1, old), revision(2, new, way)
        room.run(first, old)
        roll(room, revisions, second, first, quiet, 0.0)  # type: ignore[arg-type]
        assert room.ready(second) == new
        assert min(room.seen) >= old


def test_every_failure_brings_the_old_ones_back(
    revisions: Revisions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rolling, "wait_until", waits)
    for old, new, size, way in cases():
        for works in range(new):
            room = Room(size, works)
            first, second = revision(1, old), revision(2, new, way)
            room.run(first, old)
            with pytest.raises(ModelError):
                roll(room, revisions, second, first, quiet, 0.0)  # type: ignore[arg-type]
            roll_back(room, second, first, quiet)  # type: ignore[arg-type]
            assert room.asked == {1: old, 2: 0}
            assert min(room.seen) >= old, (old, new, size, works)


def waits(condition: Callable[[], bool], *_: float) -> bool:
    return any(condition() for _ in range(20))


def test_goes_on_where_it_broke_off(revisions: Revisions) -> None:
    """The process that rolled was killed with one of two steps done."""
    first, second = revision(1, 2), revision(2, 2, [[1, 1], [2, 0]])
    second.done = 1
    room = Room(3, asked={1: 1, 2: 1}, placed={1: 1, 2: 1})
    roll(room, revisions, second, first, quiet, 0.0)  # type: ignore[arg-type]
    assert room.asked == {1: 1, 2: 2}


def test_count_that_changed_while_it_started(revisions: Revisions) -> None:
    room, new = Room(5), revision(2, 3, [[1, 0]])
    roll(room, revisions, new, None, quiet, 0.0)  # type: ignore[arg-type]
    assert room.ready(new) == 3


def test_old_one_that_was_being_stopped_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while it drains: its replicas still report, and the gateway has dropped them."""
    room, first, second = Room(2), revision(1, 2), revision(2, 2, [[2, 0]])
    room.run(first, 2)
    room.asked[1] = 0
    admitted: list[RevisionRecord] = []
    monkeypatch.setattr(room, "admit", admitted.append)
    roll_back(room, second, first, quiet)  # type: ignore[arg-type]
    assert (room.asked[1], admitted) == (2, [first])
