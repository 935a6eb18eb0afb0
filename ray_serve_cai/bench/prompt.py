"""A prompt of about so many tokens, whatever the model's tokenizer."""

from __future__ import annotations

import asyncio
from itertools import cycle, islice

from ray_serve_cai.bench.load import Load, Target, run_load
from ray_serve_cai.errors import ModelError

_SENTENCE = "Tell me about the gateway and how it finds a replica for a request"
_PROBE_WORDS = 64


def prompt_of(target: Target, tokens: int) -> str:
    """Words for about `tokens` prompt tokens, chat template included, by two questions that the
    endpoint's `usage` answers: an empty one, and one of 64 words. At least one word.

    Raises `ModelError` (CAI-MODEL-003) when the endpoint does not answer them.
    """
    empty, probe = _prompt_tokens(target, ""), _prompt_tokens(target, _text(_PROBE_WORDS))
    per_word = max(probe - empty, 1) / _PROBE_WORDS
    return _text(max(1, round((tokens - empty) / per_word)))


def _text(words: int) -> str:
    return " ".join(islice(cycle(_SENTENCE.split()), words))


def _prompt_tokens(target: Target, prompt: str) -> int:
    sample = asyncio.run(run_load(target, Load(1, 1, tokens=1, prompt=prompt, stream=False)))
    if sample.failed:
        raise ModelError("CAI-MODEL-003", sample.first_failure)
    return sample.prompt_tokens
