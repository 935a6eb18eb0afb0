"""What is measured: a model behind its gateway, and other ways to serve it, started beside it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from ray_serve_cai.bench.bare import bare_vllm
from ray_serve_cai.bench.groups import of_cluster, threads_of_host
from ray_serve_cai.bench.load import Target
from ray_serve_cai.bench.ray_serve_llm import ray_serve_llm
from ray_serve_cai.cluster.state import ClusterState
from ray_serve_cai.engines.registry import get_registry
from ray_serve_cai.errors import EngineError
from ray_serve_cai.serving.chat import gateway_of
from ray_serve_cai.serving.revisions import Revisions
from ray_serve_cai.storage.source import fetch

BARE = "bare engine"


def gateway(state: ClusterState, model: str) -> Target:
    """The model behind the cluster's gateway.

    Raises what `Revisions.existing` and `gateway_of` raise.
    """
    Revisions(state).existing(model)
    url, key = gateway_of(state)
    return Target(url, model, key, of_cluster(state.folder, state.name, model))


def beside(
    state: ClusterState, model: str, ours: Target, *, bare: bool, ray_llm: list[str]
) -> dict[str, AbstractContextManager[Target]]:
    """By name, what is to be started beside it: with the model's own arguments and environment,
    and as many threads as Ray allows its engine host.

    Raises `EngineError` (CAI-ENGINE-003) for an engine other than vLLM.
    """
    if not bare and not ray_llm:
        return {}
    revisions = Revisions(state)
    document = revisions.document(revisions.existing(model))
    spec = document.model
    if get_registry().get(spec.engine.type).name != "vllm":
        raise EngineError("CAI-ENGINE-003", f'the engine "{spec.engine.type}" has no bare server')
    folder = fetch(str(document.source), options=spec.storage_options)
    threads = threads_of_host(ours.processes) if ours.processes else {}
    args, env = spec.engine.args, {**threads, **spec.env}

    def log(what: str) -> Path:
        return state.logs / f"bench-{model.replace('/', '--')}-{what}.log"

    found: dict[str, AbstractContextManager[Target]] = {}
    if bare:
        found[BARE] = bare_vllm(model, folder, args, env, log("engine"))
    for mode in ray_llm:
        name = f"ray serve llm, {mode}"
        found[name] = ray_serve_llm(model, folder, args, env, log(f"ray-llm-{mode}"), mode)
    return found
