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
    OPTIONS,
    Constraint,
    ContextLengthExceeded,
    GenerateContext,
    InvalidRequest,
    LLMEngineOutput,
    Overloaded,
    PreprocessedRequest,
    RequestError,
    Unavailable,
    Unsupported,
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


class NotHere(RequestError):
    status = 404


class Strange(RequestError):
    status = 599


class Refuses(EchoEngine):
    """Raises what it is given; after one token, if `late`."""

    def __init__(self, error: Exception, *, late: bool = False) -> None:
        super().__init__({}, DEMO)
        self._error, self._late = error, late

    async def generate(
        self, request: PreprocessedRequest, ctx: GenerateContext
    ) -> AsyncIterator[LLMEngineOutput]:
        if self._late:
            yield chunk.token(1)
        raise self._error


class GoesOn(EchoEngine):
    """Says something after its last word."""

    async def generate(
        self, request: PreprocessedRequest, ctx: GenerateContext
    ) -> AsyncIterator[LLMEngineOutput]:
        async for item in super().generate(request, ctx):
            yield item
        yield chunk.token(1)


class Floods(EchoEngine):
    """Makes tokens faster than anybody reads, and keeps its context."""

    ctx: GenerateContext | None = None
    aborted = False

    async def generate(
        self, request: PreprocessedRequest, ctx: GenerateContext
    ) -> AsyncIterator[LLMEngineOutput]:
        self.ctx = ctx
        while True:
            yield chunk.token(1).with_tokens([1] * 10_000)

    async def abort(self, ctx: GenerateContext) -> None:
        self.aborted = ctx is self.ctx


class Notes(EchoEngine):
    """Keeps the requests."""

    options = OPTIONS

    def __init__(self) -> None:
        super().__init__({}, DEMO)
        self.requests: list[PreprocessedRequest] = []

    async def generate(
        self, request: PreprocessedRequest, ctx: GenerateContext
    ) -> AsyncIterator[LLMEngineOutput]:
        self.requests.append(request)
        async for item in super().generate(request, ctx):
            yield item


def talk(
    what: Talk, engine: EchoEngine | None = None, model: Path = DEMO, *, check: bool = False
) -> Any:
    """Run `what` as a client of a real server with this engine."""
    made = engine or EchoEngine.from_args({"served_model_name": "chat"}, model)

    async def run() -> Any:
        port = free_port("127.0.0.1")
        server = await serve_engine(
            made, await made.start(1), model, "127.0.0.1", port, check=check
        )
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

    @pytest.mark.parametrize("late", [False, True])
    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (InvalidRequest("no"), grpc.StatusCode.INVALID_ARGUMENT),
            (ContextLengthExceeded("no"), grpc.StatusCode.INVALID_ARGUMENT),
            (Unsupported("no"), grpc.StatusCode.INVALID_ARGUMENT),
            (Overloaded("no"), grpc.StatusCode.RESOURCE_EXHAUSTED),
            (Unavailable("no"), grpc.StatusCode.UNAVAILABLE),
            (RequestError("no"), grpc.StatusCode.INTERNAL),
            (NotHere("no"), grpc.StatusCode.INVALID_ARGUMENT),
            (Strange("no"), grpc.StatusCode.INTERNAL),
            (KeyError("no"), grpc.StatusCode.INTERNAL),
        ],
        ids=lambda it: type(it).__name__ if isinstance(it, Exception) else "",
    )
    def test_errors_of_the_engine(
        self, error: Exception, code: grpc.StatusCode, late: bool
    ) -> None:
        with pytest.raises(grpc.aio.AioRpcError, match="no") as caught:
            generate(request(), Refuses(error, late=late))
        assert caught.value.code() is code

    def test_answers_of_one_request_run_at_once(self) -> None:
        replies = generate(
            request(n=2, max_tokens=8), EchoEngine({"tokens_per_second": 100}, DEMO)
        )
        order = [reply.chunk.index for reply in replies if reply.HasField("chunk")]
        assert order != sorted(order)
        ends = {it.complete.index: it.complete for it in replies if it.HasField("complete")}
        assert {index: it.completion_tokens for index, it in ends.items()} == {0: 8, 1: 8}

    def test_one_answer_that_fails_ends_them_all(self) -> None:
        with pytest.raises(grpc.aio.AioRpcError, match="full"):
            generate(request(n=3), Refuses(Overloaded("full"), late=True))

    def test_logprobs(self) -> None:
        *chunks, last = generate(request(logprobs=2, prompt_logprobs=0))
        first = chunks[0].chunk
        assert list(first.output_logprobs.token_ids) == [11]
        assert first.output_logprobs.top_logprobs[0].token_ids[0] == 11
        assert list(first.input_logprobs.token_ids) == [11, 12, 13]
        assert not first.input_logprobs.token_logprobs[0].HasField("value")
        assert not chunks[1].chunk.HasField("input_logprobs")
        assert list(last.complete.output_logprobs.token_ids) == [11, 12, 13, 11]

    def test_every_option_reaches_the_engine(self) -> None:
        engine = Notes()
        generate(
            request(
                stream=False,
                n=2,
                seed=7,
                temperature=0.5,
                top_p=0.9,
                top_k=3,
                min_p=0.5,
                frequency_penalty=0.5,
                presence_penalty=-0.5,
                repetition_penalty=1.5,
                min_tokens=1,
                stop=["end"],
                stop_token_ids=[99],
                ignore_eos=True,
                logit_bias={5: 2.0},
                logprobs=1,
                prompt_logprobs=0,
                regex="a+",
            ),
            engine,
        )
        first, second = sorted(engine.requests, key=lambda it: it.request_id)
        assert (first.request_id, second.request_id) == ("r1-0", "r1-1")
        assert (first.seed, second.seed) == (7, 8)
        assert first.options() == OPTIONS
        assert (first.temperature, first.top_p, first.top_k) == (0.5, pytest.approx(0.9), 3)
        assert (first.frequency_penalty, first.presence_penalty) == (0.5, -0.5)
        assert (first.repetition_penalty, first.min_p, first.min_tokens) == (1.5, 0.5, 1)
        assert (first.stop, first.stop_token_ids, first.ignore_eos) == (("end",), (99,), True)
        assert (first.logit_bias, first.logprobs, first.prompt_logprobs) == ({5: 2.0}, 1, 0)
        assert first.constraint == Constraint("regex", "a+")

    def test_what_is_not_asked_is_none(self) -> None:
        engine = Notes()
        generate(request(top_p=1, repetition_penalty=1, n=1), engine)
        assert engine.requests[0].options() == set()

    @pytest.mark.parametrize(
        ("params", "name"), [({"top_k": 5}, "top_k"), ({"json_object": True}, "constraint")]
    )
    def test_option_that_the_engine_does_not_have(self, params: Any, name: str) -> None:
        with pytest.raises(grpc.aio.AioRpcError, match=f"does not take {name}") as caught:
            generate(request(**params))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT

    def test_broken_contract_is_named_when_streams_are_checked(self) -> None:
        async def what(stub: Any, _: Any) -> list[Any]:
            return [reply async for reply in stub.Generate(request())]

        assert talk(what, GoesOn({}, DEMO))
        with pytest.raises(grpc.aio.AioRpcError, match="chunk-after-terminal"):
            talk(what, GoesOn({}, DEMO), check=True)

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

    @pytest.mark.parametrize("answers", [1, 2])
    def test_client_that_goes_away_without_reading(self, answers: int) -> None:
        """The engine has nothing to wait for: the item that is being sent is what ends."""
        engine = Floods({}, DEMO)

        async def what(stub: Any, _: Any) -> None:
            call = stub.Generate(request(n=answers))
            await anext(aiter(call))
            call.cancel()
            while not engine.aborted:  # the time-out of `talk` bounds it
                await asyncio.sleep(0.01)
            assert engine.ctx is not None
            assert engine.ctx.is_stopped()

        talk(what, engine)

    def test_request_cancelled_in_the_queue_never_runs(self) -> None:
        engine = EchoEngine({"tokens_per_second": 100, "max_running": 1}, DEMO)

        async def what(stub: Any, _: Any) -> None:
            first = stub.Generate(request(max_tokens=100_000))
            await anext(aiter(first))
            second = stub.Generate(request(max_tokens=1))
            reading = asyncio.ensure_future(anext(aiter(second)))
            while not (await engine.load()).waiting:
                await asyncio.sleep(0.01)
            second.cancel()
            async with asyncio.timeout(1):
                while (await engine.load()).waiting:
                    await asyncio.sleep(0.01)
            with pytest.raises(asyncio.CancelledError):
                await reading
            assert (await engine.load()).running == 1
            first.cancel()

        talk(what, engine)


class TestEmbed:
    def embed(self, engine: EchoEngine) -> Any:
        async def what(stub: Any, _: Any) -> Any:
            prompt = pb.TokenizedInput(input_ids=[11, 12])
            return await stub.Embed(pb.EmbedRequest(request_id="r1", tokenized=prompt))

        return talk(what, engine)

    def test_vector(self) -> None:
        reply = self.embed(EchoEngine({"embed": 4}, DEMO))
        assert (len(reply.embedding), reply.embedding_dim, reply.prompt_tokens) == (4, 4, 2)

    def test_model_that_generates(self) -> None:
        with pytest.raises(grpc.aio.AioRpcError, match="makes tokens only"):
            self.embed(EchoEngine({}, DEMO))

    def test_generating_with_a_model_that_embeds(self) -> None:
        with pytest.raises(grpc.aio.AioRpcError, match="makes embeddings only"):
            generate(request(), EchoEngine({"embed": 4}, DEMO))


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
