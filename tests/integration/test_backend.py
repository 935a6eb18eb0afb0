"""`RayBackend` and the examples of the documents, on real clusters."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from support import Cai, Cluster, ask, command_line, until

from ray_serve_cai import ray_backend
from ray_serve_cai.engines.registry import EngineInfo, get_registry, register_engine
from ray_serve_cai.errors import ClusterError, EngineError, ModelError, PlanError, SpecError
from ray_serve_cai.ray_backend import RayBackend

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"
FAKES = ROOT / "tests" / "fakes" / "sglang_package"
SMALL = {"cpu": 0.5}
ECHO = {"model": "builtin:demo", "name": "echo", "resources": SMALL}


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


def test_failures_are_those_of_the_command_line(backend: RayBackend) -> None:
    async def failing(call: Coroutine[Any, Any, Any], kind: type[Exception], code: str) -> str:
        with pytest.raises(kind) as caught:
            await call
        assert caught.value.code == code  # type: ignore[attr-defined]
        return str(caught.value)

    async def all_of_them() -> None:
        start = backend.start_model
        said = await failing(start(ECHO, engine="vlm"), EngineError, "CAI-ENGINE-001")
        assert "(known: command, echo, sglang, vllm)" in said
        await failing(start({"name": "x"}), SpecError, "CAI-SPEC-004")
        said = await failing(start({**ECHO, "replicas": -1}), SpecError, "CAI-SPEC-004")
        assert "replicas" in said
        await failing(start({**ECHO, "model": "/no/such"}), Exception, "CAI-STORAGE-001")
        huge = {**ECHO, "resources": {"cpu": 1000}}
        await failing(start(huge), PlanError, "CAI-PLAN-001")
        await failing(backend.wait_for_ready(), ModelError, "CAI-MODEL-001")
        said = await failing(start({**ECHO, "fail": "out of luck"}), ModelError, "CAI-MODEL-002")
        assert "out of luck" in said
        # A failure stays on record until it is removed.
        await failing(backend.wait_for_ready(), ModelError, "CAI-MODEL-002")
        assert await backend.stop_model()
        await failing(backend.model_status("nobody"), ModelError, "CAI-MODEL-001")
        await failing(RayBackend().initialize_ray("nobody"), ClusterError, "CAI-CLUSTER-001")
        await failing(RayBackend().get_status(), ClusterError, "CAI-CLUSTER-002")
        only_grpc = {**ECHO, "transport": "http"}
        said = await failing(start(only_grpc), EngineError, "CAI-ENGINE-003")
        assert "has no http transport; it has grpc" in said

    asyncio.run(all_of_them())


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


def test_example_engine_selection(environment: dict[str, str]) -> None:
    said = run_example("engine_selection.py", environment)
    assert "by default: vllm\nof the backend: echo\nof the configuration: sglang\n" in said
    assert "of the call: parrot\n" in said
    assert 'there is no engine "parot"' in said
    assert "selected runs on ray_serve_cai.engines.echo:EchoEngine over grpc" in said


@pytest.mark.vllm
def test_example_basic_vllm(environment: dict[str, str]) -> None:
    said = run_example("basic_vllm.py", environment)
    assert "basic-vllm is ready at http://127.0.0.1:" in said
    assert "cai" in said.splitlines()[-1]


class TestSGLang:
    """Through the gateway, on a stand-in for SGLang that lies in the project's folder."""

    @pytest.fixture(autouse=True)
    def _project(self, echo_cluster: Cluster) -> None:
        # Where the engine host, and with it SGLang's process, finds modules of the project.
        target = echo_cluster.cai.folder / "sglang"
        shutil.copytree(FAKES / "sglang", target, dirs_exist_ok=True)

    @pytest.mark.parametrize("transport", ["grpc", "http"])
    def test_chat(self, echo_cluster: Cluster, transport: str) -> None:
        engine = {"type": "sglang", "transport": transport, "args": {"tp_size": 1}}
        echo_cluster.deploy_ok("sg", engine=engine, resources=SMALL)
        assert "Where is it?" in ask(echo_cluster.client(), "sg", "Where is it?", max_tokens=100)
        row = echo_cluster.model("sg")
        assert (row["engine"], row["transport"]) == ("sglang", transport)
        assert row["engine_config"]["context_length"] == 512
        assert row["engine_config"]["endpoint"].startswith(f"{transport}://127.0.0.1:")
        programs = echo_cluster.commands("sglang.launch_server")
        assert len(programs) == 1
        echo_cluster.delete("sg")
        until(lambda: not any(p.is_running() for p in programs), 30, "the end of the server")

    def test_a_killed_host_takes_the_server_along(self, echo_cluster: Cluster) -> None:
        echo_cluster.deploy_ok("sg", engine={"type": "sglang"}, resources=SMALL)
        (server,) = echo_cluster.commands("sglang.launch_server")
        parent = server.parent()
        assert parent is not None
        assert "serving.host" in command_line(parent)
        parent.kill()
        until(lambda: not server.is_running(), 30, "the end of the server")
        until(lambda: echo_cluster.commands("sglang.launch_server"), 60, "a new server")
        echo_cluster.delete("sg")

    def test_example(self, environment: dict[str, str]) -> None:
        paths = os.pathsep.join([str(FAKES), str(ROOT)])
        mine = {**environment, "PYTHONPATH": paths, "GPUS": "0"}
        said = run_example("sglang_deployment.py", mine, "builtin:demo")
        assert '"mem_fraction_static": 0.85' in said
        assert 'did you mean "mem_fraction_static"?' in said
        assert "on-sglang is ready over grpc at http://127.0.0.1:" in said


def test_a_ray_that_the_caller_has_connected_to(cai: Cai) -> None:
    """The caller's connection stays, and the models run on the caller's own Ray."""
    program = """
import asyncio, json, ray
from ray_serve_cai.ray_backend import RayBackend

async def main():
    backend = RayBackend(default_engine="echo")
    url = await backend.initialize_ray()
    status = await backend.get_status()
    model = {"model": "builtin:demo", "name": "m", "resources": {"cpu": 1}}
    row = await backend.start_model(model)
    mine = ray.get(ray.remote(lambda: "still mine").options(num_cpus=0.5).remote())
    await backend.shutdown()
    after = ray.get(ray.remote(lambda: ray.is_initialized()).options(num_cpus=0.5).remote())
    print(json.dumps({"provider": status["provider"], "state": row["state"], "mine": mine,
                      "after": after, "url": url}))

ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
asyncio.run(main())
ray.shutdown()
"""
    Path(cai.environment()["HOME"]).mkdir()
    said = json.loads(run(["-c", program], cai.environment(), cai.folder).splitlines()[-1])
    assert said.pop("url").startswith("http://127.0.0.1:")
    assert said == {"provider": "existing", "state": "ready", "mine": "still mine", "after": True}


def run_example(name: str, environment: dict[str, str], *words: str) -> str:
    # The working directory is the project, whose packages are shipped: not the repository.
    return run([str(EXAMPLES / name), *words], environment, Path(environment["HOME"]).parent)


def run(words: list[str], environment: dict[str, str], cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, *words],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout
