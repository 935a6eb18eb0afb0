"""Any engine with OpenAI's requests and replies."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from ray_serve_cai.engines.adapter import EngineAdapter
from ray_serve_cai.engines.base import EngineConfig
from ray_serve_cai.engines.echo import EchoEngine
from ray_serve_cai.engines.protocols import LLMEngineProtocol
from ray_serve_cai.errors import EngineError
from ray_serve_cai.storage.source import fetch


def run(then: Callable[[EngineAdapter], Awaitable[Any]], **args: Any) -> Any:
    async def life() -> Any:
        folder = fetch("builtin:demo")
        engine = EchoEngine.from_args({"served_model_name": "mine", **args}, folder)
        config = await engine.start(1)
        try:
            return await then(EngineAdapter("echo", engine, config, folder))
        finally:
            await engine.cleanup()

    return asyncio.run(life())


def test_it_is_the_protocol() -> None:
    async def then(made: EngineAdapter) -> None:
        assert isinstance(made, LLMEngineProtocol)
        assert (made.engine_type, made.model_name) == ("echo", "mine")
        (card,) = (await made.list_models())["data"]
        assert card["id"] == "mine"
        assert card["max_model_len"] > 0
        assert await made.health_check() == {"status": "healthy"}

    run(then)


def test_completion() -> None:
    pytest.importorskip("transformers")

    async def then(made: EngineAdapter) -> None:
        whole = await made.completion({"prompt": "What is cai?", "max_tokens": 4})
        (choice,) = whole["choices"]
        assert choice["finish_reason"] == "length"
        assert "What is cai?".startswith(choice["text"])
        assert whole["usage"]["completion_tokens"] == 4
        total = whole["usage"]["prompt_tokens"] + 4
        assert whole["usage"]["total_tokens"] == total

    run(then)


def test_chat() -> None:
    pytest.importorskip("transformers")

    async def then(made: EngineAdapter) -> Any:
        messages = [{"role": "user", "content": "What is cai?"}]
        return await made.chat_completion({"messages": messages, "max_tokens": 50})

    whole = run(then)
    assert whole["object"] == "chat.completion"
    # The echo says the whole prompt, template and all.
    assert "What is cai?" in whole["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"prompt": "Hi", "stream": True}, "through the gateway only"),
        ({"prompt": ["a", "b"]}, "needs a prompt, as text"),
        ({}, "needs a prompt"),
    ],
)
def test_refusals(request_: dict[str, Any], said: str) -> None:
    with pytest.raises(EngineError, match=said) as caught:
        run(lambda made: made.completion(request_))
    assert caught.value.code == "CAI-ENGINE-003"


def test_what_an_engine_refuses_is_an_error_of_ours() -> None:
    pytest.importorskip("transformers")
    with pytest.raises(EngineError, match="may have 2048") as caught:
        run(lambda made: made.completion({"prompt": "Hi " * 5000}))
    assert caught.value.code == "CAI-ENGINE-003"


def test_an_engine_that_is_not_healthy() -> None:
    class Ill(EchoEngine):
        async def health(self) -> None:
            raise ConnectionError("gone")

    folder = fetch("builtin:demo")
    made = EngineAdapter("ill", Ill({}, folder), EngineConfig("m"), folder)
    found = asyncio.run(made.health_check())
    assert found == {"status": "unhealthy", "message": "ConnectionError: gone"}
