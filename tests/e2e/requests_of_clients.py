"""What clients ask of a model, and the parts of an answer that mean something to them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import httpx

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer"}},
    "required": ["a"],
    "additionalProperties": False,
}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
SECONDS = 60.0


@dataclass(frozen=True)
class Ask:
    """One request without its model. `raw` is sent instead of a JSON body."""

    path: str
    body: dict[str, Any] = field(default_factory=dict)
    raw: str | None = None


def _chat(*messages: Any, **options: Any) -> Ask:
    said = [m if isinstance(m, dict) else {"role": "user", "content": m} for m in messages]
    return Ask(CHAT, {"messages": said, "temperature": 0, "max_tokens": 32, **options})


def _text(prompt: Any = "What is cai?", **options: Any) -> Ask:
    return Ask(TEXT, {"prompt": prompt, "temperature": 0, "max_tokens": 16, **options})


def _role(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


QUESTION = "What is cai?"
STREAM = {"stream": True, "stream_options": {"include_usage": True}}
# The likeliest token, by other means than a temperature of 0, with which vLLM refuses several.
SURE = {"temperature": 1.0, "top_k": 1}
STRICT = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "strict": True}}

ANSWERED = {
    "chat": _chat(QUESTION),
    "chat streamed": _chat(QUESTION, **STREAM),
    "chat streamed without usage": _chat(QUESTION, stream=True),
    "chat to its end": _chat(QUESTION, max_tokens=128),
    "chat of one token": _chat(QUESTION, max_tokens=1),
    "chat with max_completion_tokens": _chat(QUESTION, max_tokens=None, max_completion_tokens=4),
    "chat with n": _chat(QUESTION, n=3, **SURE),
    "chat with n streamed": _chat(QUESTION, n=2, **SURE, **STREAM),
    "chat with a stop word": _chat(QUESTION, stop="YAML"),
    "chat with stop words": _chat(QUESTION, stop=["Serve", "YAML"]),
    "chat with a stop word streamed": _chat(QUESTION, stop="YAML", **STREAM),
    "chat with a stop token": _chat(QUESTION, stop_token_ids=[5, 6, 7, 8]),
    "chat with its stop word": _chat(QUESTION, stop="YAML", include_stop_str_in_output=True),
    "chat with logprobs": _chat(QUESTION, logprobs=True, max_tokens=4),
    "chat with top logprobs": _chat(QUESTION, logprobs=True, top_logprobs=2, max_tokens=4),
    "chat with logprobs streamed": _chat(QUESTION, logprobs=True, max_tokens=4, stream=True),
    "chat with a seed": _chat("Qx", seed=7, temperature=1.5, max_tokens=24),
    "chat with top_k": _chat(QUESTION, top_k=1, temperature=1.0),
    "chat with top_p": _chat(QUESTION, top_p=0.01, temperature=1.0),
    "chat with penalties": _chat(QUESTION, presence_penalty=1.0, frequency_penalty=0.5),
    "chat with repetition_penalty": _chat(QUESTION, repetition_penalty=1.3),
    "chat with min_tokens": _chat(QUESTION, min_tokens=30, max_tokens=40),
    "chat with ignore_eos": _chat("Hello", ignore_eos=True, max_tokens=60),
    "chat with logit_bias": _chat(QUESTION, logit_bias={"50": -100, "60": 5}, max_tokens=8),
    "chat with a system prompt": _chat(_role("system", "Answer briefly."), QUESTION),
    "chat with a developer prompt": _chat(_role("developer", "Answer briefly."), QUESTION),
    "chat of several turns": _chat("Hello", _role("assistant", "Hello!"), QUESTION),
    "chat with content in parts": _chat(_role("user", [{"type": "text", "text": QUESTION}])),
    "chat with empty content": _chat(_role("user", "")),
    "chat without an answer to give": _chat("", max_tokens=2),
    "chat with unicode": _chat("Grüße, 世界 🌍🚀"),
    "chat with unicode streamed": _chat("Grüße, 世界 🌍🚀", **STREAM),
    "chat with unicode forced": _chat(
        QUESTION, response_format={"type": "text"}, structured_outputs={"regex": "é世🌍"}
    ),
    "chat with a long prompt": _chat(QUESTION * 60),
    "chat as a JSON object": _chat("Hello", response_format={"type": "json_object"}),
    "chat with a JSON schema": _chat("Hello", response_format=STRICT),
    "chat with a JSON schema streamed": _chat("Hello", response_format=STRICT, **STREAM),
    "chat with a regex": _chat("Hello", structured_outputs={"regex": "[0-9]{4}"}),
    "chat with a choice": _chat("Hello", structured_outputs={"choice": ["yes", "no"]}),
    "chat with tools": _chat(QUESTION, tools=[WEATHER]),
    "chat with tools refused": _chat(QUESTION, tools=[WEATHER], tool_choice="none"),
    "chat with a tool required": _chat(
        "Hello", tools=[WEATHER], tool_choice="required", max_tokens=64
    ),
    "chat with a tool named": _chat(
        "Hello",
        tools=[WEATHER],
        tool_choice={"type": "function", "function": {"name": "weather"}},
        max_tokens=64,
    ),
    "chat with a user and metadata": _chat(QUESTION, user="me", metadata={"a": "b"}),
    "text": _text(),
    "text streamed": _text(**STREAM),
    "text with n": _text(n=2, **SURE),
    "text with echo": _text(echo=True),
    "text with a stop word": _text(stop="a"),
    "text with logprobs": _text(logprobs=2, max_tokens=4),
    "text of two prompts": _text([QUESTION, "Hello"]),
    "text with a seed": _text(seed=3, temperature=1.0),
    "text with a regex": _text(structured_outputs={"regex": "[0-9]{4}"}),
    "text with a suffix": _text(suffix="!"),
}

REFUSED = {
    "no messages": Ask(CHAT, {}),
    "empty messages": _chat(),
    "a role unknown": _chat(_role("nobody", "x")),
    "malformed JSON": Ask(CHAT, raw='{"messages": ['),
    "a wrong type": _chat(QUESTION, max_tokens="many"),
    "an empty prompt": _text(""),
    # The gateway takes no tokens.
    "a prompt of tokens": _text([10, 11, 12]),
    "an empty list of tokens": _text([]),
    "an empty prompt streamed": _text("", stream=True),
    "tokens out of the vocabulary": _text([5, 999_999]),
    "negative tokens": _text([5, -3]),
    "a prompt beyond the context": _text("Hello " * 3000),
    "a chat beyond the context": _chat("Hello " * 3000),
    "max_tokens of 0": _chat(QUESTION, max_tokens=0),
    "max_tokens below 0": _chat(QUESTION, max_tokens=-1),
    "max_tokens beyond the context": _chat(QUESTION, max_tokens=1_000_000),
    "text with max_tokens of 0": _text(max_tokens=0),
    "n without chance": _chat(QUESTION, n=2),
    "n of 0": _chat(QUESTION, n=0),
    "n of a million": _chat(QUESTION, n=1_000_000, max_tokens=1),
    "a temperature below 0": _chat(QUESTION, temperature=-1),
    "a temperature that is no number": Ask(
        CHAT,
        raw='{"model": "%s", "messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
    ),
    "a top_p of 2": _chat(QUESTION, top_p=2),
    "a top_k below -1": _chat(QUESTION, top_k=-7),
    "a logit_bias out of the vocabulary": _chat(QUESTION, logit_bias={"999999": 5}),
    "a logit_bias that names no token": _chat(QUESTION, logit_bias={"x": 5}),
    "a stop token out of the vocabulary": _chat(QUESTION, stop_token_ids=[999_999]),
    "an allowed token out of the vocabulary": _chat(QUESTION, allowed_token_ids=[999_999]),
    "top_logprobs of 1000": _chat(QUESTION, logprobs=True, top_logprobs=1000),
    "an invalid regex": _chat(QUESTION, structured_outputs={"regex": "[0-9"}),
    "an invalid JSON schema": _chat(
        QUESTION,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "n", "schema": {"type": "nonsense"}},
        },
    ),
    "an invalid grammar": _chat(QUESTION, structured_outputs={"grammar": "root ::= ("}),
    "min_tokens above max_tokens": _chat(QUESTION, min_tokens=50, max_tokens=5),
    "a tool choice without tools": _chat(QUESTION, tool_choice="required"),
}


def send(client: httpx.Client, model: str, ask: Ask) -> dict[str, Any]:
    """The status of the answer and what of its body means something."""
    if ask.raw is not None:
        text = ask.raw.replace("%s", model)
        reply = client.post(ask.path, content=text, headers={"content-type": "application/json"})
    else:
        body = {k: v for k, v in ask.body.items() if v is not None}
        reply = client.post(ask.path, json={"model": model, **body}, timeout=SECONDS)
    if not reply.is_success:
        return {"status": reply.status_code, "says": _message(reply)}
    if reply.headers["content-type"].startswith("text/event-stream"):
        return {"status": reply.status_code, **_streamed(reply.text)}
    return {"status": reply.status_code, **_whole(reply.json())}


def _message(reply: httpx.Response) -> bool:
    """Whether the error has a message where OpenAI's clients look for it."""
    try:
        return bool(reply.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return False


def _whole(body: dict[str, Any]) -> dict[str, Any]:
    found = {"object": body.get("object"), "usage": _usage(body.get("usage"))}
    found["choices"] = [
        _choice(choice, choice.get("message") or {"content": choice.get("text")})
        for choice in sorted(body["choices"], key=lambda choice: choice["index"])
    ]
    return found


def _choice(choice: dict[str, Any], message: dict[str, Any]) -> dict[str, Any]:
    calls = [
        (call["function"]["name"], call["function"]["arguments"])
        for call in message.get("tool_calls") or ()
    ]
    return {
        "text": message.get("content"),
        "tool_calls": calls,
        "finish_reason": choice.get("finish_reason"),
        "logprobs": _logprobs(choice.get("logprobs")),
    }


def _logprobs(found: dict[str, Any] | None) -> Any:
    """Tokens and their rounded log probabilities."""
    if not found:
        return None
    if found.get("content"):
        return [
            (one["token"], round(one["logprob"], 1), len(one.get("top_logprobs") or ()))
            for one in found["content"]
        ]
    rounded = [None if p is None else round(p, 1) for p in found.get("token_logprobs") or ()]
    tops = [len(top or ()) for top in found.get("top_logprobs") or ()]
    return list(zip(found.get("tokens") or (), rounded, tops, strict=False))


def _usage(counts: dict[str, Any] | None) -> Any:
    return counts and (counts["prompt_tokens"], counts["completion_tokens"])


def _streamed(text: str) -> dict[str, Any]:
    lines = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    events = [json.loads(line) for line in lines if line != "[DONE]"]
    found: dict[int, dict[str, Any]] = {}
    usage, wrong = None, False
    for event in events:
        usage = _usage(event.get("usage")) or usage
        wrong = wrong or "error" in event
        for choice in event.get("choices") or ():
            row = found.setdefault(choice["index"], {"text": "", "tool_calls": "", "end": None})
            delta = choice.get("delta") or {"content": choice.get("text")}
            row["text"] += delta.get("content") or ""
            for call in delta.get("tool_calls") or ():
                row["tool_calls"] += call["function"].get("arguments") or ""
            row["end"] = choice.get("finish_reason") or row["end"]
    return {
        "done": "[DONE]" in lines,
        "error": wrong,
        "usage": usage,
        "choices": [found[index] for index in sorted(found)],
    }
