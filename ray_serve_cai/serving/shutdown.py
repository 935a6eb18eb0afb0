"""Stages of a shutdown under one deadline.

Each stage may take what is left, less what the later ones keep for themselves, so that none can
eat the turn of another: an engine that hangs in its drain is still cleaned up.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")

# What these stages keep, as shares of the whole time.
RESERVES = {"drain": 0.1, "cleanup": 0.2, "shutdown hooks": 0.1}
# An engine that does not answer ends no request; its successor needs its place.
FAILED_SECONDS = 20.0
# Even when the time is up, each stage has its turn.
LEAST_SECONDS = 0.5
CANCEL_SECONDS = 5.0


@dataclass(frozen=True)
class Stage:
    """A stage that is over. `cut off`: its time was up; `failed`: `message` says why."""

    name: str
    outcome: Literal["done", "cut off", "failed"]
    seconds: float
    message: str = ""

    def __str__(self) -> str:
        why = f": {self.message}" if self.message else ""
        return f"{self.name} {self.outcome} after {self.seconds:.1f} s{why}"


class Shutdown:
    """Runs stages until `seconds` after `begun` (monotonic, by default now); `report` is told of
    each when it is over."""

    def __init__(
        self, seconds: float, report: Callable[[Stage], None], begun: float | None = None
    ) -> None:
        self._ends = (time.monotonic() if begun is None else begun) + seconds
        self._kept = {name: share * seconds for name, share in RESERVES.items()}
        self._report = report

    async def stage(self, name: str, work: Awaitable[object]) -> None:
        """Await the work; an error of it is reported, and shutting down goes on."""
        self._kept.pop(name, None)
        begun = time.monotonic()
        limit = max(LEAST_SECONDS, self._ends - begun - sum(self._kept.values()))
        outcome: Literal["done", "cut off", "failed"] = "done"
        message = ""
        try:
            async with asyncio.timeout(limit) as timer:
                await work
        except (Exception, asyncio.CancelledError) as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # A cancellation of another task, which the work has met, is its failure.
            outcome = "cut off" if timer.expired() else "failed"
            if outcome == "failed":
                log.exception("%s failed; shutting down all the same", name)
                message = f"{type(error).__name__}: {error}"
        stage = Stage(name, outcome, time.monotonic() - begun, message)
        log.info("shutting down: %s", stage)
        self._report(stage)


async def until_stopped(work: Coroutine[Any, Any, T], stop: asyncio.Event) -> T | None:
    """The work's result; None when `stop` is set first, which cancels the work."""
    task, stopped = asyncio.create_task(work), asyncio.create_task(stop.wait())
    await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if task.done():
        return task.result()
    task.cancel()
    await asyncio.wait({task}, timeout=CANCEL_SECONDS)
    return None
