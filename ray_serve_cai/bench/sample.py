"""What one round of load measured, and its quantiles."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Any

from ray_serve_cai.bench.answer import Answer

QUANTILES = (0.5, 0.95, 0.99)


def _seconds() -> array[float]:
    # A long run measures millions of gaps: eight bytes each, not thirty.
    return array("d")


@dataclass
class Sample:
    """One round. Times in seconds.

    `first` is the time to the first text, `gaps` the times between events with text of one
    answer (0 for those that came in one read), `per_token` the time from first to last text for
    each token after the first.
    """

    wall: float = 0.0
    first: array[float] = field(default_factory=_seconds)
    total: array[float] = field(default_factory=_seconds)
    gaps: array[float] = field(default_factory=_seconds)
    per_token: array[float] = field(default_factory=_seconds)
    tokens: int = 0
    prompt_tokens: int = 0
    events: int = 0
    failed: int = 0
    first_failure: str = ""

    def add(self, answer: Answer, began: float, events: Sequence[float], ended: float) -> None:
        """One answer; `events` are the times at which its pieces of text came."""
        self.total.append(ended - began)
        self.tokens += answer.tokens
        self.prompt_tokens += answer.prompt_tokens
        self.events += len(events)
        if not events:
            return
        self.first.append(events[0] - began)
        self.gaps.extend(later - earlier for earlier, later in pairwise(events))
        if answer.tokens > 1:
            self.per_token.append((events[-1] - events[0]) / (answer.tokens - 1))

    def fail(self, why: str) -> None:
        self.failed += 1
        self.first_failure = self.first_failure or why

    def row(self) -> dict[str, Any]:
        """Milliseconds and rates, rounded; None for what the load does not show."""
        answered = len(self.total)
        return {
            "requests_per_second": _rate(answered, self.wall),
            "tokens_per_second": _rate(self.tokens, self.wall),
            **_quantiles("ttft", self.first),
            **_quantiles("tpot", self.per_token),
            **_quantiles("gap", self.gaps),
            **_quantiles("latency", self.total),
            "tokens_per_answer": _rate(self.tokens, answered),
            "events_per_answer": _rate(self.events, answered),
            "prompt_tokens": _rate(self.prompt_tokens, answered),
        }


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the sorted `values` lie."""
    if share == 0.5:
        return median(values)
    return values[min(len(values) - 1, int(share * len(values)))]


def _quantiles(name: str, values: Sequence[float]) -> dict[str, float | None]:
    ordered = sorted(values)
    return {
        f"{name}_p{share * 100:g}_ms": round(quantile(ordered, share) * 1000, 2)
        if values
        else None
        for share in QUANTILES
    }


def _rate(count: float, size: float) -> float | None:
    return round(count / size, 2) if size else None
