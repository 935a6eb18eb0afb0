"""In which order the autoscaler acts, with SMG and Serve played. No Ray is started."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ray_serve_cai.serving import autoscaling as module
from ray_serve_cai.serving.autoscaling import Autoscaler
from ray_serve_cai.serving.job import ReplicaRow
from ray_serve_cai.serving.rules import Rule, read_rules
from ray_serve_cai.serving.smg import PARKED, Worker, WorkerLoad, parse_loads
from ray_serve_cai.serving.standin import StandIn

REPLICA = "grpc://127.0.0.1:1"
RANGE = {"min": 0, "max": 3, "target_ongoing_requests": 2.0, "idle_after": 10.0, "cool_down": 5.0}


class PlayedSmg:
    """Takes workers up at the next look, as SMG does within a second."""

    def __init__(self) -> None:
        self.known: dict[str, Worker] = {}
        self.load: dict[str, WorkerLoad] = {}
        self.silent = False
        self.removed: list[str] = []

    async def workers(self) -> dict[str, Worker] | None:
        return None if self.silent else dict(self.known)

    async def loads(self) -> dict[str, WorkerLoad] | None:
        return self.load

    async def add_stand_in(self, url: str, name: str) -> None:
        self.known[url] = worker(url, name)

    async def park(self, it: Worker) -> None:
        self.known[it.id] = worker(it.id, PARKED)

    async def remove(self, it: Worker) -> None:
        self.removed.append(it.id)
        self.known[it.id] = replace(it, routed=False)


def worker(url: str, name: str = "chat") -> Worker:
    """Its id is its URL, to tell them apart by."""
    return Worker(url, routed=True, names=frozenset({name}))


class World:
    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.folder, self.smg, self.rows = folder, PlayedSmg(), [row()]
        self.smg.known[REPLICA] = worker(REPLICA)
        self.told: list[int] = []
        self.made = self.life()

    def life(self) -> Autoscaler:
        """The autoscaler of one life of the actor."""
        self.stand_in = StandIn("http://127.0.0.1:9", most_held=10)
        made = Autoscaler(self.smg, self.stand_in, lambda: self.rows, self.folder)  # type: ignore[arg-type]

        async def told(_: Any, count: int) -> bool:
            self.told.append(count)
            return True

        made._told = told  # type: ignore[method-assign]
        return made

    def follow(self, count: int = 1, range_: dict[str, Any] | None = RANGE) -> None:
        self.made.follow(Rule("chat", 1, "app", count, range_))

    def look(self, seconds: float = 1.0) -> None:
        self.now += seconds
        run(self.made._look())

    def replica_goes(self) -> None:
        self.rows.clear()
        del self.smg.known[REPLICA]

    def replica_comes(self) -> None:
        self.rows.append(row())
        self.smg.known[REPLICA] = worker(REPLICA)

    @property
    def place(self) -> Any:
        return self.made._models["chat"].place

    @property
    def stands(self) -> bool:
        return any(w.serves("chat") for url, w in self.smg.known.items() if url != REPLICA)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def row(running: int = 0) -> ReplicaRow:
    return ReplicaRow("1", "chat", 1, "ready", "node", REPLICA, running=running)


def test_goes_to_zero_only_behind_the_stand_in(world: World) -> None:
    world.follow()
    world.look(1)
    assert not world.stands
    world.look(10)
    assert (world.stands, world.told) == (True, [])
    world.look()
    assert world.told == [0]
    assert world.made.counts() == {"chat": 0}
    assert world.smg.known[REPLICA].names == {PARKED}, "it would still get every second request"


def test_request_at_the_last_moment_keeps_the_replica(world: World) -> None:
    world.follow()
    world.look(1)
    world.look(10)
    world.place.asked += 1
    world.look()
    assert (world.told, world.made.counts()) == ([], {"chat": 1})
    assert not world.stands


def test_wakes_and_opens_when_the_replica_is_alone(world: World) -> None:
    idle(world)
    world.place.asked += 1
    world.place.held += 1
    world.look()
    assert world.told == [0, 1]
    assert world.stands
    assert not world.place.open.is_set()
    world.look(4)
    world.replica_comes()
    world.look()
    assert not world.place.open.is_set(), "SMG may still send requests back here"
    assert not world.stands
    world.look()
    assert world.place.open.is_set()
    assert world.place.seconds == 6
    # Not removed before it was parked.
    assert len(world.smg.removed) == 1
    world.look()
    assert len(world.smg.removed) == 1


def test_stand_in_stays_until_a_scaled_model_has_a_replica(world: World) -> None:
    """A fixed number where there was a range: nothing else would answer for the whole start."""
    idle(world)
    world.follow(1, None)
    world.look()
    assert world.stands
    world.replica_comes()
    world.look()
    world.look()
    assert not world.stands


def test_next_life_wakes_nothing(world: World) -> None:
    idle(world)
    world.told.clear()
    world.made = world.life()
    world.smg.known.clear()
    world.made.restore()
    for _ in range(30):
        world.look()
    assert world.made.counts() == {"chat": 0}
    assert set(world.told) == {0}
    assert world.stands


def test_replicas_that_died_leave_the_stand_in(world: World) -> None:
    world.follow()
    world.look()
    world.replica_goes()
    world.look()
    assert world.stands


def test_fixed_zero_and_deletion(world: World) -> None:
    world.replica_goes()
    world.follow(0, None)
    world.look()
    assert (world.stands, world.told) == (True, [])
    world.made.forget("chat")
    world.look()
    assert not world.stands
    assert read_rules(world.folder) == {}


def test_load_of_engines_and_of_smg(world: World) -> None:
    """Whichever sees more: the one comes late, the other does not know the engine's own queue."""
    world.follow()
    world.rows[:] = [row(running=3)]
    world.look()
    assert world.made.counts() == {"chat": 2}
    world.smg.load[REPLICA] = WorkerLoad(active=5, started=9)
    world.look()
    assert world.made.counts() == {"chat": 3}
    assert world.told == [2, 3]


def test_short_requests_between_two_looks_count(world: World) -> None:
    world.follow()
    for number in range(20):
        world.smg.load[REPLICA] = WorkerLoad(active=0, started=number)
        world.look()
    assert world.made.counts() == {"chat": 1}


def test_nothing_is_decided_while_smg_is_silent(world: World) -> None:
    world.follow()
    world.smg.silent = True
    world.look(1000)
    assert (world.told, world.made.counts()) == ([], {"chat": 1})


def test_leaves_a_model_alone_while_it_is_replaced(world: World) -> None:
    """Neither more of the old revision nor fewer, also in the next life of the actor."""
    world.follow()
    assert world.made.pause("chat") == 1
    world.rows[:] = [row(running=9)]
    world.look()
    world.made = world.life()
    world.made.restore()
    world.look()
    world.rows[:] = [row()]
    world.look(100)
    assert (world.told, world.made.counts()) == ([], {"chat": 1})
    world.rows[:] = [row(running=9)]
    world.follow()
    world.look()
    assert world.told == [3]
    assert world.made.pause("nobody") is None


def test_idle_model_that_is_replaced_is_answered_by_the_new_revision(world: World) -> None:
    idle(world)
    world.made.pause("chat")
    world.place.asked += 1
    world.place.held += 1
    world.look()
    assert (world.told, world.stands) == ([0], True)
    world.replica_comes()
    world.look()
    world.look()
    assert not world.stands
    assert world.place.open.is_set()
    assert world.told == [0]


def test_numbers_of_smg() -> None:
    """A model that is called by more than one name has a line for each."""
    text = """# TYPE smg_worker_requests_total counter
smg_worker_requests_total{worker="grpc://a:1",model="m"} 3
smg_worker_requests_total{worker="grpc://a:1",model="m-adapter"} 4
smg_worker_requests_active{worker="grpc://a:1"} 2
smg_worker_health{worker="grpc://a:1"} 1
"""
    assert parse_loads(text) == {"grpc://a:1": WorkerLoad(active=2, started=7)}


def idle(world: World) -> None:
    world.follow()
    world.look(1)
    world.look(10)
    world.look()
    world.replica_goes()
    world.look()
    assert world.told == [0]
    assert world.stands
