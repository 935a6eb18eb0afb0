"""Quantiles and rates of a round, from times that are made up."""

from __future__ import annotations

import pytest

from ray_serve_cai.bench.answer import Answer
from ray_serve_cai.bench.compare import RATIOS, ratios
from ray_serve_cai.bench.sample import Sample, quantile


@pytest.mark.parametrize(
    ("values", "share", "wanted"),
    [
        ([1.0], 0.99, 1.0),
        ([1.0, 2.0], 0.5, 1.5),
        (list(range(100)), 0.95, 95),
        (list(range(100)), 0.99, 99),
        (list(range(1000)), 0.99, 990),
    ],
)
def test_quantile(values: list[float], share: float, wanted: float) -> None:
    assert quantile(values, share) == wanted


def answer(tokens: int) -> Answer:
    made = Answer()
    made.tokens, made.prompt_tokens = tokens, 10
    return made


def test_row() -> None:
    sample = Sample(wall=2.0)
    # Two events in one read, and one that held two tokens: five in all.
    sample.add(answer(5), began=1.0, events=[1.1, 1.2, 1.2, 1.5], ended=1.6)
    sample.fail("no room")
    sample.fail("no room either")
    row = sample.row()
    assert row["requests_per_second"] == 0.5
    assert row["tokens_per_second"] == 2.5
    assert row["ttft_p50_ms"] == 100
    assert row["tpot_p50_ms"] == 100
    assert (row["gap_p50_ms"], row["gap_p99_ms"]) == (100, 300)
    assert row["latency_p99_ms"] == 600
    assert (row["tokens_per_answer"], row["events_per_answer"], row["prompt_tokens"]) == (5, 4, 10)
    assert (sample.failed, sample.first_failure) == (2, "no room")


def test_what_a_load_does_not_show_is_none() -> None:
    sample = Sample(wall=1.0)
    sample.add(answer(5), began=1.0, events=[], ended=1.5)
    row = sample.row()
    assert row["ttft_p50_ms"] is row["gap_p99_ms"] is row["tpot_p95_ms"] is None
    assert row["latency_p50_ms"] == 500
    assert Sample().row()["requests_per_second"] is None


def test_ratios_need_both() -> None:
    names = dict.fromkeys(RATIOS)
    ours = names | {"gap_p50_ms": 3.0, "ttft_p50_ms": 1.0, "tpot_p50_ms": None}
    base = names | {"gap_p50_ms": 2.0, "ttft_p50_ms": 0.0, "tpot_p50_ms": 4.0}
    assert ratios(ours, base) == {"gap_p50_ms": 1.5}
