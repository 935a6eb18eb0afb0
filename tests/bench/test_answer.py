"""What counts as an event of a stream, whatever the reads that it comes in."""

from __future__ import annotations

import json

import pytest

from ray_serve_cai.bench.answer import Answer


def event(data: object, end: str = "\n\n") -> bytes:
    return f"data: {data if isinstance(data, str) else json.dumps(data)}{end}".encode()


def piece(text: str, key: str = "content") -> bytes:
    return event({"choices": [{"delta": {key: text}}]})


USAGE = event({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 7}})
STREAM = (
    event({"choices": [{"delta": {"role": "assistant", "content": ""}}]})
    + b": still there\n\n"
    + piece("one")
    + piece('two "content":"x"\n\n')
    + piece("", "content")
    + piece("thought", "reasoning_content")
    + USAGE
    + event("[DONE]")
)


@pytest.mark.parametrize("size", [1, 7, 100, len(STREAM)])
def test_events_with_text_are_counted_not_reads(size: int) -> None:
    answer = Answer()
    reads = [STREAM[start : start + size] for start in range(0, len(STREAM), size)]
    assert sum(answer.feed(read) for read in reads) == 3
    assert (answer.tokens, answer.prompt_tokens, answer.fault) == (7, 5, "")


def test_events_may_end_as_in_http() -> None:
    answer = Answer()
    found = answer.feed(STREAM.replace(b"}\n\n", b"}\r\n\r\n").replace(b"]\n\n", b"]\r\n\r\n"))
    assert (found, answer.fault) == (3, "")


@pytest.mark.parametrize(
    ("stream", "fault"),
    [
        (piece("one") + USAGE, "the stream broke off"),
        (piece("one") + event("[DONE]"), "no usage"),
        (piece("one") + event({"error": {"message": "no room"}}) + event("[DONE]"), "no room"),
        (b"", "the stream broke off"),
    ],
)
def test_what_is_no_whole_answer(stream: bytes, fault: str) -> None:
    answer = Answer()
    answer.feed(stream)
    assert fault in answer.fault


def test_answer_in_one_piece() -> None:
    answer = Answer()
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    answer.whole(json.dumps({"choices": [{"message": {}}], "usage": usage}).encode())
    assert (answer.tokens, answer.prompt_tokens, answer.fault) == (2, 3, "")
