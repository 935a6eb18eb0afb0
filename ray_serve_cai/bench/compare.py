"""The same load on several endpoints, in turn, round by round; the ratios of their medians."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from statistics import median
from typing import Any

from ray_serve_cai.bench.groups import LOAD_GENERATOR, OUT_OF_PATH
from ray_serve_cai.bench.load import Load, Target, run_load
from ray_serve_cai.bench.meter import Readings, cpu_between, memory, read
from ray_serve_cai.bench.sample import Sample

Report = Callable[..., None]

OUTSIDE_ENGINE = "cpu_s_outside_engine_per_1000_tokens"
WARM_UP_SECONDS = 10.0

# What a ratio is taken of; below 1 is better, but for requests and tokens a second.
RATIOS = (
    "requests_per_second",
    "tokens_per_second",
    "ttft_p50_ms",
    "ttft_p95_ms",
    "ttft_p99_ms",
    "tpot_p50_ms",
    "gap_p50_ms",
    "gap_p95_ms",
    "gap_p99_ms",
    "latency_p50_ms",
    "latency_p95_ms",
    "latency_p99_ms",
    OUTSIDE_ENGINE,
)


def measure(
    targets: Mapping[str, Target], load: Load, *, rounds: int, report: Report
) -> dict[str, dict[str, Any]]:
    """Rows by target name. Each round visits every target, every other one in reverse, so that a
    drifting machine drifts for all; one short round first is not counted."""
    for name, target in targets.items():
        report("warming up", name)
        asyncio.run(run_load(target, _warm_up(load)))
    tallies = {name: _Tally(target) for name, target in targets.items()}
    for number in range(rounds):
        for name in list(targets)[:: -1 if number % 2 else 1]:
            report("measuring", f"{name}, {load.clients} clients, round {number + 1} of {rounds}")
            tallies[name].take(load, [tallies[other] for other in targets if other != name])
    return {name: tally.row() for name, tally in tallies.items()}


def ratios(row: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, float]:
    """`row` over `base`, for each of `RATIOS` that both have."""
    both = (key for key in RATIOS if row[key] is not None and base[key])
    return {key: round(row[key] / base[key], 3) for key in both}


def with_ratios(
    rows: Mapping[str, dict[str, Any]], clients: int, base: str
) -> list[dict[str, Any]]:
    """The rows with their names; the ratios are to the row `base`, where there is one."""
    return [
        {
            "target": name,
            "clients": clients,
            **row,
            "ratios": ratios(row, rows[base]) if base in rows and name != base else {},
        }
        for name, row in rows.items()
    ]


class _Tally:
    """The rounds of one target."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._samples: list[Sample] = []
        self._cpu: list[dict[str, float]] = []
        self._idle: list[float] = []
        self._memory = [memory(self.read())]

    def read(self) -> Readings:
        return read(self._target.processes) if self._target.processes else {}

    def take(self, load: Load, others: list[_Tally]) -> None:
        """One round. The others idle meanwhile, which costs CPU too."""
        before, idle_before = self.read(), [other.read() for other in others]
        began = time.process_time()
        sample = asyncio.run(run_load(self._target, load))
        own = time.process_time() - began
        after = self.read()
        idle = (
            cpu_between(then, other.read())
            for then, other in zip(idle_before, others, strict=True)
        )
        self._samples.append(sample)
        self._cpu.append({**cpu_between(before, after), LOAD_GENERATOR: own})
        self._idle.append(sum(sum(used.values()) for used in idle) / sample.wall)
        self._memory.append(memory(after))

    def row(self) -> dict[str, Any]:
        """Medians over the rounds; answers and failures over all of them."""
        rows = [sample.row() for sample in self._samples]
        failures = [sample.first_failure for sample in self._samples if sample.failed]
        return {
            **{key: _median([row[key] for row in rows]) for key in rows[0]},
            "answered": sum(len(sample.total) for sample in self._samples),
            "failed": sum(sample.failed for sample in self._samples),
            "first_failure": failures[0] if failures else "",
            **self._cpu_row(),
            "idle_others_cores": round(median(self._idle), 3),
            "memory_mib": _by_group(self._memory),
        }

    def _cpu_row(self) -> dict[str, Any]:
        rounds = [
            {group: seconds / sample.tokens * 1000 for group, seconds in used.items()}
            for used, sample in zip(self._cpu, self._samples, strict=True)
            if sample.tokens
        ]
        cpu = {group: round(median(used), 4) for group, used in _by_group(rounds).items()}
        path = [seconds for group, seconds in cpu.items() if group not in OUT_OF_PATH]
        return {
            "cpu_s_per_1000_tokens": cpu,
            OUTSIDE_ENGINE: round(sum(path), 4) if path else None,
        }


def _warm_up(load: Load) -> Load:
    requests = load.requests and max(load.clients, load.requests // 10)
    seconds = load.seconds and min(WARM_UP_SECONDS, load.seconds / 10)
    return replace(load, requests=requests, seconds=seconds)


def _by_group(rounds: list[dict[str, float]]) -> dict[str, list[float]]:
    """A group that is not there in one of them has 0."""
    groups = dict.fromkeys(group for found in rounds for group in found)
    return {group: [found.get(group, 0.0) for found in rounds] for group in groups}


def _median(values: list[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return round(median(there), 2) if there else None
