"""When an engine is taken for one that answers nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from ray_serve_cai.engines.base import EngineLoad, Overloaded
from ray_serve_cai.engines.echo import EchoEngine
from ray_serve_cai.serving import heartbeat as module
from ray_serve_cai.serving.heartbeat import Heartbeat
from ray_serve_cai.serving.job import Pulse


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


class Scripted(EchoEngine):
    """Its load is what the test says; a probe waits for `answer`."""

    def __init__(self) -> None:
        super().__init__({}, Path("/models/echo"))
        self.current = EngineLoad(0, 0, progress=0)
        self.answer: asyncio.Future[None] | None = None
        self.probes = 0

    async def load(self) -> EngineLoad:
        return self.current

    async def probe(self) -> None:
        self.probes += 1
        self.answer = asyncio.get_running_loop().create_future()
        await self.answer


async def settle() -> None:
    """Let a probe begin, or end."""
    for _ in range(5):
        await asyncio.sleep(0)


def drive(clock: Clock, what: Any) -> None:
    async def run() -> None:
        engine = Scripted()
        heart = Heartbeat(engine, None, every=15, timeout=60)

        async def after(seconds: float) -> Pulse:
            clock.now += seconds
            await settle()
            pulse = await heart.pulse()
            await settle()
            return pulse

        await what(engine, after)
        heart.stop()

    asyncio.run(run())


def test_idle_engine_is_asked_now_and_then(clock: Clock) -> None:
    async def what(engine: Scripted, after: Any) -> None:
        await after(14)
        assert engine.probes == 0
        await after(1)
        assert engine.answer is not None
        engine.answer.set_result(None)
        await after(1)
        await after(14)
        assert engine.probes == 1
        await after(1)
        assert engine.probes == 2

    drive(clock, what)


def test_probe_does_not_count_as_load(clock: Clock) -> None:
    """An idle model would never be idle."""

    async def what(engine: Scripted, after: Any) -> None:
        await after(15)
        engine.current = EngineLoad(1, 0)
        assert await after(1) == Pulse(True, 0, 0)
        engine.current = EngineLoad(4, 2)
        assert await after(1) == Pulse(True, 4, 1)

    drive(clock, what)


def test_engine_that_does_not_answer(clock: Clock) -> None:
    async def what(engine: Scripted, after: Any) -> None:
        await after(15)
        assert (await after(60)).healthy
        pulse = await after(1)
        assert not pulse.healthy
        assert pulse.message == "it has made no token for 76 s"

    drive(clock, what)


def test_engine_that_makes_tokens_is_not_asked(clock: Clock) -> None:
    async def what(engine: Scripted, after: Any) -> None:
        for made in range(1, 30):
            engine.current = EngineLoad(3, 50, progress=made)
            assert (await after(10)).healthy
        assert engine.probes == 0

    drive(clock, what)


def test_probe_behind_a_queue_that_moves(clock: Clock) -> None:
    async def what(engine: Scripted, after: Any) -> None:
        engine.current = EngineLoad(3, 100)
        await after(15)
        for left in range(99, 60, -1):
            engine.current = EngineLoad(3, left)
            assert (await after(59)).healthy

    drive(clock, what)


def test_queue_that_does_not_move(clock: Clock) -> None:
    """Without a count of tokens, that may be long answers, for a while."""

    async def what(engine: Scripted, after: Any) -> None:
        engine.current = EngineLoad(3, 100)
        await after(15)
        engine.current = EngineLoad(3, 101)  # with the probe
        assert (await after(250)).healthy
        assert not (await after(60)).healthy

    drive(clock, what)


def test_probe_that_fails(clock: Clock) -> None:
    async def what(engine: Scripted, after: Any) -> None:
        await after(15)
        assert engine.answer is not None
        engine.answer.set_exception(ConnectionError("broken pipe"))
        assert (await after(1)).healthy
        await after(1)
        engine.answer.set_exception(ConnectionError("broken pipe"))
        pulse = await after(1)
        assert not pulse.healthy
        assert "ConnectionError: broken pipe" in pulse.message

    drive(clock, what)


def test_probe_that_is_late(clock: Clock) -> None:
    """The time-out of an engine's own client has no text."""

    async def what(engine: Scripted, after: Any) -> None:
        for _ in range(2):
            await after(15)
            assert engine.answer is not None
            engine.answer.set_exception(TimeoutError())
            pulse = await after(30)
        assert pulse.message == "asked for a token, it fails: TimeoutError: no token within 30 s"

    drive(clock, what)


def test_health_that_is_late(clock: Clock) -> None:
    async def what(engine: Scripted, after: Any) -> None:
        async def health() -> None:
            clock.now += 10
            raise TimeoutError

        engine.health = health  # type: ignore[method-assign]
        assert (await after(1)).message == "TimeoutError: no answer within 10 s"

    drive(clock, what)


def test_probe_that_is_cancelled(clock: Clock) -> None:
    """By the engine, whose connection has ended: that is a failure, and not the host's end."""

    async def what(engine: Scripted, after: Any) -> None:
        await after(15)
        assert engine.answer is not None
        engine.answer.cancel()
        assert (await after(1)).healthy
        await after(1)
        engine.answer.cancel()
        assert "CancelledError" in (await after(1)).message

    drive(clock, what)


def test_refusal_is_a_sign_of_life(clock: Clock) -> None:
    async def what(engine: Scripted, after: Any) -> None:
        for _ in range(3):
            await after(15)
            assert engine.answer is not None
            engine.answer.set_exception(Overloaded("full"))
            assert (await after(1)).healthy

    drive(clock, what)
