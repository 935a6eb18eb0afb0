"""The SGLang engine drives a stand-in of SGLang's server, as a process and over its protocols."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import psutil
import pytest

from ray_serve_cai.engines import sglang_config
from ray_serve_cai.engines.base import (
    EngineConfig,
    EngineLoad,
    FinishReason,
    GenerateContext,
    Listen,
    PreprocessedRequest,
)
from ray_serve_cai.engines.conformance import EngineConformance
from ray_serve_cai.engines.contract import _free_port
from ray_serve_cai.engines.sglang_engine import SGLangEngine
from ray_serve_cai.errors import EngineError, PlanError
from ray_serve_cai.storage.source import fetch

FAKES = Path(__file__).parents[1] / "fakes" / "sglang_package"
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True, scope="module")
def _stand_in() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(FAKES), str(ROOT)]))
        patch.syspath_prepend(str(FAKES))
        sglang_config.known_args.cache_clear()
        yield
    sglang_config.known_args.cache_clear()


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SGLANG_STAND_IN_RECORD", str(tmp_path / "started.json"))
    return tmp_path / "started.json"


def engine(
    transport: Any, host: str = "127.0.0.1", keys: tuple[str, ...] = (), **args: Any
) -> SGLangEngine:
    made = SGLangEngine.from_args({"served_model_name": "mine"} | args, fetch("builtin:demo"))
    made.listen(Listen(host, _free_port(), transport, keys))
    return made


def run(made: SGLangEngine, then: Callable[[EngineConfig], Awaitable[Any]]) -> Any:
    async def life() -> Any:
        try:
            return await then(await made.start(1))
        finally:
            await made.cleanup()
            await made.cleanup()

    return asyncio.run(life())


def servers() -> list[psutil.Process]:
    children = psutil.Process().children(recursive=True)
    return [each for each in children if "sglang.launch_server" in each.cmdline()]


class TestContract(EngineConformance):
    def make(self) -> SGLangEngine:
        return engine("grpc")


def test_life_over_grpc(record: Path) -> None:
    made = engine("grpc", tp_size=2, mem_fraction_static=0.5)

    async def then(config: EngineConfig) -> None:
        assert (config.served_model_name, config.context_length) == ("mine", 512)
        assert str(config.endpoint).startswith("grpc://127.0.0.1:")
        await made.health()
        await made.probe()
        assert await made.load() == EngineLoad(running=0, waiting=0)
        (server,) = servers()
        # Of the engine host's process group, with which it dies.
        assert os.getpgid(server.pid) == os.getpgid(0)

    run(made, then)
    assert servers() == []
    argv = json.loads(record.read_text())["argv"]
    assert {"--tp-size=2", "--mem-fraction-static=0.5", "--smg-grpc-mode"} <= set(argv)
    ports = dict(word.split("=") for word in argv if "port=" in word)
    # 10,000 above the port, SGLang's default, lies beyond the last port there is.
    assert ports["--grpc-port"] == ports["--port"] != ports["--smg-http-sidecar-port"]


def test_a_request_ends_at_its_limit_or_when_it_is_cancelled() -> None:
    made = engine("grpc")

    async def then(_: EngineConfig) -> None:
        outputs = []
        request = PreprocessedRequest("a", token_ids=(5, 6, 7, 8), max_tokens=3)
        async for output in made.generate(request, GenerateContext("a")):
            outputs.append(output)
        assert [token for output in outputs for token in output.token_ids] == [5, 6, 7]
        assert outputs[-1].finish_reason is FinishReason.LENGTH
        assert outputs[-1].completion_usage is not None
        assert outputs[-1].completion_usage.total_tokens == 7
        ctx = GenerateContext("b")
        request = PreprocessedRequest("b", token_ids=(5,) * 2000)
        outputs = []
        async for output in made.generate(request, ctx):
            outputs.append(output)
            ctx.cancel()
        assert outputs[-1].finish_reason is FinishReason.CANCELLED
        async with asyncio.timeout(10):
            while await made.load() != EngineLoad(running=0, waiting=0):
                await asyncio.sleep(0.01)

    run(made, then)


def test_life_over_http(record: Path) -> None:
    made = engine("http", keys=("sk-one", "sk-two"))

    async def then(config: EngineConfig) -> None:
        assert (config.served_model_name, config.context_length) == ("mine", 512)
        await made.health()
        await made.probe()
        assert await made.load() == EngineLoad(running=1, waiting=2)
        async with httpx.AsyncClient() as client:
            messages = [{"role": "user", "content": "Hi"}]
            asked = {"model": "mine", "messages": messages}
            reply = await client.post(f"{config.endpoint}/v1/chat/completions", json=asked)
        assert reply.json()["choices"][0]["message"]["content"] == "Hi"

    run(made, then)
    started = json.loads(record.read_text())
    assert "--enable-metrics" in started["argv"]
    assert "sk-" not in " ".join(started["argv"])
    assert started["env"]["SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION"] == "0"


def test_variables_of_the_spec_win(record: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION", "1")
    run(engine("http"), lambda _: asyncio.sleep(0))
    env = json.loads(record.read_text())["env"]
    assert env["SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION"] == "1"


def test_http_without_a_key_is_not_opened_to_other_machines() -> None:
    with pytest.raises(EngineError, match=r"without them on 10\.1\.2\.3") as caught:
        run(engine("http", host="10.1.2.3", keys=("k",)), lambda _: asyncio.sleep(0))
    assert caught.value.hint == "Use `transport: grpc`."


def test_token_ids_are_for_grpc() -> None:
    made = engine("http")

    async def then(_: EngineConfig) -> None:
        made.generate(PreprocessedRequest("a", token_ids=(1,)), GenerateContext("a"))

    with pytest.raises(EngineError, match="grpc transport only"):
        run(made, then)


def test_an_option_that_sglang_does_not_have() -> None:
    with pytest.raises(PlanError, match='did you mean "tp_size"'):
        engine("grpc", tp_sise=2)


def test_a_server_that_ends() -> None:
    made = engine("grpc", enable_metrics="yes")
    with pytest.raises(EngineError, match="SGLang ended with status 2") as caught:
        run(made, lambda _: asyncio.sleep(0))
    assert caught.value.code == "CAI-ENGINE-005"


def test_a_server_that_is_killed_is_not_healthy() -> None:
    made = engine("grpc")

    async def then(_: EngineConfig) -> None:
        (server,) = servers()
        server.kill()
        async with asyncio.timeout(10):
            while (code := await trouble(made)) != "CAI-ENGINE-005":
                assert code is None or code == "UNAVAILABLE"
                await asyncio.sleep(0.01)

    run(made, then)


async def trouble(made: SGLangEngine) -> str | None:
    """What its health says: the connection breaks before the status of the process comes."""
    try:
        await made.health()
    except EngineError as error:
        return error.code
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return None
