"""`cai bench`: load on a deployed model, on its own or against the bare engine's own server."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ray_serve_cai.cli import output
from ray_serve_cai.cli.options import Cluster, Json
from ray_serve_cai.cli.target import target

if TYPE_CHECKING:
    from rich.console import Console

    from ray_serve_cai.bench.load import Target
    from ray_serve_cai.cluster.state import ClusterState

BARE = "bare engine"


def bench(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The model's name.")],
    cluster: Cluster = None,
    clients: Annotated[
        list[int] | None, typer.Option("--clients", help="Clients at a time; may be repeated.")
    ] = None,
    requests: Annotated[int, typer.Option("--requests", help="Requests of each round.")] = 200,
    tokens: Annotated[int, typer.Option("--tokens", help="Output tokens of each request.")] = 32,
    rounds: Annotated[int, typer.Option("--rounds", help="Rounds of each measurement.")] = 3,
    against_engine: Annotated[
        bool,
        typer.Option("--against-engine", help="Start the bare engine's own server beside it."),
    ] = False,
    json: Json = False,
) -> None:
    """Load a model through the gateway; print times, rates and, against the engine, ratios."""
    from ray_serve_cai.bench.compare import measure, ratios
    from ray_serve_cai.bench.load import Load
    from ray_serve_cai.bench.scheduler import undisturbed

    state = target(cluster)
    found: list[dict[str, Any]] = []
    with ExitStack() as stack:
        report = stack.enter_context(output.phases(f"bench {name}", json=json))
        targets = {name: _gateway(state, name)}
        if against_engine:
            report("starting", BARE)
            targets[BARE] = stack.enter_context(_bare(state, name))
        note = stack.enter_context(undisturbed())
        for count in clients or [1, 8, 32]:
            load = Load(count, requests=min(requests, 60 * count), tokens=tokens)
            rows = measure(targets, load, rounds=rounds, report=report)
            for who, row in rows.items():
                ratio = ratios(row, rows[BARE]) if BARE in rows and who != BARE else {}
                found.append({"target": who, "clients": count, **row, "ratios": ratio})
    data = {"model": name, "tokens": tokens, "rounds": rounds, "note": note, "results": found}
    output.emit(data, json=json, text=lambda console: _show(console, found, note))


def _show(console: Console, rows: list[dict[str, Any]], note: str) -> None:
    columns: dict[str, output.Cell] = {
        "target": "target",
        "clients": "clients",
        "req/s": lambda row: _with_ratio(row, "requests_per_second"),
        "ttft p50 ms": lambda row: _with_ratio(row, "ttft_p50_ms"),
        "ttft p95 ms": lambda row: _with_ratio(row, "ttft_p95_ms"),
        "gap p50 ms": lambda row: _with_ratio(row, "gap_p50_ms"),
        "gap p99 ms": lambda row: _with_ratio(row, "gap_p99_ms"),
        "failed": "failed",
    }
    console.print(output.table(rows, columns))
    console.print(note, highlight=False)


def _with_ratio(row: output.Row, key: str) -> str:
    ratio = row["ratios"].get(key)
    return f"{row[key]:g}" + (f" ({ratio:.2f}x)" if ratio else "")


def _gateway(state: ClusterState, name: str) -> Target:
    from ray_serve_cai.bench.load import Target
    from ray_serve_cai.serving.chat import gateway_of
    from ray_serve_cai.serving.revisions import Revisions

    Revisions(state).existing(name)
    url, key = gateway_of(state)
    return Target(url, name, key)


def _bare(state: ClusterState, name: str) -> Any:
    from ray_serve_cai.bench.bare import bare_vllm
    from ray_serve_cai.errors import EngineError
    from ray_serve_cai.serving.revisions import Revisions
    from ray_serve_cai.storage.source import fetch

    revisions = Revisions(state)
    document = revisions.document(revisions.existing(name))
    spec = document.model
    if spec.engine.type != "vllm":
        raise EngineError("CAI-ENGINE-003", f'the engine "{spec.engine.type}" has no bare server')
    folder = fetch(str(document.source), options=spec.storage_options)
    log = state.logs / f"bench-{name.replace('/', '--')}.log"
    return bare_vllm(name, folder, spec.engine.args, dict(spec.env), log)
