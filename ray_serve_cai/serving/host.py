"""The engine host: the process that prepares and runs one replica's engine.

It is a process of its own so that no token crosses Ray's worker process. It reads its job as one
JSON line on stdin, writes events as JSON lines to the descriptor named on its command line, and
takes the commands `stop` and `files` (what came of the other nodes) on stdin. Stdin is also its
lifeline: when the replica dies by any signal, the pipe closes and the host ends its whole process
group, engine processes included.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import threading
import time
from dataclasses import asdict, replace
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Any, TextIO

import psutil

from ray_serve_cai.callbacks import CallbackCtx, NodeDownload, Point
from ray_serve_cai.callbacks.context import env_vars
from ray_serve_cai.callbacks.node_init import download_of, prepare
from ray_serve_cai.cluster.ports import free_port
from ray_serve_cai.engines.base import EngineConfig, Listen, LLMEngine
from ray_serve_cai.engines.registry import get_registry
from ray_serve_cai.errors import CaiError, EngineError, HookError
from ray_serve_cai.serving.downloading import reported
from ray_serve_cai.serving.event_loop import loop_factory
from ray_serve_cai.serving.heartbeat import Heartbeat
from ray_serve_cai.serving.hooks import ReplicaRunner, engine_args, engine_folder, plain
from ray_serve_cai.serving.in_flight import in_flight
from ray_serve_cai.serving.job import ReplicaJob
from ray_serve_cai.serving.lifeline import read_exactly, watch_orders
from ray_serve_cai.serving.servicer import EngineServer, serve_engine
from ray_serve_cai.serving.shutdown import FAILED_SECONDS, Shutdown, until_stopped
from ray_serve_cai.storage.watch import Watch

log = logging.getLogger(__name__)

PULSE_SECONDS = 1.0
MESSAGE_CHARACTERS = 10_000
ORPHAN_SECONDS = 30.0


def main() -> None:
    events = os.fdopen(int(sys.argv[1]), "w", buffering=1)
    # Unbuffered: whoever forks must not find the lock of a buffer held by the lifeline thread.
    orders = os.fdopen(0, "rb", buffering=0, closefd=False)
    order = json.loads(read_exactly(orders, int(orders.readline())))
    job = ReplicaJob.from_json(order["job"])
    os.environ.update(job.env)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    host = Host(job, order, orders, events)
    with asyncio.Runner(loop_factory=loop_factory(job.engine)) as runner:
        status = runner.run(host.run())
    host.linger()
    # At once: a hook or a download that hangs in a thread would keep the process.
    logging.shutdown()
    os._exit(status)


class Host:
    """Drives one engine from `from_args` to `cleanup`."""

    def __init__(
        self, job: ReplicaJob, order: dict[str, Any], orders: FileIO, events: TextIO
    ) -> None:
        self._job = job
        self._orders = orders
        self._listen_host: str = order["listen_host"]
        self._worker_id = int(order["worker_id"])
        self._node: str = order["node"]
        self._events = events
        self._stop = asyncio.Event()
        # Why the replica wants the engine stopped, when it is not a plain end.
        self._failure = ""
        self._seconds = job.shutdown_timeout
        # When the stop was asked for, from which its time counts.
        self._begun: float | None = None
        self._elsewhere = self._other_nodes if order["others"] else None
        self._hooks = ReplicaRunner(job, self._node, self._announce, self._announce_turn)
        self._files: asyncio.Future[dict[str, Any]] | None = None
        self._engine: LLMEngine | None = None
        self._server: EngineServer | None = None
        self._port = 0
        self._orphan = False
        self._lock = threading.Lock()
        self._torn_down: set[Point] = set()

    async def run(self) -> int:
        """Serve until told to stop; the exit status is 0 after an orderly end."""
        loop = asyncio.get_running_loop()
        watch_orders(self._orders, loop, self._take, self._orphaned)
        # An engine with a server of its own may take the signal over.
        loop.add_signal_handler(signal.SIGTERM, self._begin_stop)
        try:
            config = await until_stopped(self._start(), self._stop)
        except Exception as error:
            # A hook's traceback is in the log already, without the secrets of its arguments.
            log.error("the engine did not start", exc_info=not isinstance(error, HookError))
            shutdown = self._shutdown()
            await shutdown.stage("failure hooks", self._teardown(Point.FAILED, error))
            await self._cleanup(shutdown)
            self._send("failed", **_described(error))
            return 1
        if config is None:
            shutdown = self._shutdown()
            await self._tell_failure(shutdown)
            await self._cleanup(shutdown)
            return 0
        self._send("ready", config=asdict(config))
        await until_stopped(self._pulse(), self._stop)
        await self._shut_down()
        return 0

    def linger(self) -> None:
        """Wait for the last hooks, if the lifeline's thread is about to run them."""
        if self._orphan:
            threading.Event().wait(ORPHAN_SECONDS)

    async def _start(self) -> EngineConfig:
        job, hooks = self._job, self._hooks
        watch = Watch()
        download = download_of(job.source, job.storage_options, watch)
        async with reported(job.source, watch, partial(self._phase, "downloading")):
            await prepare(hooks, download, self._node, self._elsewhere)
        await hooks.run(Point.BEFORE_ENGINE)
        folder = await asyncio.to_thread(engine_folder, job, hooks.ctx)
        args = engine_args(job, hooks.ctx.extra_init_kwargs)
        self._phase("loading", str(folder))
        engine_class = get_registry().get(job.engine).load()
        self._engine = engine = engine_class.from_args(
            {**args, "served_model_name": job.model}, folder
        )
        self._port = port = free_port(self._listen_host)
        if engine.own_server:
            where = Listen(self._listen_host, port, job.transport, job.api_keys)
            engine.listen(where)
        log.info("starting the engine")
        config = await engine.start(self._worker_id)
        await hooks.run(Point.AFTER_ENGINE)
        log.info("asking it for a first token")
        await engine.probe()
        await hooks.run(Point.ALL_DONE)
        if not engine.own_server:
            config = await self._serve(engine, config, folder, port)
        await hooks.run(Point.READY)
        return config

    async def _serve(
        self, engine: LLMEngine, config: EngineConfig, folder: Path, port: int
    ) -> EngineConfig:
        self._server = await serve_engine(
            engine, config, folder, self._listen_host, port, check=self._job.debug
        )
        return replace(config, endpoint=f"grpc://{self._listen_host}:{port}")

    async def _pulse(self) -> None:
        assert self._engine is not None
        job = self._job
        heart = Heartbeat(self._engine, self._server, job.probe_every, job.probe_timeout)
        try:
            while True:
                self._send("pulse", **asdict(await heart.pulse()))
                await asyncio.sleep(PULSE_SECONDS)
        finally:
            heart.stop()

    def _shutdown(self) -> Shutdown:
        seconds = min(self._seconds, FAILED_SECONDS) if self._failure else self._seconds
        return Shutdown(seconds, lambda stage: self._send("stage", stage=str(stage)), self._begun)

    async def _shut_down(self) -> None:
        """In order; the replica is out of the gateway's manifest by now."""
        assert self._engine is not None
        shutdown = self._shutdown()
        if self._server is not None:
            self._server.refuse()
        await self._tell_failure(shutdown)
        await shutdown.stage("drain hooks", self._teardown(Point.DRAINING))
        await shutdown.stage("in-flight", in_flight(self._engine, self._server, self._port))
        await shutdown.stage("drain", self._engine.drain())
        await self._cleanup(shutdown)

    async def _tell_failure(self, shutdown: Shutdown) -> None:
        if self._failure:
            error = EngineError("CAI-MODEL-002", self._failure)
            await shutdown.stage("failure hooks", self._teardown(Point.FAILED, error))

    async def _cleanup(self, shutdown: Shutdown) -> None:
        async def release() -> None:
            try:
                if self._server is not None:
                    await self._server.stop(grace=1.0)
            finally:
                if self._engine is not None:
                    await self._engine.cleanup()

        await shutdown.stage("cleanup", release())
        await shutdown.stage("shutdown hooks", self._teardown(Point.SHUT_DOWN))

    async def _teardown(self, point: Point, error: Exception | None = None) -> None:
        """Run the point's hooks, once, whoever comes first: the loop or the lifeline."""
        with self._lock:
            first = point not in self._torn_down
            self._torn_down.add(point)
        if first:
            await self._hooks.run(point, error)

    def _orphaned(self) -> None:
        """The replica has died. The engine's processes end before the last hooks run, since the
        next replica may need their memory."""
        if not self._job.callbacks:
            return
        self._orphan = True
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        error = EngineError("CAI-MODEL-002", "the replica has died")

        async def last_hooks() -> None:
            async with asyncio.timeout(ORPHAN_SECONDS):
                await self._teardown(Point.FAILED, error)
                await self._teardown(Point.SHUT_DOWN)

        with contextlib.suppress(TimeoutError):
            asyncio.run(last_hooks())

    async def _other_nodes(self, ctx: CallbackCtx) -> dict[str, NodeDownload]:
        """Let the replica prepare its other nodes, where no process of this host's runs."""
        self._files = asyncio.get_running_loop().create_future()
        self._send(
            "files",
            mode=getattr(ctx.worker_node_download_model, "name", ctx.worker_node_download_model),
            run_init_node=ctx.run_init_node,
            custom_data=plain(ctx.custom_data),
            env=env_vars(ctx),
        )
        answer = await self._files
        if "message" in answer:
            raise HookError(answer["code"], answer["message"])
        return {node: NodeDownload(**row) for node, row in answer["results"].items()}

    def _take(self, order: dict[str, Any]) -> None:
        if order["command"] == "stop":
            self._failure = self._failure or order.get("error", "")
            self._seconds = order["seconds"]
            self._begin_stop()
        elif self._files is not None and not self._files.done():
            self._files.set_result(order)

    def _begin_stop(self) -> None:
        if self._begun is None:
            self._begun = time.monotonic()
        self._stop.set()

    def _phase(self, phase: str, message: str) -> None:
        self._send("phase", phase=phase, message=message)

    def _announce(self, hook: str, name: str) -> None:
        self._send("hook", hook=f"{hook} of {name}" if hook else "")

    def _announce_turn(self, point: Point, callback: int) -> None:
        self._send("turn", point=point, callback=callback)

    def _send(self, event: str, **fields: Any) -> None:
        # A replica that has died reads no more.
        with contextlib.suppress(BrokenPipeError):
            self._events.write(json.dumps({"event": event, **fields}) + "\n")


def _described(error: Exception) -> dict[str, str]:
    code = error.code if isinstance(error, CaiError) else "CAI-MODEL-002"
    text = str(error) or type(error).__name__
    named = text if isinstance(error, CaiError) else f"{type(error).__name__}: {text}"
    return {"code": code, "message": named[:MESSAGE_CHARACTERS]}


if __name__ == "__main__":
    main()
