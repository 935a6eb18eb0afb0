"""The gateway actor: keeps SMG and its list of replicas alive on the head node.

Replicas report every two seconds; one that has been silent for `LEASE_SECONDS` leaves the
manifest. SMG itself retries on another replica in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path

import ray

from ray_serve_cai.cluster.ports import is_taken
from ray_serve_cai.errors import ClusterError
from ray_serve_cai.files import replace_text
from ray_serve_cai.serving.autoscaling import Autoscaler
from ray_serve_cai.serving.gateway_config import GatewayConfig
from ray_serve_cai.serving.job import ReplicaRow
from ray_serve_cai.serving.manifest import manifest_text, read_manifest
from ray_serve_cai.serving.readiness import first_token
from ray_serve_cai.serving.rules import Rule
from ray_serve_cai.serving.smg import Smg
from ray_serve_cai.serving.standin import StandIn
from ray_serve_cai.serving.status_files import ReplicaWriter

log = logging.getLogger(__name__)

LEASE_SECONDS = 7.0
TICK_SECONDS = 0.5
RESTART_SECONDS = 1.0
PORT_SECONDS = 3.0
START_SECONDS = 15.0
# A failed or finished replica stays visible for a while, so that status can say why.
FORGET_SECONDS = 300.0


class Gateway:
    """Runs as a detached Ray actor."""

    def __init__(self, config: GatewayConfig) -> None:
        self._config = config
        self._rows: dict[str, ReplicaRow] = {}
        self._seen: dict[str, float] = {}
        self._process: asyncio.subprocess.Process | None = None
        # Replicas that stop go on reporting, but no request may go there any more.
        self._left: set[str] = set()
        self._dropped: set[tuple[str, int]] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._folder = Path(config.folder)
        self._manifest_path = self._folder / "workers.json"
        self._manifest = ""
        self._shown = ReplicaWriter(self._folder)
        self._stopped = False
        self._starting = asyncio.Lock()
        self._restored: dict[str, str] = {}
        self._born = time.monotonic()
        metrics_url = f"http://{_reachable(config.metrics_host)}:{config.metrics_port}"
        self._smg = Smg(self.url(), metrics_url, config.internal_key)
        self._stand_in = StandIn(self.url(), max(config.max_concurrent // 2, 1))
        self._autoscaler = Autoscaler(self._smg, self._stand_in, self._routable, self._folder)
        if ray.is_initialized() and ray.get_runtime_context().was_current_actor_reconstructed:
            # Ray has started this actor anew after a crash; nobody else calls `start`.
            ray.get_runtime_context().current_actor.start.remote()

    async def start(self) -> str:
        """Start SMG and return the base URL once it answers.

        Raises `ClusterError` (CAI-GATEWAY-001) with SMG's last words when it does not.
        """
        async with self._starting:
            if not self._tasks:
                self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._restored = read_manifest(self._manifest_path)
                self._write_manifest()
                await self._free_ports()
                await self._spawn()
                self._tasks = [asyncio.create_task(self._keep_alive())]
                self._tasks.append(asyncio.create_task(self._expire()))
                self._tasks.append(asyncio.create_task(asyncio.to_thread(_start_serve)))
                await self._stand_in.start()
                self._autoscaler.restore()
                self._tasks.append(asyncio.create_task(self._autoscaler.run()))
            await self._wait_until_up()
        return self.url()

    def url(self) -> str:
        return f"http://{_reachable(self._config.host)}:{self._config.port}"

    async def listen_host(self, node_address: str) -> str:
        """Where a replica on `node_address` must listen for the gateway to reach it."""
        return "127.0.0.1" if node_address == ray.util.get_node_ip_address() else node_address

    async def report(self, row: ReplicaRow) -> None:
        """A replica says how it is."""
        self._rows[row.replica_id] = row
        self._seen[row.replica_id] = time.monotonic()
        self._write_manifest()

    async def leave(self, replica_id: str) -> None:
        """A replica is about to stop; returns when no further request goes there."""
        self._left.add(replica_id)
        self._restored.pop(replica_id, None)
        self._write_manifest()
        row = self._rows.get(replica_id)
        await self._smg.let_go([row.endpoint] if row is not None and row.endpoint else [])

    async def gone(self, replica_id: str) -> None:
        """A replica has stopped."""
        self._forget(replica_id)
        self._left.discard(replica_id)

    async def drop_revision(self, model: str, revision: int) -> None:
        """Take a whole revision out of the routing, before its replicas are told to stop."""
        self._dropped.add((model, revision))
        rows = [r for r in self._rows.values() if (r.model, r.revision) == (model, revision)]
        for row in rows:
            self._restored.pop(row.replica_id, None)
        self._write_manifest()
        await self._smg.let_go([row.endpoint for row in rows if row.endpoint])

    async def replicas(self) -> list[ReplicaRow]:
        """Replicas heard of lately, and those that said they failed."""
        now = time.monotonic()
        return [
            row
            for row in self._rows.values()
            if row.phase == "failed" or now - self._seen[row.replica_id] < LEASE_SECONDS
        ]

    async def admit(self, model: str, revision: int) -> None:
        """Route a revision that was dropped before: it is started again."""
        self._dropped.discard((model, revision))

    async def routed(self, endpoints: list[str]) -> bool:
        """Whether SMG has taken all of `endpoints` into its routing."""
        workers = await self._smg.workers()
        return workers is not None and set(endpoints) <= {
            u for u, w in workers.items() if w.routed
        }

    async def follow(self, rule: Rule, *, tell: bool = False) -> None:
        """Count a model's replicas by `rule`; with `tell`, Serve does not know its count yet."""
        self._autoscaler.follow(rule, tell=tell)

    async def pause(self, model: str) -> int | None:
        """Leave a model's count alone until it is followed anew; see `Autoscaler.pause`."""
        return self._autoscaler.pause(model)

    async def forget(self, model: str) -> None:
        """The model is deleted."""
        self._autoscaler.forget(model)

    async def counts(self) -> dict[str, int]:
        """How many replicas each model is to have now."""
        return self._autoscaler.counts()

    async def first_token(self, model: str, seconds: float) -> None:
        """Return once `model` has answered through SMG; see `readiness.first_token`."""
        key = next(iter(self._config.api_keys), None)
        deadline = time.monotonic() + seconds
        await asyncio.to_thread(first_token, self.url(), key, model, deadline)

    async def stop(self) -> None:
        """End SMG and remove the manifest; the actor itself is killed by the caller."""
        self._stopped = True
        for task in self._tasks:
            task.cancel()
        await self._stand_in.stop()
        await self._end_process()
        for path in self._folder.glob("*"):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._folder.rmdir()

    async def _free_ports(self) -> None:
        """Another gateway at our port would answer in our name. What a former life of this actor
        started is given a moment to end."""
        config = self._config
        for host, port in ((config.host, config.port), (config.metrics_host, config.metrics_port)):
            deadline = time.monotonic() + PORT_SECONDS
            while is_taken(host, port):
                if time.monotonic() > deadline:
                    raise ClusterError("CAI-CLUSTER-004", f"port {port} on {host} is in use")
                await asyncio.sleep(TICK_SECONDS)

    async def _spawn(self) -> None:
        with open(self._config.log_path, "ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "ray_serve_cai.serving.gateway_process",
                stdin=asyncio.subprocess.PIPE,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
        assert self._process.stdin is not None
        order = {**asdict(self._config), "manifest": str(self._manifest_path)}
        self._process.stdin.write((json.dumps(order) + "\n").encode())
        await self._process.stdin.drain()

    async def _wait_until_up(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process is not None and self._process.returncode is not None:
                break
            if await self._smg.is_up():
                return
            await asyncio.sleep(0.05)
        tail = Path(self._config.log_path).read_text(errors="replace").splitlines()[-8:]
        raise ClusterError("CAI-GATEWAY-001", "the gateway did not start\n" + "\n".join(tail))

    async def _keep_alive(self) -> None:
        while True:
            status = await self._process.wait() if self._process is not None else None
            log.warning("the gateway process ended with status %s; starting it again", status)
            await asyncio.sleep(RESTART_SECONDS)
            try:
                await self._spawn()
            except OSError:
                log.exception("the gateway process could not be started; trying again")

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self._write_manifest()
            self._shown.write(await self.replicas())
            now = time.monotonic()
            for replica_id, seen in list(self._seen.items()):
                if now - seen > FORGET_SECONDS:
                    self._forget(replica_id)

    def _forget(self, replica_id: str) -> None:
        self._restored.pop(replica_id, None)
        self._rows.pop(replica_id, None)
        self._seen.pop(replica_id, None)
        self._write_manifest()

    def _workers(self) -> dict[str, str]:
        """Replica ids to endpoints: those heard of lately, and for the length of a lease those
        that an earlier life of this actor knew."""
        now = time.monotonic()
        known = dict(self._restored) if now - self._born < LEASE_SECONDS else {}
        for replica_id in self._rows:
            known.pop(replica_id, None)
        return known | {row.replica_id: row.endpoint or "" for row in self._routable()}

    def _routable(self) -> list[ReplicaRow]:
        """Replicas that may get requests."""
        now = time.monotonic()
        return [
            row
            for row in self._rows.values()
            if row.endpoint and row.phase == "ready"
            if row.replica_id not in self._left
            if (row.model, row.revision) not in self._dropped
            if now - self._seen[row.replica_id] < LEASE_SECONDS
        ]

    def _write_manifest(self) -> None:
        text = manifest_text(self._workers())
        if self._stopped or text == self._manifest:
            return
        try:
            replace_text(self._manifest_path, text)
        except OSError:
            # A full disk, say: the old list still routes, and the next tick tries again.
            log.exception("the list of replicas could not be written")
            return
        self._manifest = text

    async def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        # Its own way to end waits for its clients, and there is no model left to answer them.
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def _reachable(host: str) -> str:
    return "127.0.0.1" if host in ("0.0.0.0", "::") else host


def _start_serve() -> None:
    """Serve's controller takes seconds to start; here it costs nobody's waiting time."""
    from ray import serve

    serve.start(proxy_location="Disabled")
