from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from ray_serve_cai.engines import server_process
from ray_serve_cai.engines.base import EngineConfig, EngineLoad, Listen
from ray_serve_cai.engines.command import CommandEngine
from ray_serve_cai.engines.contract import _free_port
from ray_serve_cai.errors import EngineError, PlanError

PROGRAM = str(Path(__file__).with_name("small_server.py"))


def engine(*modes: str, host: str = "127.0.0.1", keys: tuple[str, ...] = (), **args: Any) -> Any:
    command = [sys.executable, PROGRAM, "{name}", "{host}", "{port}", *modes]
    given = {"command": command, "health": "/ready", "served_model_name": "mine"} | args
    made = CommandEngine.from_args(given, Path("/models/mine"))
    made.listen(Listen(host, _free_port(), "http", keys))
    return made


def run(made: CommandEngine, then: Callable[[EngineConfig], Awaitable[Any]]) -> Any:
    """What `then` returns between start and cleanup."""

    async def life() -> Any:
        try:
            return await then(await made.start(1))
        finally:
            await made.cleanup()
            await made.cleanup()

    return asyncio.run(life())


async def healthy(made: Any) -> bool:
    try:
        await made.health()
    except (EngineError, httpx.HTTPError):
        return False
    return True


def programs() -> list[psutil.Process]:
    return [p for p in psutil.Process().children(recursive=True) if PROGRAM in p.cmdline()]


def test_life_of_a_server() -> None:
    made = engine("slow", gauges=["app_running", "app_waiting"], env={"MINE": "yes"})

    async def then(config: EngineConfig) -> None:
        assert (config.served_model_name, config.context_length) == ("mine", 77)
        assert config.endpoint is not None
        await made.health()
        await made.probe()
        assert await made.load() == EngineLoad(running=3, waiting=4)
        async with httpx.AsyncClient() as client:
            reply = await client.post(f"{config.endpoint}/v1/completions", json={"model": "mine"})
        assert reply.json() == {"model": "mine", "secret": "yes"}
        assert len(programs()) == 1

    run(made, then)
    assert programs() == []


def test_load_is_not_known_without_gauges() -> None:
    made = engine()

    async def then(_: EngineConfig) -> Any:
        return await made.load()

    assert run(made, then) is None


def test_a_model_that_only_embeds_is_probed_so() -> None:
    made = engine("embeds")
    run(made, lambda _: made.probe())


def test_a_server_that_cannot_answer_is_not_ready() -> None:
    made = engine("broken")
    with pytest.raises(httpx.HTTPStatusError):
        run(made, lambda _: made.probe())


def test_a_program_that_ends() -> None:
    with pytest.raises(EngineError, match="the command ended with status 3"):
        run(engine("dies"), lambda _: asyncio.sleep(0))


def test_a_program_that_is_killed_is_not_healthy() -> None:
    made = engine()

    async def then(_: EngineConfig) -> None:
        (program,) = programs()
        program.kill()
        async with asyncio.timeout(30):
            while await healthy(made):
                await asyncio.sleep(0.01)

    run(made, then)


def test_one_that_ignores_sigterm_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_process, "STOP_SECONDS", 0.3)
    run(engine("deaf"), lambda _: asyncio.sleep(0))
    assert programs() == []


def test_no_such_program() -> None:
    with pytest.raises(EngineError, match="/no/such: No such file") as caught:
        run(engine(command=["/no/such", "{port}"]), lambda _: asyncio.sleep(0))
    assert caught.value.code == "CAI-ENGINE-002"


def test_cleanup_without_start() -> None:
    asyncio.run(engine().cleanup())


def test_open_only_when_asked() -> None:
    made = engine(host="10.1.2.3", keys=("k",))
    with pytest.raises(EngineError, match=r"it would listen on 10\.1\.2\.3"):
        run(made, lambda _: asyncio.sleep(0))
    # On loopback, or without keys, there is nothing to open.
    run(engine(keys=("k",)), lambda _: asyncio.sleep(0))


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({}, "engine.args.command: must be a list of words"),
        ({"command": "vllm serve"}, "must be a list of words"),
        ({"command": []}, "must be a list of words"),
        ({"command": ["vllm", 8000]}, "must be a list of words"),
        ({"command": ["vllm"]}, "no word has {port}"),
        ({"command": ["{port}"], "prot": 1}, "engine.args.prot: a command takes command, env"),
    ],
)
def test_arguments_are_checked(args: dict[str, Any], said: str) -> None:
    with pytest.raises(PlanError) as caught:
        CommandEngine.from_args(args, Path("/m"))
    assert said in caught.value.message


def test_other_braces_stay() -> None:
    made = engine(command=["x", '{"a": {"b": 1}}', "{model}:{port}"])
    words = made._command(Listen("127.0.0.1", 80, "http"))
    assert words == ["x", '{"a": {"b": 1}}', "/models/mine:80"]
