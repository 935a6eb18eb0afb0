"""Waiting for the requests that an engine still answers."""

from __future__ import annotations

import asyncio
import os

import psutil

from ray_serve_cai.engines.base import LLMEngine
from ray_serve_cai.serving.servicer import EngineServer

POLL_SECONDS = 0.2


async def in_flight(engine: LLMEngine, server: EngineServer | None, port: int) -> None:
    """Return when no request runs any more. `server`: the generic one, if the engine has that;
    `port`: where its own one listens otherwise."""
    while await _is_busy(engine, server, port):
        await asyncio.sleep(POLL_SECONDS)


async def _is_busy(engine: LLMEngine, server: EngineServer | None, port: int) -> bool:
    if server is not None:
        return server.live > 0
    load = await engine.load()
    if load is not None:
        return load.running + load.waiting > 0
    # It cannot tell, and to wait for nobody is better than to cut somebody off.
    return await asyncio.to_thread(connections, port) > 0


def connections(port: int) -> int:
    """Connections to a port of this machine that are not from this very process."""
    ends = [
        (it.laddr.port, it.raddr.port, it.pid)
        for it in psutil.net_connections("tcp")
        if it.status == "ESTABLISHED" and it.laddr and it.raddr
    ]
    own = {near for near, far, pid in ends if far == port and pid == os.getpid()}
    return sum(near == port and far not in own for near, far, _ in ends)
