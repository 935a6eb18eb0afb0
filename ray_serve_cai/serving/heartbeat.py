"""Whether an engine still answers: what it says of itself, and that it makes tokens.

An engine can be alive and answer nothing. So when nothing has shown for a while that it makes
tokens, it is asked for one.
"""

from __future__ import annotations

import asyncio
import logging
import time

from ray_serve_cai.engines.base import EngineLoad, LLMEngine, RequestError
from ray_serve_cai.serving.job import Pulse
from ray_serve_cai.serving.servicer import EngineServer

log = logging.getLogger(__name__)

HEALTH_SECONDS = 10.0
# A probe waits in the engine's queue like any request. Of an engine that cannot show its progress,
# a long queue is no sign that it hangs, until it has not moved for this many time-outs.
QUEUE_FACTOR = 5
# One failure may be a passing trouble of the connection.
FAILURES = 2
SERVER_ERROR = 500


class Heartbeat:
    """Of one engine that has made its first token. `server`: the generic one, if it has that.

    `every`: seconds without a sign of life after which it is asked for a token; `timeout`:
    seconds that it may then take, while nothing else shows that it lives.
    """

    def __init__(
        self, engine: LLMEngine, server: EngineServer | None, every: float, timeout: float
    ) -> None:
        self._engine, self._server = engine, server
        self._every, self._timeout = every, timeout
        self._alive = self._asked = time.monotonic()
        self._probe: asyncio.Task[None] | None = None
        self._failures = 0
        self._message = ""
        self._seen: tuple[float | None, int] = (None, 0)

    async def pulse(self) -> Pulse:
        asked = time.monotonic()
        try:
            async with asyncio.timeout(HEALTH_SECONDS):
                await self._engine.health()
                load = await self._load()
        except Exception as error:  # noqa: BLE001 - any failure of the engine is "not healthy"
            return Pulse(healthy=False, message=_reason(error, "answer", asked))
        self._look(load)
        if self._message:
            return Pulse(healthy=False, message=self._message)
        return Pulse(True, load.running, load.waiting) if load else Pulse(True)

    def stop(self) -> None:
        """Ask for no more tokens."""
        if self._probe is not None:
            self._probe.cancel()

    async def _load(self) -> EngineLoad | None:
        """The engine's load without the probe, which must not keep an idle model awake."""
        probing = self._probe is not None and not self._probe.done()
        load = await self._engine.load()
        if load is None:
            return EngineLoad(self._server.live, 0) if self._server is not None else None
        if not probing:
            return load
        waits = bool(load.waiting)
        running = load.running if waits else max(0, load.running - 1)
        return EngineLoad(running, load.waiting - waits, load.progress)

    def _look(self, load: EngineLoad | None) -> None:
        now = time.monotonic()
        if self._shows_life(load):
            self._alive = now
        if self._probe is None:
            if now - self._alive >= self._every:
                self._asked = now
                self._probe = asyncio.create_task(self._engine.probe())
        elif self._probe.done():
            self._judge(self._probe, now)
            self._probe = None
        elif now - max(self._asked, self._alive) > self._patience(load):
            self._message = f"it has made no token for {now - self._alive:.0f} s"

    def _shows_life(self, load: EngineLoad | None) -> bool:
        """Whether tokens were made, or requests ended, since the last look."""
        if load is None:
            return False
        progress = self._server.progress if self._server is not None else load.progress
        before, requests = self._seen
        self._seen = (progress, load.running + load.waiting)
        return (before is not None and progress != before) or self._seen[1] < requests

    def _patience(self, load: EngineLoad | None) -> float:
        shows_progress = self._seen[0] is not None
        queue = load is not None and load.waiting > 0 and not shows_progress
        return self._timeout * (QUEUE_FACTOR if queue else 1)

    def _judge(self, probe: asyncio.Task[None], now: float) -> None:
        # An engine may have cancelled what its probe waits for.
        error = asyncio.CancelledError() if probe.cancelled() else probe.exception()
        if error is None or (isinstance(error, RequestError) and error.status < SERVER_ERROR):
            self._alive, self._failures = now, 0
            return
        self._failures += 1
        log.warning("the engine was asked for a token and failed: %r", error)
        if self._failures >= FAILURES:
            self._message = f"asked for a token, it fails: {_reason(error, 'token', self._asked)}"


def _reason(error: BaseException, what: str, asked: float) -> str:
    """A time-out says nothing of itself."""
    said = str(error) or f"no {what} within {time.monotonic() - asked:.0f} s"
    return f"{type(error).__name__}: {said}"
