"""The tables of `cai bench`: times and rates, CPU and memory by group of processes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ray_serve_cai.cli import output

if TYPE_CHECKING:
    from rich.console import Console

_TIMES = {
    "req/s": "requests_per_second",
    "tok/s": "tokens_per_second",
    "ttft p50 ms": "ttft_p50_ms",
    "p95": "ttft_p95_ms",
    "tpot p50 ms": "tpot_p50_ms",
    "gap p50 ms": "gap_p50_ms",
    "p99": "gap_p99_ms",
    "latency p50 ms": "latency_p50_ms",
    "cpu outside engine": "cpu_s_outside_engine_per_1000_tokens",
}
_WHO: dict[str, output.Cell] = {"target": "target", "clients": "clients"}


def show(console: Console, rows: list[dict[str, Any]], note: str) -> None:
    """Ratios stand in brackets behind the figure."""
    times = {header: partial(_with_ratio, key) for header, key in _TIMES.items()}
    console.print(output.table(rows, {**_WHO, **times, "failed": "failed"}))
    for row in rows:
        if row["failed"]:
            who = f"{row['target']}, {row['clients']} clients"
            console.print(f"first failure of {who}: {row['first_failure']}", highlight=False)
    for title, key, cell in (
        ("CPU-seconds for 1,000 tokens:", "cpu_s_per_1000_tokens", _seconds),
        ("Memory in MiB, before the first round and after the last:", "memory_mib", _grown),
    ):
        groups = dict.fromkeys(group for row in rows for group in row[key])
        columns = {group: partial(cell, group) for group in groups}
        if groups:
            console.print(f"\n{title}", highlight=False)
            console.print(output.table(rows, {**_WHO, **columns}))
    console.print(f"\n{note}", highlight=False)


def _with_ratio(key: str, row: output.Row) -> str:
    if row[key] is None:
        return ""
    ratio = row["ratios"].get(key)
    return f"{row[key]:g}" + (f" ({ratio:.2f}x)" if ratio else "")


def _seconds(group: str, row: output.Row) -> str:
    used = row["cpu_s_per_1000_tokens"].get(group)
    return "" if used is None else f"{used:.3f}"


def _grown(group: str, row: output.Row) -> str:
    held = row["memory_mib"].get(group)
    return f"{held[0]:.0f} > {held[-1]:.0f}" if held else ""
