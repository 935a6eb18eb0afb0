"""Part a model's answer into reasoning and content at a marker of its own.

    engine:
      transport: http
      args: {reasoning_parser: end_marker}
    callbacks:
      - class: callbacks.reasoning_parser.EndMarker
        kwargs: {name: end_marker, marker: "</think>"}

`transport: http` because vLLM's own server does the parsing. The marker need not be one token,
but must be in the text that the engine puts out, which special tokens are not.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Any

from ray_serve_cai.callbacks import CallbackBase
from ray_serve_cai.engines.vllm_plugin import add_call


def split(text: str, marker: str) -> tuple[str, str | None]:
    """What stands before and after the marker; None where it has not come."""
    reasoning, found, content = text.partition(marker)
    return reasoning, content if found else None


def split_so_far(text: str, marker: str) -> tuple[str, str]:
    """As `split` for a text that goes on: an end that may become the marker is held back."""
    reasoning, content = split(text, marker)
    if content is not None:
        return reasoning, content
    held = next(n for n in range(len(marker) - 1, -1, -1) if text.endswith(marker[:n]))
    return text[: len(text) - held], ""


def register(name: str, marker: str) -> None:
    """Tell the vLLM of this process."""
    from vllm.entrypoints.generate.base.protocol import DeltaMessage
    from vllm.reasoning import ReasoningParser, ReasoningParserManager

    class Parser(ReasoningParser):
        """Everything before the first marker is reasoning."""

        # None while nothing has been streamed, as in the engine core, which sees tokens only.
        _ended: bool | None = None

        def is_reasoning_end(self, input_ids: Sequence[int]) -> bool:
            # Asked of prompts: an earlier turn's marker in the middle does not end this turn.
            return self._decode(input_ids[-_window(marker) :]).rstrip().endswith(marker.rstrip())

        def is_reasoning_end_streaming(
            self, input_ids: Sequence[int], delta_ids: Iterable[int]
        ) -> bool:
            if self._ended is not None:
                return self._ended
            count = len(list(delta_ids)) + _window(marker)
            return marker in self._decode(input_ids[-count:])

        def extract_content_ids(self, input_ids: list[int]) -> list[int]:
            return input_ids[self._reasoning_length(input_ids) :]

        def count_reasoning_tokens(self, token_ids: Sequence[int]) -> int:
            return min(self._reasoning_length(token_ids), len(token_ids))

        def extract_reasoning(
            self, model_output: str, request: Any
        ) -> tuple[str | None, str | None]:
            reasoning, content = split(model_output, marker)
            return reasoning or None, content or None

        def extract_reasoning_streaming(
            self, previous_text: str, current_text: str, *_: Any, **__: Any
        ) -> DeltaMessage | None:
            before = split_so_far(previous_text, marker)
            now = split_so_far(current_text, marker)
            self._ended = marker in current_text
            reasoning, content = (new[len(old) :] for old, new in zip(before, now, strict=True))
            if not reasoning and not content:
                return None
            return DeltaMessage(reasoning=reasoning or None, content=content or None)

        def _reasoning_length(self, ids: Sequence[int]) -> int:
            """How many tokens there are up to the marker's end; more than all without one."""
            lengths = range(len(ids) + 1)
            return bisect_left(lengths, True, key=lambda n: marker in self._decode(ids[:n]))

        def _decode(self, ids: Sequence[int]) -> str:
            return str(self.model_tokenizer.decode(list(ids)))

    ReasoningParserManager.register_module(name, module=Parser)


def _window(marker: str) -> int:
    """How many tokens the marker can take, with some white space behind it."""
    return len(marker.encode()) + 4


class EndMarker(CallbackBase):
    """Registers a parser that vLLM's `reasoning_parser` argument can name."""

    def __init__(
        self, *, name: str = "end_marker", marker: str = "</think>", **kwargs: object
    ) -> None:
        super().__init__(**kwargs)
        if not marker.strip():
            raise ValueError("the marker is empty")
        self.name, self.marker = name, marker

    async def on_after_node_init(self) -> None:
        # In the engine's own processes too: they look the parser up when they start.
        self.ctx.runtime_env = add_call(
            self.ctx.runtime_env,
            f"{register.__module__}:{register.__name__}",
            name=self.name,
            marker=self.marker,
        )
