"""Any engine without a server of its own, behind the gateway's gRPC protocol.

The gateway tokenizes, applies the chat template, detokenizes and watches stop strings, so only
token ids cross here. `serving.servicer_wire` has the messages.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
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
    RequestError,
    Unavailable,
    Unsupported,
)
from ray_serve_cai.engines.validate import validated
from ray_serve_cai.serving.merged import merged
from ray_serve_cai.serving.servicer_wire import (
    chunk_message,
    complete_message,
    embed_request,
    engine_request,
    status_of,
)
from ray_serve_cai.serving.tokenizer_files import TOKENIZER_CHUNK, tokenizer_zip

log = logging.getLogger(__name__)

# What the gateway's client expects of a server; vLLM's own gRPC server sets the same.
SERVER_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
)


class EngineServer:
    """The gRPC server of an engine."""

    def __init__(self, server: grpc.aio.Server, servicer: _Servicer) -> None:
        self._server, self._servicer = server, servicer

    @property
    def live(self) -> int:
        """Requests that have come and are not answered."""
        return self._servicer.live

    @property
    def progress(self) -> int:
        """Grows with each token or vector that the engine makes."""
        return self._servicer.made

    def refuse(self) -> None:
        """Take no request any more; the gateway asks another replica instead."""
        self._servicer.admits = False

    async def stop(self, grace: float) -> None:
        """Close the port; what still runs after `grace` seconds is cancelled."""
        await self._server.stop(grace)


async def serve_engine(
    engine: LLMEngine,
    config: EngineConfig,
    model_path: Path,
    host: str,
    port: int,
    *,
    check: bool = False,
) -> EngineServer:
    """Start a gRPC server for `engine` on host:port. With `check`, each stream is held to the
    contract: one that breaks it is an internal error that names the rule."""
    server = grpc.aio.server(options=SERVER_OPTIONS)
    servicer = _Servicer(engine, config, model_path, check)
    pb_grpc.add_VllmEngineServicer_to_server(servicer, server)
    checks = health.aio.HealthServicer()
    await checks.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    server.add_insecure_port(f"{host}:{port}")
    await server.start()
    return EngineServer(server, servicer)


class _Servicer(pb_grpc.VllmEngineServicer):  # type: ignore[misc]
    def __init__(
        self, engine: LLMEngine, config: EngineConfig, model_path: Path, check: bool
    ) -> None:
        self.admits = True
        self.made = 0
        self._engine = engine
        self._config = config
        self._model_path = model_path
        self._check = check
        self._model_config = _read_json(model_path / "config.json")
        self._ends = tuple(_ids(self._model_config.get("eos_token_id")))
        self._started = time.time()
        # By the gateway's id; a request for several answers has several.
        self._live: dict[str, list[GenerateContext]] = {}

    @property
    def live(self) -> int:
        return len(self._live)

    async def Generate(self, request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            self._admit("generate")
            answers = range(max(1, request.sampling_params.n))
            wanted = [engine_request(request, index, self._ends) for index in answers]
            self._refuse_options(wanted[0])
            streams = [
                self._answer(request.request_id, each, index, request.stream)
                for index, each in enumerate(wanted)
            ]
            async with aclosing(streams[0] if len(streams) == 1 else merged(streams)) as answer:
                async for response in answer:
                    yield response
        except Exception as error:  # noqa: BLE001 - the engine's own
            await _abort(context, request.request_id, error)

    async def Embed(self, request: Any, context: Any) -> Any:
        ctx = GenerateContext(request.request_id)
        self._live.setdefault(request.request_id, []).append(ctx)
        try:
            self._admit("embed")
            wanted = embed_request(request)
            values = await self._engine.embed(wanted, ctx)
            self.made += 1
            return pb.EmbedResponse(
                embedding=values,
                prompt_tokens=len(wanted.token_ids),
                embedding_dim=len(values),
            )
        except asyncio.CancelledError:
            await self._cancel(ctx)
            raise
        except Exception as error:  # noqa: BLE001 - the engine's own
            await _abort(context, request.request_id, error)
        finally:
            self._gone(request.request_id, ctx)

    async def _answer(
        self, request_id: str, request: PreprocessedRequest, index: int, stream: bool
    ) -> AsyncGenerator[Any]:
        ctx = GenerateContext(request.request_id)
        self._live.setdefault(request_id, []).append(ctx)
        answer: list[LLMEngineOutput] = []
        sent, prompt = 0, len(request.token_ids)
        outputs = self._engine.generate(request, ctx)
        try:
            async for output in validated(outputs) if self._check else outputs:
                answer.append(output)
                if output.token_ids:
                    ctx.notify_first_token()
                    sent += len(output.token_ids)
                    self.made += len(output.token_ids)
                    if stream:
                        yield chunk_message(output, prompt, sent, index)
                if output.finish_reason is FinishReason.ERROR:
                    raise RequestError(output.message or "the engine failed")
                if output.finish_reason is not None:
                    yield complete_message(output, answer, prompt, index)
        except (asyncio.CancelledError, GeneratorExit):
            # The client went away, while the engine worked or while an item was on its way to it:
            # the engine must free the request's slot.
            await self._cancel(ctx)
            raise
        finally:
            self._gone(request_id, ctx)

    def _admit(self, task: str) -> None:
        if not self.admits:
            raise Unavailable("this replica is shutting down")
        if self._config.task != task:
            can = "tokens" if self._config.task == "generate" else "embeddings"
            raise Unsupported(f"this model makes {can} only")

    def _refuse_options(self, request: PreprocessedRequest) -> None:
        unknown = sorted(request.options() - self._engine.options)
        if unknown:
            raise Unsupported(f"this model's engine does not take {', '.join(unknown)}")

    async def _cancel(self, ctx: GenerateContext) -> None:
        ctx.cancel()
        await self._engine.abort(ctx)

    def _gone(self, request_id: str, ctx: GenerateContext) -> None:
        left = self._live[request_id]
        left.remove(ctx)
        if not left:
            del self._live[request_id]

    async def Abort(self, request: Any, context: Any) -> Any:
        for request_id in request.request_ids:
            for ctx in list(self._live.get(request_id, ())):
                await self._cancel(ctx)
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
            is_generation=self._config.task == "generate",
            max_context_length=length,
            max_req_input_len=length,
            vocab_size=known.get("vocab_size", 0),
            model_type=known.get("model_type", ""),
            architectures=known.get("architectures", []),
            eos_token_ids=self._ends,
            bos_token_id=known.get("bos_token_id") or 0,
            pad_token_id=known.get("pad_token_id") or 0,
        )

    async def GetServerInfo(self, request: Any, context: Any) -> Any:
        return pb.GetServerInfoResponse(
            active_requests=self.live,
            uptime_seconds=time.time() - self._started,
            server_type="cai-grpc",
            data_parallel_size=1,
            max_num_seqs=self._config.max_num_seqs or 0,
        )

    async def GetLoads(self, request: Any, context: Any) -> Any:
        load = await self._engine.load()
        running, waiting = (load.running, load.waiting) if load else (self.live, 0)
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
        data = await asyncio.to_thread(tokenizer_zip, self._model_path)
        digest = hashlib.sha256(data).hexdigest()
        for start in range(0, len(data), TOKENIZER_CHUNK):
            last = start + TOKENIZER_CHUNK >= len(data)
            yield common_pb2.GetTokenizerChunk(
                data=data[start : start + TOKENIZER_CHUNK], sha256=digest if last else ""
            )


def _ids(value: int | list[int] | None) -> list[int]:
    return value if isinstance(value, list) else [] if value is None else [value]


async def _abort(context: Any, request_id: str, error: Exception) -> None:
    """End the call with the status that belongs to the engine's error."""
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if isinstance(error, RequestError):
        await context.abort(status_of(error), str(error))
    log.error("request %s: the engine failed", request_id, exc_info=error)
    await context.abort(grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}")


def _read_json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text())) if path.is_file() else {}
