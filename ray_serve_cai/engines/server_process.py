"""A server program as a child process of the engine host."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Mapping, Sequence
from typing import Protocol

from ray_serve_cai.errors import EngineError

log = logging.getLogger(__name__)

POLL_SECONDS = 0.2
STOP_SECONDS = 30.0


class Front(Protocol):
    """What tells that a server can be used."""

    async def answers(self) -> bool: ...


class ServerProcess:
    """A program in the engine host's process group, with which it dies, and with its output."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, command: Sequence[str], env: Mapping[str, str]) -> None:
        """Raises `EngineError` (CAI-ENGINE-002) when there is no such program."""
        log.info("starting %s: %s", self._name, command[0])
        try:
            self._process = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.DEVNULL, env={**os.environ, **env}
            )
        except OSError as error:
            raise EngineError(
                "CAI-ENGINE-002", f"{self._name}: {command[0]}: {error.strerror}"
            ) from error

    async def ready(self, front: Front) -> None:
        """Return when the server answers; raises `EngineError` when the program has ended."""
        while not await front.answers():
            self.check()
            await asyncio.sleep(POLL_SECONDS)

    def check(self) -> None:
        """Raise `EngineError` (CAI-ENGINE-005) unless the program runs."""
        status = self._process.returncode if self._process is not None else None
        if self._process is None or status is not None:
            raise EngineError("CAI-ENGINE-005", f"{self._name} ended with status {status}")

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL after `STOP_SECONDS`; does nothing when it does not run."""
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), STOP_SECONDS)
            except TimeoutError:
                process.kill()
                await process.wait()
