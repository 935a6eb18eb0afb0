"""What a model plan needs to know, gathered before it: room on the nodes, engine, source."""

from __future__ import annotations

import ray

from ray_serve_cai.callbacks.check import importable, require_callbacks
from ray_serve_cai.cluster.ray_session import alive_nodes
from ray_serve_cai.cluster.state import ClusterState
from ray_serve_cai.engines import command, sglang_config
from ray_serve_cai.engines.registry import get_registry
from ray_serve_cai.engines.vllm_args import check_args
from ray_serve_cai.engines.vllm_front import choose_front, choose_transport
from ray_serve_cai.errors import EngineError
from ray_serve_cai.plan.model import Transport
from ray_serve_cai.plan.room import NodeRoom
from ray_serve_cai.spec import Document
from ray_serve_cai.storage.source import check_folder, local_folder
from ray_serve_cai.storage.stores import check_scheme

WHY: dict[Transport, str] = {
    "grpc": "the engine is served by cai's own gRPC servicer",
    "http": "the engine has an OpenAI server of its own",
}


def node_rooms(state: ClusterState) -> list[NodeRoom]:
    """The cluster's live nodes with their total and free resources."""
    free = ray._private.state.available_resources_per_node()
    rooms = []
    for node_id, node in alive_nodes(state.node_rows()).items():
        total, left = node["Resources"], free.get(node["NodeID"], {})
        rooms.append(
            NodeRoom(
                id=node_id,
                group=node_id.rsplit("-", 1)[0],
                cpu=total.get("CPU", 0),
                gpu=total.get("GPU", 0),
                memory=total.get("memory", 0),
                free_cpu=left.get("CPU", 0),
                free_gpu=left.get("GPU", 0),
                free_memory=left.get("memory", 0),
            )
        )
    return rooms


def engine_of(document: Document) -> str:
    """The name of its engine, also where the spec has a built-in one's dotted path."""
    return get_registry().get(document.model.engine.type).name


def check(document: Document) -> None:
    """Raise what is wrong with a model as far as this machine can tell."""
    spec = document.model
    engine = engine_of(document)
    require_callbacks(document)
    folder = local_folder(str(document.source))
    if folder is not None:
        check_folder(folder)
    elif document.source.kind == "remote":
        check_scheme(document.source.location)
    transport = next(iter(transports(document)))
    if engine == "vllm":
        check_args(spec.engine.args, transport=transport)
    if engine == "sglang":
        sglang_config.check_args(spec.engine.args)
    if engine == "command":
        command.check_args(spec.engine.args)


def transports(document: Document) -> dict[Transport, str]:
    """By what the engine can be reached, and why."""
    spec = document.model
    wanted, info = spec.engine.transport, get_registry().get(spec.engine.type)
    if info.name == "vllm":
        return {
            transport: f"{reason}; {choose_front(transport, spec.env).reason}"
            for transport, reason in choose_transport(wanted, spec.engine.args).items()
        }
    if info.name == "sglang":
        return sglang_config.choose_transport(wanted, spec.engine.args)
    with importable(document.project):
        possible = info.reached_by()
    if wanted == "auto":
        return {possible[0]: WHY[possible[0]]}
    if wanted not in possible:
        raise EngineError(
            "CAI-ENGINE-003",
            f'the engine "{spec.engine.type}" has no {wanted} transport; '
            f"it has {', '.join(possible)}",
        )
    return {wanted: "the spec says so"}


def front_of(document: Document) -> str:
    """The server in front of the engine: `rust` or `python` for vLLM's and SGLang's over gRPC,
    `engine` for an OpenAI server that the engine brings, `generic` for cai's own gRPC servicer."""
    spec = document.model
    transport, engine = next(iter(transports(document))), engine_of(document)
    if engine == "vllm":
        return choose_front(transport, spec.env).front
    if transport == "http":
        return "engine"
    return sglang_config.servicer(spec.env) if engine == "sglang" else "generic"
