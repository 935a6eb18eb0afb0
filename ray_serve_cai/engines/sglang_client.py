"""Talking to the gRPC server that SGLang runs: readiness, health, load, generation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from smg_grpc_proto import sglang_scheduler_pb2 as pb
from smg_grpc_proto import sglang_scheduler_pb2_grpc as pb_grpc

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
SERVICE = "sglang.grpc.scheduler.SglangScheduler"
# The first attempts come before the server listens; gRPC's own pauses would grow to many seconds.
_CHANNEL_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
)


class SchedulerFront:
    """The servicer's gRPC port."""

    def __init__(self, host: str, port: int) -> None:
        self._channel = grpc.aio.insecure_channel(f"{host}:{port}", options=_CHANNEL_OPTIONS)
        self._stub = pb_grpc.SglangSchedulerStub(self._channel)
        self._checks = health_pb2_grpc.HealthStub(self._channel)

    async def answers(self) -> bool:
        """Whether the engine behind the port is ready."""
        try:
            await self.health()
        except (grpc.RpcError, ConnectionError):
            return False
        return True

    async def health(self) -> None:
        """Raise unless the scheduler lives. SGLang's own `HealthCheck` would make a token each
        time."""
        request = health_pb2.HealthCheckRequest(service=SERVICE)
        reply = await self._checks.Check(request, timeout=CALL_SECONDS)
        if reply.status != health_pb2.HealthCheckResponse.SERVING:
            raise ConnectionError("SGLang says that it is not serving")

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
        return EngineConfig(
            model=model.model_path,
            served_model_name=model.served_model_name or None,
            context_length=model.max_context_length or None,
            endpoint=endpoint,
        )

    async def load(self) -> EngineLoad | None:
        reply = await self._stub.GetLoads(
            pb.GetLoadsRequest(include=["core"]), timeout=CALL_SECONDS
        )
        return EngineLoad(
            running=sum(load.num_running_reqs for load in reply.loads),
            waiting=sum(load.num_waiting_reqs for load in reply.loads),
        )

    async def generate(
        self, request: PreprocessedRequest, ctx: GenerateContext
    ) -> AsyncIterator[LLMEngineOutput]:
        call = self._stub.Generate(_generate_request(request))
        stopped = asyncio.create_task(ctx.stopped())
        stopped.add_done_callback(lambda _: call.cancel() if ctx.is_stopped() else None)
        prompt, sent = len(request.token_ids), 0
        try:
            async for response in call:
                if response.HasField("chunk"):
                    sent += len(response.chunk.token_ids)
                    yield LLMEngineOutput(token_ids=tuple(response.chunk.token_ids))
                else:
                    done = response.complete.completion_tokens
                    limit = response.complete.finish_reason == "length"
                    ended = LLMEngineOutput.length() if limit else LLMEngineOutput.stop()
                    yield ended.with_usage(usage(prompt, done))
                    return
        except asyncio.CancelledError:
            # That of the call, not of the task that reads it.
            if not ctx.is_stopped():
                raise
            yield LLMEngineOutput.cancelled().with_usage(usage(prompt, sent))
        finally:
            stopped.cancel()
            call.cancel()

    async def close(self) -> None:
        await self._channel.close()


def _generate_request(request: PreprocessedRequest) -> Any:
    params = pb.SamplingParams(
        temperature=1.0 if request.temperature is None else request.temperature,
        top_p=request.top_p or 1.0,
        top_k=-1,
        repetition_penalty=1.0,
        n=1,
        ignore_eos=request.ignore_eos,
        stop_token_ids=list(request.stop_token_ids),
        skip_special_tokens=True,
    )
    if request.max_tokens is not None:
        params.max_new_tokens = request.max_tokens
    return pb.GenerateRequest(
        request_id=request.request_id,
        tokenized=pb.TokenizedInput(input_ids=list(request.token_ids)),
        sampling_params=params,
        stream=True,
    )
