"""`RayBackend` and the examples of the documents, on real clusters."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from support import Cluster, ask, until

from ray_serve_cai import ray_backend
from ray_serve_cai.engines.registry import EngineInfo, get_registry, register_engine
from ray_serve_cai.ray_backend import RayBackend

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"
FAKES = ROOT / "tests" / "fakes" / "sglang_package"
SMALL = {"cpu": 0.5}
ECHO = {"model": "builtin:demo", "name": "echo", "resources": SMALL}

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture
def environment(echo_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """That of the cluster's own commands, in this process too."""
    mine = echo_cluster.cai.environment({"CAI_CLUSTER": echo_cluster.name})
    for name in ("HOME", "CAI_HOME", "CAI_CACHE", "CAI_CLUSTER"):
        monkeypatch.setenv(name, mine[name])
    return mine


@pytest.fixture
def backend(environment: dict[str, str]) -> RayBackend:
    made = RayBackend(default_engine="echo")
    asyncio.run(made.initialize_ray())
    return made


def test_a_model_lives(backend: RayBackend, echo_cluster: Cluster) -> None:
    async def life() -> None:
        row = await backend.start_model({**ECHO, "tokens_per_second": 500})
        assert (row["name"], row["engine"], row["state"]) == ("echo", "echo", "ready")
        assert row["endpoint"] == f"{echo_cluster.url}/v1"
        assert await backend.wait_for_ready(timeout=60) == row["endpoint"]
        status = await backend.get_status()
        assert (status["name"], status["state"]) == (echo_cluster.name, "ready")
        assert (status["endpoint"], status["models"]) == (row["endpoint"], [row])
        assert await asyncio.to_thread(ask, echo_cluster.client(), "echo", "Hello")
        assert await backend.stop_model()
        assert not await backend.stop_model()
        assert not await backend.stop_model("echo")

    asyncio.run(life())


def test_the_functions_of_the_module(environment: dict[str, str], echo_cluster: Cluster) -> None:
    ray_backend.default_backend.cache_clear()

    async def life() -> None:
        row = await ray_backend.start_model(ECHO, engine="echo", wait=False)
        assert row["replicas"]["wanted"] == 1
        await ray_backend.wait_for_ready("echo", timeout=100)
        (model,) = (await ray_backend.get_status())["models"]
        assert (model["name"], model["state"]) == ("echo", "ready")
        assert await ray_backend.stop_model("echo")

    asyncio.run(life())


def test_an_engine_that_only_this_process_has_registered(backend: RayBackend) -> None:
    register_engine(EngineInfo("mine", "ray_serve_cai.engines.echo:EchoEngine", "my own"))
    try:
        row = asyncio.run(backend.start_model(ECHO, engine="mine"))
    finally:
        get_registry().unregister("mine")
    assert row["engine"] == "ray_serve_cai.engines.echo:EchoEngine"
    asyncio.run(backend.stop_model("echo"))


def test_a_cancelled_start_is_undone(backend: RayBackend, echo_cluster: Cluster) -> None:
    async def given_up() -> list[Any]:
        start = asyncio.create_task(backend.start_model({**ECHO, "start_delay": 300}))
        await asyncio.to_thread(
            until, lambda: echo_cluster.commands("serving.host"), 100, "the engine host"
        )
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
        models: list[Any] = (await backend.get_status())["models"]
        return models

    assert [row for row in asyncio.run(given_up()) if row["state"] != "failed"] == []
    assert echo_cluster.commands("serving.host") == []
