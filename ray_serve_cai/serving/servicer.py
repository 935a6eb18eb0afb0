"""Any engine without a server of its own, behind the gateway's gRPC protocol.

The messages are those of `smg_grpc_proto`'s `vllm_engine.proto`; the gateway tokenizes, applies
the chat template, detokenizes and watches stop strings, so only token ids cross here.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import time
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from smg_grpc_proto import vllm_engine_pb2 as pb
from smg_grpc_proto import vllm_engine_pb2_grpc as pb_grpc
from smg_grpc_proto.generated import common_pb2

from ray_serve_cai.engines.base import (
    EngineConfig,
    FinishReason,
    GenerateContext,
    LLMEngine,
    LLMEngineOutput,
    PreprocessedRequest,
)

TOKENIZER_CHUNK = 64 * 1024
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "config.json",
    "generation_config.json",
    "special_tokens_map.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
)
# What the gateway's client expects of a server; vLLM's own gRPC server sets the same.
SERVER_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
)


async def serve_engine(
    engine: LLMEngine, config: EngineConfig, model_path: Path, host: str, port: int
) -> grpc.aio.Server:
    """Start a gRPC server for `engine` on host:port; stop it with `server.stop()`."""
    server = grpc.aio.server(options=SERVER_OPTIONS)
    pb_grpc.add_VllmEngineServicer_to_server(_Servicer(engine, config, model_path), server)
    checks = health.aio.HealthServicer()
    await checks.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    server.add_insecure_port(f"{host}:{port}")
    await server.start()
    return server


class _Servicer(pb_grpc.VllmEngineServicer):  # type: ignore[misc]
    def __init__(self, engine: LLMEngine, config: EngineConfig, model_path: Path) -> None:
        self._engine = engine
        self._config = config
        self._model_path = model_path
        self._model_config = _read_json(model_path / "config.json")
        self._started = time.time()
        self._live: dict[str, GenerateContext] = {}

    async def Generate(self, request: Any, context: Any) -> AsyncIterator[Any]:
        params = request.sampling_params
        for index in range(max(1, params.n)):
            async for response in self._stream(request, context, index):
                yield response

    async def _stream(self, request: Any, context: Any, index: int) -> AsyncIterator[Any]:
        ctx = GenerateContext(request.request_id)
        self._live[ctx.request_id] = ctx
        sent: list[int] = []
        prompt = len(request.tokenized.input_ids)
        try:
            async for output in self._engine.generate(self._engine_request(request), ctx):
                if output.token_ids:
                    ctx.notify_first_token()
                    sent.extend(output.token_ids)
                    if request.stream:
                        yield _chunk(output, prompt, len(sent), index)
                if output.finish_reason is FinishReason.ERROR:
                    await context.abort(grpc.StatusCode.INTERNAL, output.message or "engine error")
                if output.finish_reason is not None:
                    yield _complete(output, sent, prompt, index)
        except asyncio.CancelledError:
            # The client went away: the engine must free the request's slot.
            ctx.cancel()
            await self._engine.abort(ctx)
            raise
        finally:
            self._live.pop(ctx.request_id, None)

    def _engine_request(self, request: Any) -> PreprocessedRequest:
        """The request with the model's own end tokens among the stops, unless it ignores them."""
        params = request.sampling_params
        ends = () if params.ignore_eos else _ids(self._model_config.get("eos_token_id"))
        return PreprocessedRequest(
            request_id=request.request_id,
            token_ids=tuple(request.tokenized.input_ids),
            max_tokens=params.max_tokens if params.HasField("max_tokens") else None,
            stop_token_ids=(*params.stop_token_ids, *ends),
            ignore_eos=params.ignore_eos,
            temperature=params.temperature if params.HasField("temperature") else None,
            top_p=params.top_p,
            seed=params.seed if params.HasField("seed") else None,
        )

    async def Abort(self, request: Any, context: Any) -> Any:
        for request_id in request.request_ids:
            ctx = self._live.get(request_id)
            if ctx is not None:
                ctx.cancel()
                await self._engine.abort(ctx)
        return pb.AbortResponse()

    async def HealthCheck(self, request: Any, context: Any) -> Any:
        await self._engine.health()
        return pb.HealthCheckResponse(healthy=True, message="ok")

    async def GetModelInfo(self, request: Any, context: Any) -> Any:
        known = self._model_config
        length = self._config.context_length or 0
        return pb.GetModelInfoResponse(
            model_path=str(self._model_path),
            served_model_name=self._config.served_model_name or self._config.model,
            tokenizer_path=str(self._model_path),
            is_generation=True,
            max_context_length=length,
            max_req_input_len=length,
            vocab_size=known.get("vocab_size", 0),
            model_type=known.get("model_type", ""),
            architectures=known.get("architectures", []),
            eos_token_ids=_ids(known.get("eos_token_id")),
            bos_token_id=known.get("bos_token_id") or 0,
            pad_token_id=known.get("pad_token_id") or 0,
        )

    async def GetServerInfo(self, request: Any, context: Any) -> Any:
        return pb.GetServerInfoResponse(
            active_requests=len(self._live),
            uptime_seconds=time.time() - self._started,
            server_type="cai-grpc",
            data_parallel_size=1,
            max_num_seqs=self._config.max_num_seqs or 0,
        )

    async def GetLoads(self, request: Any, context: Any) -> Any:
        load = await self._engine.load()
        running, waiting = (load.running, load.waiting) if load else (len(self._live), 0)
        return pb.GetLoadsResponse(
            dp_rank_count=1,
            loads=[
                pb.SchedulerLoad(
                    num_running_reqs=running,
                    num_waiting_reqs=waiting,
                    num_total_reqs=running + waiting,
                )
            ],
        )

    async def SubscribeKvEvents(self, request: Any, context: Any) -> AsyncIterator[Any]:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "no KV events from this engine")
        yield

    async def GetTokenizer(self, request: Any, context: Any) -> AsyncIterator[Any]:
        data = await asyncio.to_thread(_tokenizer_zip, self._model_path)
        digest = hashlib.sha256(data).hexdigest()
        for start in range(0, len(data), TOKENIZER_CHUNK):
            last = start + TOKENIZER_CHUNK >= len(data)
            yield common_pb2.GetTokenizerChunk(
                data=data[start : start + TOKENIZER_CHUNK], sha256=digest if last else ""
            )


def _ids(value: int | list[int] | None) -> list[int]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _chunk(output: LLMEngineOutput, prompt: int, sent: int, index: int) -> Any:
    return pb.GenerateResponse(
        chunk=pb.GenerateStreamChunk(
            token_ids=output.token_ids, prompt_tokens=prompt, completion_tokens=sent, index=index
        )
    )


def _complete(output: LLMEngineOutput, sent: list[int], prompt: int, index: int) -> Any:
    reason = "abort" if output.finish_reason is FinishReason.CANCELLED else output.finish_reason
    return pb.GenerateResponse(
        complete=pb.GenerateComplete(
            output_ids=sent,
            finish_reason=str(reason),
            prompt_tokens=prompt,
            completion_tokens=len(sent),
            index=index,
        )
    )


def _tokenizer_zip(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.iterdir()):
            if path.name in TOKENIZER_FILES or path.suffix in (".jinja", ".tiktoken"):
                archive.write(path, path.name)
    return buffer.getvalue()


def _read_json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text())) if path.is_file() else {}
