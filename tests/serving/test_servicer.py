"""The generic gRPC servicer over a real socket, as the gateway speaks to it."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from smg_grpc_proto import vllm_engine_pb2 as pb
from smg_grpc_proto import vllm_engine_pb2_grpc as pb_grpc
from smg_grpc_proto.generated import common_pb2

from ray_serve_cai.cluster.ports import free_port
from ray_serve_cai.engines.base import (
    GenerateContext,
    LLMEngineOutput,
    PreprocessedRequest,
    chunk,
)
from ray_serve_cai.engines.echo import EchoEngine
from ray_serve_cai.serving.servicer import serve_engine
from ray_serve_cai.storage.source import fetch

DEMO = fetch("builtin:demo")
Talk = Callable[[Any, grpc.aio.Channel], Awaitable[Any]]


class Broken(EchoEngine):
    async def generate(
        self, request: PreprocessedRequest, ctx: GenerateContext
    ) -> AsyncIterator[LLMEngineOutput]:
        yield chunk.token(1)
        yield LLMEngineOutput.error("the engine is on fire")

    async def health(self) -> None:
        raise RuntimeError("on fire")


def talk(what: Talk, engine: EchoEngine | None = None, model: Path = DEMO) -> Any:
    """Run `what` as a client of a real server with this engine."""
    made = engine or EchoEngine.from_args({"served_model_name": "chat"}, model)

    async def run() -> Any:
        port = free_port("127.0.0.1")
        server = await serve_engine(made, await made.start(1), model, "127.0.0.1", port)
        try:
            async with (
                asyncio.timeout(20),
                grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
            ):
                return await what(pb_grpc.VllmEngineStub(channel), channel)
        finally:
            await server.stop(grace=0)

    return asyncio.run(run())


def request(stream: bool = True, max_tokens: int | None = 4, **params: Any) -> Any:
    sampling = pb.SamplingParams(**params)
    if max_tokens is not None:
        sampling.max_tokens = max_tokens
    return pb.GenerateRequest(
        request_id="r1",
        tokenized=pb.TokenizedInput(input_ids=[11, 12, 13]),
        sampling_params=sampling,
        stream=stream,
    )


def generate(asked: Any, engine: EchoEngine | None = None) -> list[Any]:
    async def what(stub: Any, _: Any) -> list[Any]:
        return [reply async for reply in stub.Generate(asked)]

    replies: list[Any] = talk(what, engine)
    return replies


class TestGenerate:
    def test_stream(self) -> None:
        *chunks, last = generate(request())
        assert [list(it.chunk.token_ids) for it in chunks] == [[11], [12], [13], [11]]
        assert [it.chunk.completion_tokens for it in chunks] == [1, 2, 3, 4]
        assert list(last.complete.output_ids) == [11, 12, 13, 11]
        assert last.complete.finish_reason == "length"
        assert (last.complete.prompt_tokens, last.complete.completion_tokens) == (3, 4)

    def test_whole(self) -> None:
        (only,) = generate(request(stream=False))
        assert list(only.complete.output_ids) == [11, 12, 13, 11]

    def test_several_answers(self) -> None:
        replies = generate(request(stream=False, n=3))
        assert [reply.complete.index for reply in replies] == [0, 1, 2]

    def test_engine_that_fails(self) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            generate(request(), Broken({}, DEMO))
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert caught.value.details() == "the engine is on fire"

    def test_abort(self) -> None:
        async def what(stub: Any, _: Any) -> Any:
            call = stub.Generate(request(max_tokens=100_000))
            replies = aiter(call)
            await anext(replies)
            await stub.Abort(pb.AbortRequest(request_ids=["r1", "unknown"]))
            return [reply async for reply in replies][-1]

        last = talk(what, EchoEngine({"tokens_per_second": 100}, DEMO))
        assert last.complete.finish_reason == "abort"
        assert last.complete.completion_tokens < 100

    def test_client_that_goes_away_frees_the_engine(self) -> None:
        engine = EchoEngine({"tokens_per_second": 100}, DEMO)

        async def what(stub: Any, _: Any) -> None:
            call = stub.Generate(request(max_tokens=100_000))
            await anext(aiter(call))
            assert (await engine.load()).running == 1
            call.cancel()
            while (await engine.load()).running:  # the time-out of `talk` bounds it
                await asyncio.sleep(0.01)

        talk(what, engine)


class TestAbout:
    def test_model(self) -> None:
        async def what(stub: Any, _: Any) -> Any:
            return await stub.GetModelInfo(pb.GetModelInfoRequest())

        found = talk(what)
        assert found.served_model_name == "chat"
        assert found.is_generation
        known = json.loads((DEMO / "config.json").read_text())
        assert found.max_context_length == known["max_position_embeddings"]
        assert found.vocab_size == known["vocab_size"]

    def test_health(self) -> None:
        async def what(stub: Any, channel: Any) -> tuple[bool, int]:
            own = await stub.HealthCheck(pb.HealthCheckRequest())
            checks = health_pb2_grpc.HealthStub(channel)
            common = await checks.Check(health_pb2.HealthCheckRequest())
            return own.healthy, common.status

        assert talk(what) == (True, health_pb2.HealthCheckResponse.SERVING)

    def test_engine_that_is_not_healthy(self) -> None:
        async def what(stub: Any, _: Any) -> Any:
            return await stub.HealthCheck(pb.HealthCheckRequest())

        with pytest.raises(grpc.aio.AioRpcError):
            talk(what, Broken({}, DEMO))

    def test_load(self) -> None:
        async def what(stub: Any, _: Any) -> Any:
            call = stub.Generate(request(max_tokens=100_000))
            await anext(aiter(call))
            loads = await stub.GetLoads(pb.GetLoadsRequest())
            call.cancel()
            return loads.loads[0].num_running_reqs

        assert talk(what, EchoEngine({"tokens_per_second": 100}, DEMO)) == 1


class TestTokenizer:
    def test_comes_in_pieces_with_a_checksum(self) -> None:
        async def what(stub: Any, _: Any) -> list[Any]:
            asked = common_pb2.GetTokenizerRequest()
            return [piece async for piece in stub.GetTokenizer(asked)]

        pieces = talk(what)
        data = b"".join(piece.data for piece in pieces)
        assert [bool(piece.sha256) for piece in pieces] == [False] * (len(pieces) - 1) + [True]
        assert pieces[-1].sha256 == hashlib.sha256(data).hexdigest()
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = set(archive.namelist())
            assert archive.read("tokenizer.json") == (DEMO / "tokenizer.json").read_bytes()
        assert {"tokenizer_config.json", "config.json"} <= names
        assert not [name for name in names if name.endswith(".safetensors")]
