"""The same load on two endpoints, in turn, round by round; the ratios of their medians."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from statistics import median
from typing import Any

from ray_serve_cai.bench.load import Load, Sample, Target, merged, run_load

Report = Callable[..., None]

# What a ratio is taken of; below 1 is better, but for requests a second.
RATIOS = (
    "requests_per_second",
    "ttft_p50_ms",
    "ttft_p95_ms",
    "gap_p50_ms",
    "gap_p99_ms",
    "latency_p50_ms",
)


def measure(
    targets: Mapping[str, Target], load: Load, *, rounds: int, report: Report
) -> dict[str, dict[str, Any]]:
    """Rows by target name. Each round visits every target, so that a drifting machine
    drifts for all; one short round first is not counted."""
    samples: dict[str, list[Sample]] = {name: [] for name in targets}
    warm_up = replace(load, requests=max(load.clients, load.requests // 10))
    for name, target in targets.items():
        report("warming up", name)
        asyncio.run(run_load(target, warm_up))
    for number in range(rounds):
        for name, target in targets.items():
            report("measuring", f"{name}, {load.clients} clients, round {number + 1} of {rounds}")
            samples[name].append(asyncio.run(run_load(target, load)))
    return {name: _row(rows) for name, rows in samples.items()}


def ratios(row: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, float]:
    """`row` over `base`, for each of `RATIOS` that the base has."""
    return {key: round(row[key] / base[key], 3) for key in RATIOS if base[key]}


def _row(samples: list[Sample]) -> dict[str, Any]:
    """Medians over the rounds; failures over all of them."""
    rows = [sample.row() for sample in samples]
    whole = merged(samples)
    found = {key: round(median(row[key] for row in rows), 2) for key in RATIOS}
    return {
        **found,
        "answered": len(whole.total),
        "failed": len(whole.failures),
        "first_failure": whole.failures[0] if whole.failures else "",
    }
