"""What an engine answers: items of a stream, the last of which says how it ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Self

TOKEN_COUNT_LIMIT = 2**32 - 1


class FinishReason(StrEnum):
    """Why a stream ended."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    ERROR = "error"


@dataclass(frozen=True)
class Usage:
    """Token counts of one request; `cached_tokens` are those of the prompt that were known."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int = 0


def usage(prompt_tokens: int, completion_tokens: int, cached_tokens: int = 0) -> Usage:
    """Counts with their total, which stops at 2**32 - 1 as the wire format does."""
    total = min(prompt_tokens + completion_tokens, TOKEN_COUNT_LIMIT)
    return Usage(prompt_tokens, completion_tokens, total, cached_tokens)


@dataclass(frozen=True)
class TokenLogprob:
    """The log probability of a token where it stands, None for the first of a prompt, and of the
    likeliest tokens there, as (token, log probability), the likeliest first."""

    token_id: int
    logprob: float | None
    top: Sequence[tuple[int, float]] = ()


@dataclass(frozen=True)
class LLMEngineOutput:
    """One item of a stream; terminal when `finish_reason` is set.

    `logprobs` has one entry for each of `token_ids`, when the request asks for them;
    `prompt_logprobs` one for each token of the prompt, on the first item. `matched_stop` is the
    stop token that ended the stream. `message` says what went wrong.
    """

    token_ids: Sequence[int] = ()
    finish_reason: FinishReason | None = None
    completion_usage: Usage | None = None
    message: str | None = None
    logprobs: Sequence[TokenLogprob] = ()
    prompt_logprobs: Sequence[TokenLogprob] = ()
    matched_stop: int | None = None

    @classmethod
    def stop(cls, matched: int | None = None) -> Self:
        return cls(finish_reason=FinishReason.STOP, matched_stop=matched)

    @classmethod
    def length(cls) -> Self:
        return cls(finish_reason=FinishReason.LENGTH)

    @classmethod
    def cancelled(cls) -> Self:
        return cls(finish_reason=FinishReason.CANCELLED)

    @classmethod
    def error(cls, message: str) -> Self:
        return cls(finish_reason=FinishReason.ERROR, message=message)

    def with_tokens(self, token_ids: Sequence[int]) -> Self:
        return replace(self, token_ids=tuple(token_ids))

    def with_usage(self, counts: Usage) -> Self:
        return replace(self, completion_usage=counts)

    def with_logprobs(self, logprobs: Sequence[TokenLogprob]) -> Self:
        return replace(self, logprobs=tuple(logprobs))


class chunk:
    """Constructors of non-terminal items."""

    @staticmethod
    def token(token_id: int) -> LLMEngineOutput:
        return LLMEngineOutput(token_ids=(token_id,))
