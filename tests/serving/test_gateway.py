"""Which replicas the gateway's manifest holds, and what SMG is told. No Ray is started."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ray_serve_cai.serving import gateway as module
from ray_serve_cai.serving.gateway import LEASE_SECONDS, Gateway
from ray_serve_cai.serving.gateway_config import GatewayConfig
from ray_serve_cai.serving.gateway_process import router_args
from ray_serve_cai.serving.job import ReplicaRow
from ray_serve_cai.serving.manifest import read_manifest
from ray_serve_cai.serving.smg import Worker


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


@pytest.fixture
def make(tmp_path: Path, clock: Clock) -> Callable[[], Gateway]:
    """Gateways on one folder, as the actor and its later lives; SMG is not started."""

    async def silence() -> None:
        return None

    def gateway() -> Gateway:
        made = Gateway(config(tmp_path))
        made._tasks = [object()]  # type: ignore[list-item] - as if `start` had been called
        made._restored = read_manifest(tmp_path / "workers.json")
        made._smg.workers = silence  # type: ignore[method-assign]
        return made

    return gateway


def config(folder: Path, **keys: Any) -> GatewayConfig:
    base: dict[str, Any] = {
        "host": "127.0.0.1",
        "port": 8000,
        "metrics_host": "127.0.0.1",
        "metrics_port": 9000,
        "api_keys": (),
        "internal_key": "internal",
        "max_request_bytes": 2**20,
        "max_concurrent": 10,
        "queue": 20,
        "queue_timeout": 30,
        "folder": str(folder),
        "log_path": str(folder / "gateway.log"),
    }
    return GatewayConfig(**base | keys)


def row(replica: str, phase: str = "ready", model: str = "chat", revision: int = 1) -> ReplicaRow:
    endpoint = f"grpc://127.0.0.1:{replica}" if phase == "ready" else None
    return ReplicaRow(replica, model, revision, phase, "node", endpoint)


def manifest(folder: Path) -> list[str]:
    data = json.loads((folder / "workers.json").read_text())
    assert data["version"] == 1
    return [worker["url"].rsplit(":")[-1] for worker in data["workers"]]


def report(gateway: Gateway, *rows: ReplicaRow) -> None:
    async def run() -> None:
        for each in rows:
            await gateway.report(each)

    asyncio.run(run())


def tick(gateway: Gateway) -> None:
    gateway._write_manifest()


def test_ready_replicas_are_listed(make: Callable[[], Gateway], tmp_path: Path) -> None:
    report(make(), row("2"), row("1"), row("3", "loading"), row("4", "failed"))
    assert manifest(tmp_path) == ["1", "2"]


def test_silent_replica_leaves(make: Callable[[], Gateway], tmp_path: Path, clock: Clock) -> None:
    gateway = make()
    report(gateway, row("1"), row("2"))
    clock.now += LEASE_SECONDS - 1
    report(gateway, row("2"))
    clock.now += 2
    tick(gateway)
    assert manifest(tmp_path) == ["2"]
    report(gateway, row("1"))
    assert manifest(tmp_path) == ["1", "2"]


def test_replica_that_says_it_leaves(make: Callable[[], Gateway], tmp_path: Path) -> None:
    gateway = make()
    report(gateway, row("1"), row("2"))
    asyncio.run(gateway.leave("1"))
    asyncio.run(gateway.leave("unknown"))
    assert manifest(tmp_path) == ["2"]


def test_dropping_a_revision(make: Callable[[], Gateway], tmp_path: Path) -> None:
    gateway = make()
    report(gateway, row("1"), row("2", revision=2), row("3", model="other"))
    asyncio.run(gateway.drop_revision("chat", 1))
    assert manifest(tmp_path) == ["2", "3"]


def test_stopping_replicas_get_no_request(make: Callable[[], Gateway], tmp_path: Path) -> None:
    """Replicas go on reporting while they stop, and are shown until they are gone."""
    gateway = make()
    report(gateway, row("1"), row("2", revision=2), row("3", revision=2))
    asyncio.run(gateway.drop_revision("chat", 1))
    asyncio.run(gateway.leave("3"))
    report(gateway, row("1"), row("4"), row("3", revision=2))
    assert manifest(tmp_path) == ["2"]
    asyncio.run(gateway.gone("3"))
    assert {it.replica_id for it in asyncio.run(gateway.replicas())} == {"1", "2", "4"}


def test_dropped_revision_that_is_started_again(
    make: Callable[[], Gateway], tmp_path: Path
) -> None:
    gateway = make()
    asyncio.run(gateway.drop_revision("chat", 1))
    asyncio.run(gateway.admit("chat", 1))
    report(gateway, row("1"))
    assert manifest(tmp_path) == ["1"]


def test_leaving_waits_for_smg(make: Callable[[], Gateway]) -> None:
    gateway = make()
    report(gateway, row("1"))
    # SMG lists a worker for a while as no longer healthy, and sends nothing there.
    url = "grpc://127.0.0.1:1"
    answers = [{url: Worker("1", routed=True)}, {url: Worker("1", routed=False)}]

    async def workers() -> dict[str, Worker]:
        return answers.pop(0)

    gateway._smg.workers = workers  # type: ignore[method-assign]
    asyncio.run(gateway.leave("1"))
    assert answers == []


class TestNextLife:
    """Ray starts the actor anew after a crash; it knows nothing but the manifest."""

    def test_replicas_stay_for_a_lease(
        self, make: Callable[[], Gateway], tmp_path: Path, clock: Clock
    ) -> None:
        report(make(), row("1"), row("2"))
        clock.now += 100
        gateway = make()
        report(gateway, row("2"))
        assert manifest(tmp_path) == ["1", "2"]
        clock.now += LEASE_SECONDS + 1
        report(gateway, row("2"))
        assert manifest(tmp_path) == ["2"]

    def test_one_that_failed_meanwhile_does_not_come_back(
        self, make: Callable[[], Gateway], tmp_path: Path
    ) -> None:
        report(make(), row("1"), row("2"))
        report(make(), row("1", "failed"))
        assert manifest(tmp_path) == ["2"]

    def test_damaged_manifest(self, make: Callable[[], Gateway], tmp_path: Path) -> None:
        (tmp_path / "workers.json").write_text("{")
        report(make(), row("1"))
        assert manifest(tmp_path) == ["1"]


def test_rows_of_status(make: Callable[[], Gateway], clock: Clock) -> None:
    gateway = make()
    report(gateway, row("1"), row("2", "failed"))
    clock.now += LEASE_SECONDS + 1
    assert [it.replica_id for it in asyncio.run(gateway.replicas())] == ["2"]


def test_stop_leaves_no_file(make: Callable[[], Gateway], tmp_path: Path) -> None:
    gateway = make()
    report(gateway, row("1"))
    gateway._tasks = []
    asyncio.run(gateway.stop())
    assert not tmp_path.exists()


class TestSmgArguments:
    def order(self, tmp_path: Path, **keys: Any) -> Any:
        from dataclasses import asdict

        data = asdict(config(tmp_path, **keys)) | {"manifest": "/state/workers.json"}
        return router_args(json.loads(json.dumps(data)))

    def test_every_listener_is_set(self, tmp_path: Path) -> None:
        args = self.order(tmp_path)
        assert (args.host, args.port) == ("127.0.0.1", 8000)
        assert (args.prometheus_host, args.prometheus_port) == ("127.0.0.1", 9000)
        assert args.discovery_file == "/state/workers.json"

    @pytest.mark.parametrize("keys", [(), ("a", "b")])
    def test_keys(self, tmp_path: Path, keys: tuple[str, ...]) -> None:
        """Clients need one where the spec has some, the control plane its own always."""
        args = self.order(tmp_path, api_keys=keys)
        assert [key for _, key in args.tenant_api_keys] == list(keys)
        assert [key[2] for key in args.control_plane_api_keys] == ["internal"]

    def test_limits(self, tmp_path: Path) -> None:
        args = self.order(tmp_path)
        assert (args.max_payload_size, args.max_concurrent_requests) == (2**20, 10)
        assert (args.queue_size, args.queue_timeout_secs) == (20, 30)
