"""What an engine is asked for, and the ways to refuse it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

# What reaches an engine only if it names it in `LLMEngine.options`: a request that asks another
# engine for one of them is refused, since a client would take the answer for what it asked.
OPTIONS = frozenset(
    {
        *("top_k", "min_p", "frequency_penalty", "presence_penalty", "repetition_penalty"),
        *("min_tokens", "logit_bias", "logprobs", "prompt_logprobs", "constraint"),
    }
)


@dataclass(frozen=True)
class Constraint:
    """What the answer must match. `value` holds the schema (JSON as text), expression, grammar or
    tag, the allowed answers of a `choice`, and nothing for a `json_object`."""

    kind: Literal["json_schema", "regex", "grammar", "structural_tag", "json_object", "choice"]
    value: str | tuple[str, ...] = ""


@dataclass(frozen=True)
class PreprocessedRequest:
    """One answer to be made, tokenized by the gateway: of a request with n > 1 each answer comes
    as a request of its own, at the same time.

    `max_tokens` of None means up to the context; a None elsewhere means that it was not asked
    for. `stop` is for the engine's information, since the gateway watches these words.
    `logprobs` and `prompt_logprobs` are the number of alternatives wanted beside each token, 0
    for the token's own alone and -1 for all.
    """

    request_id: str
    token_ids: Sequence[int]
    max_tokens: int | None = None
    stop_token_ids: Sequence[int] = ()
    ignore_eos: bool = False
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: Sequence[str] = ()
    top_k: int | None = None
    min_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    min_tokens: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    constraint: Constraint | None = None

    def options(self) -> set[str]:
        """Which of `OPTIONS` this request asks for."""
        return {name for name in OPTIONS if getattr(self, name) not in (None, {})}


class RequestError(Exception):
    """A request that gets no answer, or no more of it; raised by `generate` and `embed`.

    It ends the stream in place of a terminal item. `status` is the HTTP status for the client.
    The message is shown to the client.
    """

    status: ClassVar[int] = 500


class InvalidRequest(RequestError):
    """The request cannot be answered as it is."""

    status = 400


class ContextLengthExceeded(InvalidRequest):
    """The prompt, or the prompt with the answer, does not fit the model."""


class Unsupported(InvalidRequest):
    """The engine has no such thing; another engine may."""


class Overloaded(RequestError):
    """The engine takes no more requests now; asking later, or another replica, helps."""

    status = 429


class Unavailable(RequestError):
    """The engine takes no requests any more, or not yet; another replica does."""

    status = 503
