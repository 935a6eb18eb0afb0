"""Where hooks run: a thread with an event loop of its own."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
import weakref
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any

log = logging.getLogger(__name__)

_Call = tuple[Callable[[], Any], Future[Any]]


class HookThread:
    """Runs hooks, sync or async, away from the caller's event loop.

    All hooks share one thread and its loop, so what one opens there another can use. The loop
    rests while a sync hook runs, which may therefore run a loop itself (`asyncio.run`). A daemon
    thread: a hook that never ends must not keep the process from ending. It ends with this
    object.
    """

    def __init__(self) -> None:
        self.stuck = False
        self._worker = worker = _Worker()
        threading.Thread(target=worker.serve, name="hooks", daemon=True).start()
        weakref.finalize(self, worker.put, None).atexit = False

    async def call(self, function: Callable[[], Any], timeout: float | None) -> Any:
        """The function's result, awaited where it can be.

        Raises what it raises, and `TimeoutError` after `timeout` seconds. Then, or when the
        caller is cancelled, the function may still run: the thread is `stuck` and not to be used
        again.
        """
        running = asyncio.ensure_future(self._run(function))
        self.stuck = True
        try:
            done, _ = await asyncio.wait({running}, timeout=timeout)
        finally:
            running.cancel()
        if not done:
            raise TimeoutError(f"not done after {timeout:g} s")
        self.stuck = False
        if running.cancelled():
            raise RuntimeError("the hook cancelled itself")
        return running.result()

    async def _run(self, function: Callable[[], Any]) -> Any:
        called: Future[Any] = Future()
        self._worker.put((function, called))
        result = await asyncio.wrap_future(called)
        # Only the result tells: a decorated or partial coroutine function looks like any other.
        if not inspect.isawaitable(result):
            return result
        awaited = asyncio.run_coroutine_threadsafe(_awaited(result), self._worker.loop)
        return await asyncio.wrap_future(awaited)


class _Worker:
    """The thread's side. It knows nothing of the `HookThread`, which can thus be collected."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._calls: list[_Call | None] = []

    def put(self, call: _Call | None) -> None:
        """From another thread: make the call; None ends the thread."""
        self.loop.call_soon_threadsafe(self._interrupt, call)

    def serve(self) -> None:
        while True:
            # Every time, since an `asyncio.run` of a hook's takes it away.
            asyncio.set_event_loop(self.loop)
            try:
                self.loop.run_forever()
            except (SystemExit, KeyboardInterrupt):
                log.exception("a task that a hook left behind raised")
            while self._calls:
                if not self._take():
                    return

    def _take(self) -> bool:
        call = self._calls.pop(0)
        if call is None:
            self._close()
            return False
        _make(*call)
        return True

    def _interrupt(self, call: _Call | None) -> None:
        self._calls.append(call)
        self.loop.stop()

    def _close(self) -> None:
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self.loop.close()


def _make(function: Callable[[], Any], called: Future[Any]) -> None:
    if not called.set_running_or_notify_cancel():
        return
    try:
        result = function()
    except BaseException as error:  # noqa: BLE001 - the caller gets it
        called.set_exception(_carried(error))
    else:
        called.set_result(result)


async def _awaited(result: Awaitable[Any]) -> Any:
    try:
        return await result
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        carried = _carried(error)
        if carried is error:
            raise
        raise carried from error


def _carried(error: BaseException) -> BaseException:
    """The error as a future can carry it: others would end a loop, or leave the caller waiting."""
    if isinstance(error, (Exception, asyncio.CancelledError)) and not isinstance(
        error, StopIteration
    ):
        return error
    carried = RuntimeError(f"the hook raised {type(error).__name__}({error})")
    carried.__cause__ = error
    return carried
