"""`cai bench`: load on a deployed model, on its own or beside other ways to serve it."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ray_serve_cai.cli import output
from ray_serve_cai.cli.bench_table import show
from ray_serve_cai.cli.options import Cluster, Duration, Json
from ray_serve_cai.cli.target import target

if TYPE_CHECKING:
    from ray_serve_cai.bench.load import Load

CLIENTS = (1, 8, 32)
REQUESTS = 200


class RayLLM(StrEnum):
    """How Ray Serve LLM streams."""

    default = "default"
    direct = "direct"


def bench(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The model's name.")],
    cluster: Cluster = None,
    clients: Annotated[
        list[int] | None,
        typer.Option("--clients", min=1, help="Clients at a time; may be repeated."),
    ] = None,
    prompt_tokens: Annotated[
        int | None,
        typer.Option(
            "--prompt-tokens",
            min=1,
            help="About so many prompt tokens, chat template included: as many words as two "
            "questions beforehand suggest; the report has the true count. A short question "
            "without it.",
        ),
    ] = None,
    tokens: Annotated[
        int, typer.Option("--tokens", min=1, help="Output tokens of each request.")
    ] = 32,
    stream: Annotated[
        bool, typer.Option("--stream/--no-stream", help="Whether answers come in pieces.")
    ] = True,
    requests: Annotated[
        int | None,
        typer.Option("--requests", min=1, help=f"Requests of each round; else {REQUESTS}."),
    ] = None,
    duration: Annotated[
        float | None,
        typer.Option(
            "--duration",
            parser=Duration,
            metavar="DURATION",
            help="Length of each round, such as 30s or 20m, in place of a number of requests.",
        ),
    ] = None,
    rounds: Annotated[
        int, typer.Option("--rounds", min=1, help="Rounds of each measurement.")
    ] = 3,
    against_engine: Annotated[
        bool,
        typer.Option("--against-engine", help="Start the bare engine's own server beside it."),
    ] = False,
    against_ray_llm: Annotated[
        list[RayLLM] | None,
        typer.Option(
            "--against-ray-llm",
            help="Start Ray Serve LLM beside it, in a Ray of its own; may be repeated.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Load a model through the gateway; print times, rates, and CPU and memory by group of
    processes; beside other ways to serve it, ratios."""
    from ray_serve_cai.bench.compare import measure, with_ratios
    from ray_serve_cai.bench.prompt import prompt_of
    from ray_serve_cai.bench.scheduler import undisturbed
    from ray_serve_cai.bench.sides import BARE, beside, gateway

    state = target(cluster)
    load = _load(requests, duration, tokens, stream=stream)
    results: list[dict[str, Any]] = []
    with ExitStack() as stack:
        report = stack.enter_context(output.phases(f"bench {name}", json=json))
        ours = gateway(state, name)
        targets = {name: ours}
        if prompt_tokens:
            load = replace(load, prompt=prompt_of(ours, prompt_tokens))
        modes = [mode.value for mode in against_ray_llm or ()]
        for other, start in beside(state, name, ours, bare=against_engine, ray_llm=modes).items():
            report("starting", other)
            targets[other] = stack.enter_context(start)
        note = stack.enter_context(undisturbed())
        for count in clients or CLIENTS:
            rows = measure(targets, replace(load, clients=count), rounds=rounds, report=report)
            results += with_ratios(rows, count, BARE)
    data = {"model": name, **_described(load), "rounds": rounds, "note": note, "results": results}
    output.emit(data, json=json, text=lambda console: show(console, results, note))


def _load(requests: int | None, duration: float | None, tokens: int, *, stream: bool) -> Load:
    from ray_serve_cai.bench.load import Load

    if requests and duration:
        raise typer.BadParameter("--requests and --duration exclude each other")
    if not duration:
        return Load(1, requests or REQUESTS, tokens, stream=stream)
    return Load(1, None, tokens, stream=stream, seconds=duration)


def _described(load: Load) -> dict[str, Any]:
    return {
        "tokens": load.tokens,
        "stream": load.stream,
        "requests": load.requests,
        "duration_s": load.seconds,
    }
