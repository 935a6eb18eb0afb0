"""A replica with a real engine host, without Ray: what it asks of Ray is played."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ray_serve_cai.serving import replica as module
from ray_serve_cai.serving.host_process import HostProcess
from ray_serve_cai.serving.job import ReplicaJob, ReplicaRow
from ray_serve_cai.serving.replica import Replica

CODE = """
import asyncio
from ray_serve_cai.engines.echo import EchoEngine

class Late(EchoEngine):
    async def start(self, worker_id):
        print("loading for ever", flush=True)
        await asyncio.sleep(600)

    async def cleanup(self):
        print("cleaning up", flush=True)

class Stuck(Late):
    async def start(self, worker_id):
        import time
        print("loading for ever", flush=True)
        time.sleep(600)

class Notes:
    def on_failure(self, ctx, error):
        print("hook of failure:", error, flush=True)

    def on_shutdown(self, ctx):
        print("hook of shutdown", flush=True)
"""


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> list[ReplicaRow]:
    """What the gateway hears."""
    made: list[ReplicaRow] = []

    class Played:
        def __getattr__(self, method: str) -> Any:
            async def remote(argument: Any) -> Any:
                if method == "report":
                    made.append(ReplicaRow(**vars(argument)))
                return "127.0.0.1"

            return SimpleNamespace(remote=remote)

    async def gateway(_: Replica) -> Any:
        return Played()

    context = SimpleNamespace(get_node_id=lambda: "n1")
    ray = SimpleNamespace(
        get_runtime_context=lambda: context,
        util=SimpleNamespace(get_node_ip_address=lambda: "127.0.0.1"),
        exceptions=module.ray.exceptions,
    )
    monkeypatch.setattr(module, "ray", ray)
    monkeypatch.setattr(module, "node_names", dict)
    monkeypatch.setattr(module, "other_nodes", dict)
    monkeypatch.setattr(Replica, "_gateway", gateway)
    return made


@pytest.mark.parametrize(("engine", "cleanups"), [("Late", 1), ("Stuck", 0)])
def test_time_for_loading_runs_out(
    engine: str,
    cleanups: int,
    tmp_path: Path,
    reports: list[ReplicaRow],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The engine is cleaned up and the hooks have their turns, once; where the host cannot, in a
    process of their own."""
    (tmp_path / "mine.py").write_text(CODE)
    job = ReplicaJob(
        cluster="demo",
        model="chat",
        revision=1,
        source="builtin:demo",
        engine=f"mine.{engine}",
        engine_args={},
        transport="grpc",
        env={},
        log_folder=str(tmp_path / "logs"),
        project=str(tmp_path),
        callbacks=({"target": "mine.Notes", "kwargs": {}, "on_error": "log", "timeout": 60.0},),
        shutdown_timeout=3.0,
    )

    async def late(host: HostProcess, _: Any) -> Any:
        while "loading for ever" not in Path(host.log_path).read_text():
            await asyncio.sleep(0.05)
        raise TimeoutError

    monkeypatch.setattr(HostProcess, "ready", late)

    async def run() -> None:
        made = Replica.__new__(Replica)
        with pytest.raises(TimeoutError):
            await made.__init__(job.to_json(), "gateway", "cai")  # type: ignore[misc]

    asyncio.run(asyncio.wait_for(run(), 60))
    said = "".join(log.read_text() for log in (tmp_path / "logs").iterdir())
    assert said.count("cleaning up") == cleanups
    assert said.count("hook of failure: start timed out") == 1
    assert said.count("hook of shutdown") == 1
    assert (reports[-1].phase, reports[-1].message) == ("failed", "start timed out")
