"""Where hooks run: a thread with an event loop of its own."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable
from typing import Any


class HookThread:
    """Runs hooks, sync or async, away from the caller's event loop.

    All hooks of a process share one loop, so what one opens there another can use. A daemon
    thread: a hook that never ends must not keep the process from ending.
    """

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="hooks", daemon=True).start()

    async def call(self, function: Callable[[], Any], timeout: float | None) -> Any:
        """The function's result, awaited where it can be.

        Raises what it raises, and `TimeoutError` after `timeout` seconds; the function may then
        still run, and this thread is not to be used again.
        """
        running = asyncio.run_coroutine_threadsafe(_result(function), self._loop)
        waiting = asyncio.ensure_future(asyncio.wrap_future(running))
        done, _ = await asyncio.wait({waiting}, timeout=timeout)
        if not done:
            running.cancel()
            raise TimeoutError(f"not done after {timeout:g} s")
        if waiting.cancelled():
            raise RuntimeError("the hook cancelled itself")
        return waiting.result()


async def _result(function: Callable[[], Any]) -> Any:
    try:
        result = function()
        # Only the result tells: a decorated or partial coroutine function looks like any other.
        return await result if inspect.isawaitable(result) else result
    except (SystemExit, KeyboardInterrupt) as error:
        # These two would end the loop, and the caller would wait for ever.
        raise RuntimeError(f"the hook raised {type(error).__name__}({error})") from error
