"""The Serve replica: supervises one engine host and keeps the gateway informed.

No request passes through it. Its tasks are to start the host, to tell the gateway actor where the
engine answers (again every two seconds, so that a replica that vanishes is forgotten), to answer
Serve's health check from the engine's health, and to stop the host in order.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
import uuid
from functools import partial
from typing import Any

import ray

from ray_serve_cai.callbacks.hooks import Point
from ray_serve_cai.errors import HookError, ModelError
from ray_serve_cai.serving.child import Turn
from ray_serve_cai.serving.host_process import HostProcess
from ray_serve_cai.serving.job import ReplicaJob, ReplicaRow
from ray_serve_cai.serving.other_nodes import (
    node_names,
    other_nodes,
    prepare_others,
    with_group,
)
from ray_serve_cai.serving.part import run_part
from ray_serve_cai.serving.shutdown import FAILED_SECONDS

log = logging.getLogger(__name__)

REPORT_SECONDS = 2.0
# vLLM's engine can be silent while it compiles or prefills a long batch.
SILENCE_SECONDS = 30.0
# The gateway may take some seconds of the shutdown to let a replica go, not all.
LEAST_STOP_SECONDS = 1.0
TEARDOWN_SECONDS = 60.0


class Replica:
    """One replica of one model revision."""

    # Serve awaits a constructor that is a coroutine.
    async def __init__(  # type: ignore[misc]
        self, job: dict[str, Any], gateway: str, namespace: str
    ) -> None:
        self._job = with_group(ReplicaJob.from_json(job))
        self._gateway_name, self._namespace = gateway, namespace
        context = ray.get_runtime_context()
        self._row = ReplicaRow(
            replica_id=uuid.uuid4().hex[:12],
            model=self._job.model,
            revision=self._job.revision,
            phase="starting",
            node_id=context.get_node_id(),
            pid=os.getpid(),
            shutdown_timeout=self._job.shutdown_timeout,
        )
        self._node = node_names().get(self._row.node_id, self._row.node_id)
        self._unhealthy = ""
        self._teardown: asyncio.Task[None] | None = None
        self._host: HostProcess | None = None
        self._reports = asyncio.create_task(self._report_forever())
        await self._start()

    async def check_health(self) -> None:
        """Serve replaces the replica when this raises."""
        try:
            self._check_health()
        except ModelError as error:
            self._unhealthy = error.message
            raise

    def _check_health(self) -> None:
        host = self._host
        if host is None or host.returncode is not None:
            raise ModelError("CAI-MODEL-002", "the engine host has ended")
        if host.pulse is not None and not host.pulse.healthy:
            raise ModelError("CAI-MODEL-002", f"the engine is not healthy: {host.pulse.message}")
        silent = time.monotonic() - host.heard
        if silent > SILENCE_SECONDS:
            raise ModelError("CAI-MODEL-002", f"the engine host is silent since {silent:.0f} s")

    async def __del__(self) -> None:
        failed = self._row.phase == "failed"
        ends = time.monotonic() + self._job.shutdown_timeout
        if not failed:
            self._row.phase = "draining"
            await self._tell_gateway("leave", self._row.replica_id)
            await self._report()
        if self._host is not None:
            seconds = max(LEAST_STOP_SECONDS, ends - time.monotonic())
            await self._host.stop(seconds, self._unhealthy)
            await self._last_hooks(self._host, self._unhealthy)
        self._reports.cancel()
        if not failed:
            # A failure stays on record, for those who wait to see how the deployment goes.
            await self._tell_gateway("gone", self._row.replica_id)

    async def _start(self) -> None:
        gateway = await self._gateway()
        listen_host = await gateway.listen_host.remote(ray.util.get_node_ip_address())
        worker_id = int(self._row.replica_id, 16)
        nodes = other_nodes()
        try:
            self._host = host = await HostProcess.spawn(
                self._job,
                listen_host,
                worker_id,
                self._node,
                partial(prepare_others, self._job, self._row.replica_id, nodes) if nodes else None,
            )
        except OSError as error:
            self._row.phase, self._row.message = "failed", f"on node {self._node}: {error}"
            await self._report()
            raise
        self._row.log = host.log_path
        try:
            async with asyncio.timeout(self._job.start_timeout):
                config = await host.ready(self._set_phase)
        except (ModelError, TimeoutError) as error:
            message = str(error) or "start timed out"
            # One that failed by itself has cleaned up, or has died.
            late = isinstance(error, TimeoutError)
            seconds = min(self._job.shutdown_timeout, FAILED_SECONDS) if late else 0
            await host.stop(seconds, message)
            await self._last_hooks(host, message)
            # Last: whoever sees it removes this replica.
            self._row.phase, self._row.message = "failed", message
            self._row.code = error.code if isinstance(error, ModelError) else ""
            await self._report()
            self._reports.cancel()
            raise
        self._row.engine_config = config
        self._row.endpoint = config["endpoint"]
        self._row.phase, self._row.message = "ready", ""
        await self._report()

    async def _last_hooks(self, host: HostProcess, error: str) -> None:
        """Run the hooks of the teardown that the host did not live to run; once, whoever asks."""
        if not self._job.callbacks:
            return
        if self._teardown is None:
            self._teardown = asyncio.create_task(self._missing_hooks(host, error))
        await asyncio.shield(self._teardown)

    async def _missing_hooks(self, host: HostProcess, error: str) -> None:
        died = error or ("" if host.returncode == 0 else "the engine host has ended")
        order = {"part": "teardown", "node": self._node, "error": died}
        try:
            async with asyncio.timeout(TEARDOWN_SECONDS):
                while left := self._left(host.turns, bool(died)):
                    begun = len(host.turns)
                    try:
                        await run_part(
                            self._job,
                            self._row.replica_id,
                            {**order, "left": left},
                            turns=host.turns,
                        )
                    except HookError as failure:
                        log.warning("a last hook failed: %s", failure)
                        # One that ends its process again and again has had its turn each time.
                        if len(host.turns) == begun:
                            return
        except (TimeoutError, OSError) as failure:
            log.warning("the last hooks did not run to their end: %s", failure)

    def _left(self, turns: set[Turn], died: bool) -> list[tuple[str, list[int]]]:
        """The turns of the teardown that nobody has begun: point, and callbacks by number."""
        shutting_down = any(point == Point.SHUT_DOWN for point, _ in turns)
        points = (
            [Point.FAILED, Point.SHUT_DOWN] if died and not shutting_down else [Point.SHUT_DOWN]
        )
        everyone = range(len(self._job.callbacks))
        each = [(point, [i for i in everyone if (point, i) not in turns]) for point in points]
        return [(point.value, callbacks) for point, callbacks in each if callbacks]

    def _set_phase(self, phase: str, message: str) -> None:
        self._row.phase, self._row.message = phase, message

    async def _report_forever(self) -> None:
        while True:
            await self._report()
            await asyncio.sleep(REPORT_SECONDS)

    async def _report(self) -> None:
        host = self._host
        if host is not None and host.pulse is not None:
            self._row.running, self._row.waiting = host.pulse.running, host.pulse.waiting
        if host is not None and host.stages and self._row.phase == "draining":
            # A failed start has stages too; what is told of it is the failure.
            self._row.message = host.stages[-1]
        if host is not None and host.returncode is not None and self._row.phase == "ready":
            # Out of the manifest at once; Serve's health check replaces the replica.
            self._row.phase, self._row.endpoint = "failed", None
            self._row.message = f"the engine host ended with status {host.returncode}"
        await self._tell_gateway("report", self._row)

    async def _tell_gateway(self, method: str, argument: object) -> None:
        try:
            gateway = await self._gateway()
            await getattr(gateway, method).remote(argument)
        except (ray.exceptions.RayError, ValueError) as error:
            log.warning("the gateway did not take the report: %s", error)

    async def _gateway(self) -> Any:
        # Looked up each time: after a restart of the actor an old handle may be dead for good.
        return await asyncio.to_thread(ray.get_actor, self._gateway_name, self._namespace)
