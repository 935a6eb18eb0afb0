"""Talking to the gRPC server that a vLLM engine runs: readiness, health, load, generation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from smg_grpc_proto import vllm_engine_pb2 as pb
from smg_grpc_proto import vllm_engine_pb2_grpc as pb_grpc

from ray_serve_cai.engines.base import (
    EngineConfig,
    EngineLoad,
    GenerateContext,
    LLMEngineOutput,
    PreprocessedRequest,
    usage,
)

CALL_SECONDS = 5.0
PROBE_SECONDS = 120.0
# The first attempts come before the server listens; gRPC's own pauses would grow to many seconds.
_CHANNEL_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
)


class GrpcFront:
    """The servicer's gRPC port."""

    def __init__(self, host: str, port: int) -> None:
        self._channel = grpc.aio.insecure_channel(f"{host}:{port}", options=_CHANNEL_OPTIONS)
        self._stub = pb_grpc.VllmEngineStub(self._channel)

    async def answers(self) -> bool:
        """Whether the engine behind the port is ready."""
        try:
            reply = await self._stub.HealthCheck(pb.HealthCheckRequest(), timeout=CALL_SECONDS)
        except grpc.RpcError:
            return False
        return bool(reply.healthy)

    async def health(self) -> None:
        reply = await self._stub.HealthCheck(pb.HealthCheckRequest(), timeout=CALL_SECONDS)
        if not reply.healthy:
            raise ConnectionError(reply.message or "the engine says it is not healthy")

    async def probe(self) -> None:
        """One token, or one embedding; raises what the engine says."""
        model = await self._stub.GetModelInfo(pb.GetModelInfoRequest(), timeout=CALL_SECONDS)
        if not model.is_generation:
            prompt = pb.TokenizedInput(input_ids=[1])
            request = pb.EmbedRequest(request_id="probe", tokenized=prompt)
            await self._stub.Embed(request, timeout=PROBE_SECONDS)
            return
        request = PreprocessedRequest("probe", token_ids=(1,), max_tokens=1)
        async with asyncio.timeout(PROBE_SECONDS):
            async for _ in self.generate(request, GenerateContext("probe")):
                pass

    async def config(self, endpoint: str) -> EngineConfig:
        model = await self._stub.GetModelInfo(pb.GetModelInfoRequest(), timeout=CALL_SECONDS)
        server = await self._stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=CALL_SECONDS)
        return EngineConfig(
            model=model.model_path,
            served_model_name=model.served_model_name or None,
            context_length=model.max_context_length or None,
            kv_cache_block_size=server.block_size or None,
            max_num_seqs=server.max_num_seqs or None,
            endpoint=endpoint,
        )

    async def load(self) -> EngineLoad | None:
        reply = await self._stub.GetLoads(pb.GetLoadsRequest(), timeout=CALL_SECONDS)
        return EngineLoad(
            running=sum(load.num_running_reqs for load in reply.loads),
            waiting=sum(load.num_waiting_reqs for load in reply.loads),
        )

    async def generate(
        self, request: PreprocessedRequest, ctx: GenerateContext
    ) -> AsyncIterator[LLMEngineOutput]:
        call = self._stub.Generate(_generate_request(request))
        prompt, sent = len(request.token_ids), 0
        try:
            async for response in call:
                if ctx.is_stopped():
                    yield LLMEngineOutput.cancelled().with_usage(usage(prompt, sent))
                    return
                if response.HasField("chunk"):
                    sent += len(response.chunk.token_ids)
                    yield LLMEngineOutput(token_ids=tuple(response.chunk.token_ids))
                else:
                    done = response.complete.completion_tokens
                    ended = LLMEngineOutput.length() if _hit_limit(response) else _stopped()
                    yield ended.with_usage(usage(prompt, done))
                    return
        finally:
            call.cancel()

    async def close(self) -> None:
        await self._channel.close()


def _generate_request(request: PreprocessedRequest) -> Any:
    params = pb.SamplingParams(
        top_p=request.top_p or 1.0,
        repetition_penalty=1.0,
        n=1,
        ignore_eos=request.ignore_eos,
        stop_token_ids=list(request.stop_token_ids),
        skip_special_tokens=True,
    )
    if request.max_tokens is not None:
        params.max_tokens = request.max_tokens
    if request.temperature is not None:
        params.temperature = request.temperature
    if request.seed is not None:
        params.seed = request.seed
    return pb.GenerateRequest(
        request_id=request.request_id,
        tokenized=pb.TokenizedInput(input_ids=list(request.token_ids)),
        sampling_params=params,
        stream=True,
    )


def _hit_limit(response: Any) -> bool:
    return bool(response.complete.finish_reason == "length")


def _stopped() -> LLMEngineOutput:
    return LLMEngineOutput.stop()
