"""SMG's control plane and its numbers, as the gateway's actor asks for them.

Stand-ins are registered here and not in the manifest, whose rows take no settings: a stand-in
answers 503 on purpose, which must neither be retried nor count as a failure of the worker.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 5.0
LET_GO_SECONDS = 3.0
# Shows up in `/v1/models` for the seconds that it takes to leave.
PARKED = "cai-leaving"
_SPEC = ("url", "worker_type", "connection_mode", "runtime_type", "labels", "resilience", "health")
_ACTIVE = "smg_worker_requests_active"
_STARTED = "smg_worker_requests_total"


@dataclass(frozen=True)
class Worker:
    """A worker of SMG's, and the `names` of the models it has there. One that is leaving is listed
    for a while, not `routed` any more. `row` is what SMG says of it."""

    id: str
    routed: bool
    names: frozenset[str] = frozenset()
    row: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def serves(self, model: str) -> bool:
        return self.routed and model in self.names


@dataclass
class WorkerLoad:
    """Requests of one worker: in flight now, and begun since SMG started."""

    active: int = 0
    started: int = 0


class Smg:
    """Asks the SMG at `url`; `metrics_url` is its other listener."""

    def __init__(self, url: str, metrics_url: str, internal_key: str) -> None:
        self._metrics_url = metrics_url
        headers = {"Authorization": f"Bearer {internal_key}"}
        # No TLS here, and reading the machine's certificates takes long.
        self._client = httpx.AsyncClient(
            base_url=url, headers=headers, timeout=TIMEOUT_SECONDS, trust_env=False, verify=False
        )

    async def is_up(self) -> bool:
        """Raises nothing: not yet up is an answer."""
        try:
            return (await self._client.get("/liveness")).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    async def workers(self) -> dict[str, Worker] | None:
        """What SMG knows, by URL; None when SMG does not say."""
        try:
            reply = (await self._client.get("/workers")).raise_for_status()
            return {row["url"]: _worker(row) for row in reply.json()["workers"]}
        except (httpx.HTTPError, ValueError, KeyError):
            return None

    async def let_go(self, endpoints: Sequence[str]) -> None:
        """Return when SMG sends nothing to `endpoints` any more, or after `LET_GO_SECONDS`."""
        deadline = time.monotonic() + LET_GO_SECONDS
        while endpoints and time.monotonic() < deadline:
            workers = await self.workers()
            # SMG lists a worker for five seconds more as draining, but sends nothing there.
            if workers is None or not any(u in workers and workers[u].routed for u in endpoints):
                return
            await asyncio.sleep(0.05)

    async def loads(self) -> dict[str, WorkerLoad] | None:
        """The requests of each worker by URL; None when SMG does not say."""
        try:
            reply = (await self._client.get(f"{self._metrics_url}/metrics")).raise_for_status()
        except httpx.HTTPError:
            return None
        return parse_loads(reply.text)

    async def add_stand_in(self, url: str, name: str) -> None:
        """Let `url` answer for the model called `name`; SMG takes it up within a second."""
        spec = {
            "url": url,
            "models": [{"id": name}],
            "connection_mode": "http",
            "runtime_type": "generic",
            "resilience": {"disable_retry": True, "retryable_status_codes": []},
            "health": {"disable_health_check": True},
        }
        await self._change("POST", "/workers", spec)

    async def park(self, worker: Worker) -> None:
        """Take a worker away from its models at once; what is in flight there goes on.

        SMG 1.13 throws dice between HTTP and gRPC for each request, by how many workers of either
        kind a model has, and a worker that is removed counts until it has drained, five seconds
        at least: while a stand-in and a replica change places, half of the requests would find
        nobody. Under another name it counts elsewhere.
        """
        spec = {key: worker.row[key] for key in _SPEC if key in worker.row}
        await self._change("PUT", f"/workers/{worker.id}", {**spec, "models": [{"id": PARKED}]})

    async def remove(self, worker: Worker) -> None:
        """Send nothing more there; what is in flight there ends in its own time."""
        await self._change("DELETE", f"/workers/{worker.id}", None)

    async def _change(self, method: str, path: str, body: Mapping[str, Any] | None) -> None:
        try:
            (await self._client.request(method, path, json=body)).raise_for_status()
        except httpx.HTTPError as error:
            # Asked again at the next look.
            log.warning("the gateway did not take a change of its workers: %s", error)


def parse_loads(text: str) -> dict[str, WorkerLoad]:
    """Of SMG's Prometheus text, what concerns workers; most of it are histograms."""
    lines = [line for line in text.splitlines() if line.startswith((_ACTIVE, _STARTED))]
    loads: dict[str, WorkerLoad] = {}
    for family in text_string_to_metric_families("\n".join(lines) + "\n"):
        for sample in family.samples:
            load = loads.setdefault(sample.labels["worker"], WorkerLoad())
            if sample.name == _ACTIVE:
                load.active += int(sample.value)
            else:
                load.started += int(sample.value)
    return loads


def _worker(row: Mapping[str, Any]) -> Worker:
    routed = bool(row.get("is_healthy")) and row.get("status", "ready") == "ready"
    names = frozenset(model["id"] for model in row.get("models", ()))
    return Worker(row["id"], routed, names, row)
