"""Hooks that block, hang or run loops of their own, and time-outs."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from made_up import coroutine, logging_runner, one_hook, recorder, run, runner

from ray_serve_cai.callbacks import CallbackCtx, Point
from ray_serve_cai.callbacks.thread import HookThread
from ray_serve_cai.errors import HookError

SHORT = 0.05
LONG = 30.0


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What hanging hooks wait for; opened at the end, so that their threads end."""
    event = threading.Event()
    yield event
    event.set()


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_blocking_hook_leaves_the_callers_loop_alone(
    gate: threading.Event, asynchronous: bool
) -> None:
    started = threading.Event()

    def block(self: object) -> None:
        started.set()
        assert gate.wait(LONG), "the caller's loop stood still"

    async def block_later(self: object) -> None:
        block(self)

    it = runner(one_hook("on_ready", block_later if asynchronous else block))

    async def main() -> int:
        running = asyncio.ensure_future(it.run(Point.READY))
        ticks = 0
        while not started.is_set() or ticks < 100:
            await asyncio.sleep(0)
            ticks += 1
        assert not running.done()
        gate.set()
        await running
        return ticks

    assert asyncio.run(main()) >= 100


def hanging(kind: str, gate: threading.Event) -> Callable[..., Any]:
    def sync(self: object) -> None:
        gate.wait()

    async def waits(self: object) -> None:
        await asyncio.Event().wait()

    async def blocks(self: object) -> None:
        gate.wait()

    return {"sync": sync, "async": waits, "async that blocks": blocks}[kind]


KINDS = ["sync", "async", "async that blocks"]


@pytest.mark.parametrize("kind", KINDS)
def test_time_out(kind: str, gate: threading.Event) -> None:
    it = runner(one_hook("on_ready", hanging(kind, gate), on_drain=coroutine), timeout=SHORT)
    with pytest.raises(HookError, match=r"on_ready of .*: TimeoutError: not done after 0.05 s"):
        run(it, Point.READY)
    assert it.ctx.custom_data == {}
    run(it, Point.DRAINING)
    assert it.ctx.custom_data == {"ran": True}


@pytest.mark.parametrize("kind", KINDS)
def test_time_out_with_log(kind: str, gate: threading.Event) -> None:
    calls: list[str] = []
    it = logging_runner(
        one_hook("on_ready", hanging(kind, gate)), recorder("", calls), timeout=SHORT
    )
    assert run(it, Point.READY) == [True]
    assert calls == ["on_ready"]


def test_time_out_of_a_constructor(gate: threading.Event) -> None:
    kind = one_hook("on_ready", lambda self: None, __init__=lambda self: gate.wait() and None)
    with pytest.raises(HookError, match=r"__init__ of .*: TimeoutError"):
        run(runner(kind, timeout=SHORT), Point.READY)


def test_an_async_hook_is_cancelled_when_its_time_is_up() -> None:
    cancelled = threading.Event()

    async def hook(self: object) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with pytest.raises(HookError):
        run(runner(one_hook("on_ready", hook), timeout=SHORT), Point.READY)
    assert cancelled.wait(LONG)


def test_no_time_out(gate: threading.Event) -> None:
    it = runner(one_hook("on_ready", hanging("sync", gate)), timeout=None)
    opener = threading.Timer(SHORT, gate.set)
    opener.start()
    assert run(it, Point.READY) == [True]
    assert gate.is_set()


@pytest.mark.parametrize("kind", KINDS)
def test_a_caller_that_is_cancelled(kind: str, gate: threading.Event) -> None:
    """What runs afterwards does not queue behind the hook that may never end."""
    started = threading.Event()
    hang = hanging(kind, gate)

    def hook(self: object) -> Any:
        started.set()
        return hang(self)

    it = runner(one_hook("on_ready", hook, on_shutdown=coroutine), timeout=LONG)

    async def main() -> None:
        running = asyncio.ensure_future(it.run(Point.READY))
        await asyncio.to_thread(started.wait)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await it.run(Point.SHUT_DOWN)

    asyncio.run(main())
    assert it.ctx.custom_data == {"ran": True}


@pytest.mark.parametrize(
    "run_it",
    [
        lambda work: asyncio.run(work),
        lambda work: asyncio.get_event_loop().run_until_complete(work),
    ],
    ids=["asyncio.run", "run_until_complete"],
)
def test_sync_hooks_may_run_a_loop(run_it: Callable[[Any], Any]) -> None:
    def hook(self: object, ctx: CallbackCtx) -> None:
        run_it(coroutine(self, ctx))

    it = runner(one_hook("on_ready", hook, on_drain=hook, on_shutdown=coroutine))
    for point in (Point.READY, Point.DRAINING, Point.SHUT_DOWN):
        it.ctx.custom_data.clear()
        run(it, point)
        assert it.ctx.custom_data == {"ran": True}


def test_a_task_left_behind_goes_on_between_hooks() -> None:
    gone_on, stop = threading.Event(), asyncio.Event()

    async def start(self: Any) -> None:
        self.task = asyncio.create_task(self.work())

    async def work(self: Any) -> None:
        gone_on.set()
        await stop.wait()

    async def end(self: Any) -> None:
        stop.set()
        await self.task

    it = runner(one_hook("on_ready", start, work=work, on_shutdown=end))
    run(it, Point.READY)
    assert gone_on.wait(LONG)
    run(it, Point.SHUT_DOWN)


def test_a_task_left_behind_that_exits_stops_nobody() -> None:
    async def exit() -> None:
        raise SystemExit(3)

    async def start(self: Any) -> None:
        self.task = asyncio.create_task(exit())

    it = runner(one_hook("on_ready", start, on_drain=coroutine), timeout=LONG)
    run(it, Point.READY, Point.DRAINING)
    assert it.ctx.custom_data == {"ran": True}


def test_the_thread_ends_with_its_runner() -> None:
    before = set(threading.enumerate())
    it = runner(one_hook("on_ready", lambda self: None))
    run(it, Point.READY)
    (thread,) = set(threading.enumerate()) - before
    assert thread.daemon
    del it
    gc.collect()
    thread.join(LONG)
    assert not thread.is_alive()


def test_a_stuck_thread_ends_when_its_hook_does(gate: threading.Event) -> None:
    threads: list[threading.Thread] = []

    def hook() -> None:
        threads.append(threading.current_thread())
        gate.wait()

    with pytest.raises(TimeoutError):
        asyncio.run(HookThread().call(hook, SHORT))
    gate.set()
    gc.collect()
    threads[0].join(LONG)
    assert not threads[0].is_alive()
