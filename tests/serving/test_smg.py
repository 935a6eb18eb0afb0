"""The real SMG between a stand-in and a gRPC replica that change places. No Ray is started."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path

import httpx

from ray_serve_cai.cluster.ports import free_port
from ray_serve_cai.engines.echo import EchoEngine
from ray_serve_cai.serving.gateway_config import GatewayConfig
from ray_serve_cai.serving.manifest import manifest_text
from ray_serve_cai.serving.servicer import serve_engine
from ray_serve_cai.serving.smg import PARKED, Smg
from ray_serve_cai.serving.standin import StandIn
from ray_serve_cai.spec import ReplicaRange
from ray_serve_cai.storage.source import fetch

HELD = "held"


@asynccontextmanager
async def gateway(folder: Path) -> AsyncIterator[tuple[Smg, str]]:
    """SMG on free ports, told of its replicas by `workers.json` in the folder."""
    port, metrics_port = free_port(""), free_port("")
    config = GatewayConfig(
        host="127.0.0.1",
        port=port,
        metrics_host="127.0.0.1",
        metrics_port=metrics_port,
        api_keys=(),
        internal_key="internal",
        max_request_bytes=2**20,
        max_concurrent=100,
        queue=20,
        queue_timeout=30,
        folder=str(folder),
        log_path=str(folder / "smg.log"),
    )
    url, metrics = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{metrics_port}"
    with open(folder / "smg.log", "wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "ray_serve_cai.serving.gateway_process"],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    assert process.stdin is not None
    process.stdin.write(
        json.dumps(asdict(config) | {"manifest": str(folder / "workers.json")}).encode()
    )
    process.stdin.write(b"\n")
    process.stdin.flush()
    smg = Smg(url, metrics, "internal")
    try:
        async with asyncio.timeout(30):
            while not await smg.is_up():
                await asyncio.sleep(0.1)
        yield smg, url
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class Client:
    def __init__(self, url: str) -> None:
        self._client = httpx.AsyncClient(base_url=url, timeout=20, trust_env=False)

    async def ask(self, seconds: float = 1.0) -> str:
        """`200`, what the error is called, or that no answer came in time."""
        body = {"model": "chat", "prompt": "one two three", "max_tokens": 4}
        try:
            reply = await self._client.post("/v1/completions", json=body, timeout=seconds)
        except httpx.ReadTimeout:
            return HELD
        return "200" if reply.is_success else str(reply.json()["error"]["code"])

    async def many(self) -> Counter[str]:
        return Counter(await asyncio.gather(*[self.ask() for _ in range(16)]))

    async def until(self, answer: str) -> None:
        async with asyncio.timeout(30):
            while await self.ask() != answer:
                await asyncio.sleep(0.1)


def test_no_request_falls_between_two_that_change_places(tmp_path: Path) -> None:
    async def scene() -> None:
        demo, port = fetch("builtin:demo"), free_port("")
        engine = EchoEngine.from_args({"served_model_name": "chat"}, demo)
        server = await serve_engine(engine, await engine.start(1), demo, "127.0.0.1", port)
        replica = f"grpc://127.0.0.1:{port}"
        (tmp_path / "workers.json").write_text(manifest_text({"1": replica}))
        async with gateway(tmp_path) as (smg, url):
            stand_in, client = StandIn(url, 90), Client(url)
            await stand_in.start()
            limits = ReplicaRange(min=0, max=1, hold_timeout=20.0, queue=90)
            place = stand_in.place("chat", limits, starting=False)
            await client.until("200")
            # To none: first both, then the stand-in alone.
            await smg.add_stand_in(stand_in.url("chat", 1), "chat")
            await client.until(HELD)
            assert set(await client.many()) == {"200", HELD}
            workers = await smg.workers() or {}
            await smg.park(workers[replica])
            await until_parked(smg, replica)
            for _ in range(2):
                assert set(await client.many()) == {HELD}
            # And back, with a request that waits: here the same replica comes under its name.
            waiting = asyncio.create_task(client.ask(20))
            (tmp_path / "workers.json").write_text(manifest_text({}))
            await until_gone(smg, replica)
            (tmp_path / "workers.json").write_text(manifest_text({"2": replica}))
            async with asyncio.timeout(20):
                while not (workers := await smg.workers() or {}).get(replica):
                    await asyncio.sleep(0.1)
            await smg.park(workers[stand_in.url("chat", 1)])
            await until_parked(smg, stand_in.url("chat", 1))
            for _ in range(2):
                assert set(await client.many()) == {"200"}
            place.open.set()
            assert await waiting == "200"
            await stand_in.stop()
        await server.stop(grace=0)

    asyncio.run(asyncio.wait_for(scene(), 120))


async def until_parked(smg: Smg, url: str) -> None:
    async with asyncio.timeout(10):
        while not (await smg.workers() or {})[url].serves(PARKED):
            await asyncio.sleep(0.05)


async def until_gone(smg: Smg, url: str) -> None:
    async with asyncio.timeout(20):
        while url in (await smg.workers() or {url: None}):
            await asyncio.sleep(0.1)
