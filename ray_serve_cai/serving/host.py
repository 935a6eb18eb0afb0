"""The engine host: the process that prepares and runs one replica's engine.

It is a process of its own so that no token crosses Ray's worker process. It reads its job as one
JSON line on stdin, writes events as JSON lines to the descriptor named on its command line, and
takes `{"command": "stop"}` on stdin. Stdin is also its lifeline: when the replica dies by any
signal, the pipe closes and the host ends its whole process group, engine processes included.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import threading
from dataclasses import asdict, replace
from io import FileIO
from pathlib import Path
from typing import Any, TextIO

from ray_serve_cai.cluster.ports import free_port
from ray_serve_cai.engines.base import EngineConfig, Listen, LLMEngine
from ray_serve_cai.engines.registry import get_registry
from ray_serve_cai.errors import CaiError
from ray_serve_cai.serving.job import Pulse, ReplicaJob
from ray_serve_cai.storage.source import fetch

log = logging.getLogger(__name__)

PULSE_SECONDS = 1.0
HEALTH_SECONDS = 10.0
DRAIN_SECONDS = 60.0


def main() -> None:
    events = os.fdopen(int(sys.argv[1]), "w", buffering=1)
    # Unbuffered: whoever forks must not find the lock of a buffer held by the lifeline thread.
    orders = os.fdopen(0, "rb", buffering=0, closefd=False)
    order = json.loads(orders.readline())
    job = ReplicaJob.from_json(order["job"])
    os.environ.update(job.env)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    host = Host(job, order["listen_host"], int(order["worker_id"]), orders, events)
    sys.exit(asyncio.run(host.run()))


class Host:
    """Drives one engine from `from_args` to `cleanup`."""

    def __init__(
        self, job: ReplicaJob, listen_host: str, worker_id: int, orders: FileIO, events: TextIO
    ) -> None:
        self._job = job
        self._orders = orders
        self._listen_host = listen_host
        self._worker_id = worker_id
        self._events = events
        self._stop = asyncio.Event()
        self._engine: LLMEngine | None = None
        self._server: Any = None

    async def run(self) -> int:
        """Serve until told to stop; the exit status is 0 after an orderly end."""
        _watch(self._orders, asyncio.get_running_loop(), self._stop)
        try:
            config = await self._start()
        except Exception as error:
            log.exception("the engine did not start")
            self._send("failed", **_described(error))
            await self._cleanup()
            return 1
        self._send("ready", config=asdict(config))
        await self._pulse_until_stopped()
        await self._drain()
        await self._cleanup()
        return 0

    async def _start(self) -> EngineConfig:
        job = self._job
        self._send("phase", phase="downloading", message=job.source)
        folder = await asyncio.to_thread(fetch, job.source)
        self._send("phase", phase="loading", message=str(folder))
        engine_class = get_registry().get(job.engine).load()
        args = {**job.engine_args, "served_model_name": job.model}
        self._engine = engine = engine_class.from_args(args, folder)
        port = free_port(self._listen_host)
        if engine.own_server:
            where = Listen(self._listen_host, port, job.transport, job.api_keys)
            engine.listen(where)
        log.info("starting the engine")
        config = await engine.start(self._worker_id)
        log.info("asking it for a first token")
        await engine.probe()
        if engine.own_server:
            return config
        return await self._serve(engine, config, folder, port)

    async def _serve(
        self, engine: LLMEngine, config: EngineConfig, folder: Path, port: int
    ) -> EngineConfig:
        from ray_serve_cai.serving.servicer import serve_engine

        self._server = await serve_engine(engine, config, folder, self._listen_host, port)
        return replace(config, endpoint=f"grpc://{self._listen_host}:{port}")

    async def _pulse_until_stopped(self) -> None:
        while not self._stop.is_set():
            self._send("pulse", **asdict(await self._pulse()))
            try:
                await asyncio.wait_for(self._stop.wait(), PULSE_SECONDS)
            except TimeoutError:
                continue

    async def _pulse(self) -> Pulse:
        assert self._engine is not None
        try:
            async with asyncio.timeout(HEALTH_SECONDS):
                await self._engine.health()
                load = await self._engine.load()
        except Exception as error:  # noqa: BLE001 - any failure of the engine is "not healthy"
            return Pulse(healthy=False, message=f"{type(error).__name__}: {error}")
        return Pulse(True, load.running, load.waiting) if load else Pulse(True)

    async def _drain(self) -> None:
        """Let running requests end; the gateway sends no new ones by now."""
        assert self._engine is not None
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                while (load := await self._engine.load()) and load.running + load.waiting:
                    await asyncio.sleep(0.2)
                await self._engine.drain()
        except Exception:
            log.exception("draining failed; shutting down all the same")

    async def _cleanup(self) -> None:
        if self._server is not None:
            await self._server.stop(grace=1.0)
        if self._engine is not None:
            await self._engine.cleanup()
        self._send("stopped")

    def _send(self, event: str, **fields: Any) -> None:
        self._events.write(json.dumps({"event": event, **fields}) + "\n")


def _watch(orders: FileIO, loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """In a thread of its own, since loading a model can keep the event loop busy for minutes."""

    def watch() -> None:
        for line in orders:
            if json.loads(line).get("command") == "stop":
                loop.call_soon_threadsafe(stop.set)
        os.killpg(os.getpgid(0), signal.SIGKILL)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


def _described(error: Exception) -> dict[str, str]:
    code = error.code if isinstance(error, CaiError) else "CAI-MODEL-002"
    text = str(error) or type(error).__name__
    named = text if isinstance(error, CaiError) else f"{type(error).__name__}: {text}"
    return {"code": code, "message": named}


if __name__ == "__main__":
    main()
