"""What an answer of an OpenAI endpoint says: pieces of text as they come, and its token counts."""

from __future__ import annotations

import json
import re
from typing import Any

_END_OF_EVENT = re.compile(rb"\r?\n\r?\n")
_TEXT_KEYS = ("content", "reasoning_content", "reasoning", "text")


class Answer:
    """One answer, fed with its body.

    A read may bring several events and an event several tokens: so it is events that are counted,
    not reads, and tokens are what the server's `usage` says.
    """

    def __init__(self) -> None:
        self.tokens = 0
        self.prompt_tokens = 0
        self.error = ""
        self._ended = False
        self._rest = b""

    def feed(self, data: bytes) -> int:
        """Take what came of a stream; returns how many events with text have ended in it."""
        *events, self._rest = _END_OF_EVENT.split(self._rest + data)
        return sum(self._take(event) for event in events)

    def whole(self, body: bytes) -> None:
        """Take an answer that is not streamed."""
        self._ended = True
        self._note(json.loads(body))

    @property
    def fault(self) -> str:
        """What is wrong with the answer, now that all of it has come; empty when nothing is."""
        if self.error:
            return self.error
        if not self._ended:
            return "the stream broke off"
        return "" if self.tokens else "the answer has no usage, so its tokens cannot be counted"

    def _take(self, event: bytes) -> bool:
        """Whether it holds text. Comments, which keep a connection alive, are passed over."""
        if not event.startswith(b"data:"):
            return False
        data = event.removeprefix(b"data:").strip()
        if data == b"[DONE]":
            self._ended = True
            return False
        return self._note(json.loads(data))

    def _note(self, said: dict[str, Any]) -> bool:
        if "error" in said:
            self.error = str(said["error"])[:200]
        if usage := said.get("usage"):
            self.tokens = usage.get("completion_tokens") or 0
            self.prompt_tokens = usage.get("prompt_tokens") or 0
        return any(_has_text(choice) for choice in said.get("choices", ()))


def _has_text(choice: dict[str, Any]) -> bool:
    piece = choice.get("delta") or choice
    return any(piece.get(key) for key in _TEXT_KEYS)
