"""Between the gateway's gRPC messages (`vllm_engine.proto`) and the engine contract."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import grpc
from smg_grpc_proto import vllm_engine_pb2 as pb

from ray_serve_cai.engines.base import (
    Constraint,
    FinishReason,
    InvalidRequest,
    LLMEngineOutput,
    PreprocessedRequest,
    RequestError,
    TokenLogprob,
    Unsupported,
)

# What smg 1.13.0 makes of them: the HTTP status again, before the first token. 429 and 503 it
# first tries four times more, on another replica where there is one.
_STATUS: dict[int, grpc.StatusCode] = {
    HTTPStatus.BAD_REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
    HTTPStatus.TOO_MANY_REQUESTS: grpc.StatusCode.RESOURCE_EXHAUSTED,
    HTTPStatus.SERVICE_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
}


def status_of(error: RequestError) -> grpc.StatusCode:
    """Any other status from 400 to 499 is the client's error too."""
    other = grpc.StatusCode.INTERNAL
    if HTTPStatus.BAD_REQUEST <= error.status < HTTPStatus.INTERNAL_SERVER_ERROR:
        other = grpc.StatusCode.INVALID_ARGUMENT
    return _STATUS.get(error.status, other)


def engine_request(request: Any, index: int, ends: Sequence[int]) -> PreprocessedRequest:
    """The answer number `index` of a `GenerateRequest`; `ends` are the model's own end tokens.

    Raises `InvalidRequest` for what has no token ids.
    """
    params = request.sampling_params
    # As vLLM does it: with one seed for all, all answers would be the same.
    seed = params.seed + index if params.HasField("seed") else None
    return PreprocessedRequest(
        request_id=f"{request.request_id}-{index}" if params.n > 1 else request.request_id,
        token_ids=_token_ids(request),
        max_tokens=params.max_tokens if params.HasField("max_tokens") else None,
        stop_token_ids=(*params.stop_token_ids, *(() if params.ignore_eos else ends)),
        ignore_eos=params.ignore_eos,
        temperature=params.temperature if params.HasField("temperature") else None,
        top_p=params.top_p or None,
        seed=seed,
        stop=tuple(params.stop),
        # Zero, and 1 for the repetition penalty, are what the gateway sends for "not asked".
        top_k=params.top_k or None,
        min_p=params.min_p or None,
        frequency_penalty=params.frequency_penalty or None,
        presence_penalty=params.presence_penalty or None,
        repetition_penalty=None
        if params.repetition_penalty == 1
        else params.repetition_penalty or None,
        min_tokens=params.min_tokens or None,
        logit_bias=dict(params.logit_bias),
        logprobs=params.logprobs if params.HasField("logprobs") else None,
        prompt_logprobs=params.prompt_logprobs if params.HasField("prompt_logprobs") else None,
        constraint=_constraint(params),
    )


def embed_request(request: Any) -> PreprocessedRequest:
    return PreprocessedRequest(request.request_id, tuple(request.tokenized.input_ids))


def chunk_message(output: LLMEngineOutput, prompt: int, sent: int, index: int) -> Any:
    """One item of a stream; `sent` counts the answer's tokens with these."""
    return pb.GenerateResponse(
        chunk=pb.GenerateStreamChunk(
            token_ids=output.token_ids,
            prompt_tokens=prompt,
            completion_tokens=sent,
            output_logprobs=_output_logprobs(output.logprobs),
            input_logprobs=_input_logprobs(output.prompt_logprobs),
            index=index,
        )
    )


def complete_message(
    last: LLMEngineOutput, answer: Sequence[LLMEngineOutput], prompt: int, index: int
) -> Any:
    """The end of an answer, with all of its tokens."""
    reason = "abort" if last.finish_reason is FinishReason.CANCELLED else last.finish_reason
    tokens = [token for item in answer for token in item.token_ids]
    stop = {} if last.matched_stop is None else {"matched_token_id": last.matched_stop}
    return pb.GenerateResponse(
        complete=pb.GenerateComplete(
            output_ids=tokens,
            finish_reason=str(reason),
            prompt_tokens=prompt,
            completion_tokens=len(tokens),
            cached_tokens=last.completion_usage.cached_tokens if last.completion_usage else 0,
            output_logprobs=_output_logprobs([each for it in answer for each in it.logprobs]),
            input_logprobs=_input_logprobs([p for it in answer for p in it.prompt_logprobs]),
            index=index,
            **stop,
        )
    )


def _token_ids(request: Any) -> tuple[int, ...]:
    if request.WhichOneof("input") != "tokenized":
        raise InvalidRequest("the prompt must come as token ids")
    if request.HasField("mm_inputs") or request.HasField("media_refs"):
        raise Unsupported("this model takes text only")
    return tuple(request.tokenized.input_ids)


def _constraint(params: Any) -> Constraint | None:
    kind = params.WhichOneof("constraint")
    if kind is None:
        return None
    if kind == "json_object":
        return Constraint(kind)
    value = getattr(params, kind)
    return Constraint(kind, tuple(value.choices) if kind == "choice" else value)


def _output_logprobs(entries: Sequence[TokenLogprob]) -> Any:
    if not entries:
        return None
    return pb.OutputLogProbs(
        token_logprobs=[each.logprob or 0.0 for each in entries],
        token_ids=[each.token_id for each in entries],
        top_logprobs=[_top(each) for each in entries],
    )


def _input_logprobs(entries: Sequence[TokenLogprob]) -> Any:
    if not entries:
        return None
    return pb.InputLogProbs(
        token_logprobs=[pb.InputTokenLogProb(value=each.logprob) for each in entries],
        token_ids=[each.token_id for each in entries],
        top_logprobs=[_top(each) for each in entries],
    )


def _top(entry: TokenLogprob) -> Any:
    return pb.TopLogProbs(
        token_ids=[token for token, _ in entry.top], values=[value for _, value in entry.top]
    )
