"""Any engine with OpenAI's requests and replies, in one process, without Ray and the gateway.

For tests and notebooks: whole replies, no streaming. Through the gateway every engine has all of
OpenAI's API.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import httpx

from ray_serve_cai.engines.base import (
    EngineConfig,
    FinishReason,
    GenerateContext,
    LLMEngine,
    PreprocessedRequest,
    RequestError,
)
from ray_serve_cai.errors import EngineError

REPLY_SECONDS = 600.0


class EngineAdapter:
    """A started engine as `LLMEngineProtocol`: `config` is what its `start` returned,
    `engine_type` its name.

    One that answers at an HTTP endpoint is asked there. For any other, the tokenizer and the chat
    template of `model_path` are used, which needs `transformers`.
    """

    def __init__(
        self, engine_type: str, engine: LLMEngine, config: EngineConfig, model_path: Path
    ) -> None:
        self._engine_type, self._engine, self._config = engine_type, engine, config
        self._model_path = model_path
        self._tokenizer: Any = None

    @property
    def engine_type(self) -> str:
        return self._engine_type

    @property
    def model_name(self) -> str:
        return self._config.served_model_name or self._config.model

    async def completion(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The reply of `/v1/completions`; raises `EngineError` (CAI-ENGINE-003) for a refusal."""
        if self._by_http:
            return await self._asked("completions", request)
        prompt = request.get("prompt")
        if not isinstance(prompt, str):
            raise EngineError("CAI-ENGINE-003", "the request needs a prompt, as text")
        answer = await self._answer(request, self._tokens.encode(prompt))
        return self._reply("text_completion", answer, {"text": answer["text"]})

    async def chat_completion(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The reply of `/v1/chat/completions`; raises as `completion`."""
        if self._by_http:
            return await self._asked("chat/completions", request)
        messages = request.get("messages")
        if not isinstance(messages, Sequence) or not messages:
            raise EngineError("CAI-ENGINE-003", "the request needs messages")
        text = self._tokens.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=True
        )
        ids = self._tokens.encode(text, add_special_tokens=False)
        answer = await self._answer(request, ids)
        message = {"role": "assistant", "content": answer["text"]}
        return self._reply("chat.completion", answer, {"message": message})

    async def list_models(self) -> dict[str, Any]:
        """The reply of `/v1/models`."""
        card = {"id": self.model_name, "object": "model", "owned_by": self._engine_type}
        length = {"max_model_len": self._config.context_length}
        return {"object": "list", "data": [card | length]}

    async def health_check(self) -> dict[str, Any]:
        """`status`: `healthy` or `unhealthy`, the latter with a `message`."""
        try:
            await self._engine.health()
        except Exception as error:  # noqa: BLE001 - any failure of the engine is "not healthy"
            return {"status": "unhealthy", "message": f"{type(error).__name__}: {error}"}
        return {"status": "healthy"}

    @property
    def _by_http(self) -> bool:
        return (self._config.endpoint or "").startswith("http")

    @property
    def _tokens(self) -> Any:
        if self._tokenizer is None:
            try:
                from transformers import AutoTokenizer
            except ImportError as error:
                raise EngineError(
                    "CAI-ENGINE-002",
                    'asking an engine by text needs the package "transformers"',
                ) from error
            self._tokenizer = AutoTokenizer.from_pretrained(self._model_path)
        return self._tokenizer

    async def _asked(self, route: str, request: Mapping[str, Any]) -> dict[str, Any]:
        _refuse_stream(request)
        url = f"{self._config.endpoint}/v1/{route}"
        async with httpx.AsyncClient(timeout=REPLY_SECONDS, trust_env=False) as client:
            reply = await client.post(url, json={"model": self.model_name, **request})
        if reply.is_error:
            raise EngineError("CAI-ENGINE-003", f"the engine answered {reply.text}")
        return cast(dict[str, Any], reply.json())

    async def _answer(self, request: Mapping[str, Any], ids: list[int]) -> dict[str, Any]:
        """The text, why it ended, and the counts."""
        _refuse_stream(request)
        asked = PreprocessedRequest(
            request_id=uuid.uuid4().hex,
            token_ids=ids,
            max_tokens=request.get("max_tokens") or request.get("max_completion_tokens"),
            temperature=request.get("temperature"),
            top_p=request.get("top_p"),
            seed=request.get("seed"),
        )
        given: list[int] = []
        ended = None
        try:
            async for output in self._engine.generate(asked, GenerateContext(asked.request_id)):
                given += output.token_ids
                ended = output.finish_reason
        except RequestError as error:
            raise EngineError("CAI-ENGINE-003", str(error)) from error
        if ended is FinishReason.ERROR:
            raise EngineError("CAI-ENGINE-003", output.message or "the engine failed")
        text = self._tokens.decode(given, skip_special_tokens=True)
        counts = {"prompt_tokens": len(ids), "completion_tokens": len(given)}
        total = {"total_tokens": len(ids) + len(given)}
        return {"text": text, "finish_reason": str(ended), "usage": counts | total}

    def _reply(
        self, kind: str, answer: Mapping[str, Any], choice: Mapping[str, Any]
    ) -> dict[str, Any]:
        return {
            "id": uuid.uuid4().hex,
            "object": kind,
            "created": int(time.time()),
            "model": self.model_name,
            "choices": [{"index": 0, "finish_reason": answer["finish_reason"], **choice}],
            "usage": answer["usage"],
        }


def _refuse_stream(request: Mapping[str, Any]) -> None:
    if request.get("stream"):
        raise EngineError("CAI-ENGINE-003", "streams go through the gateway only")
