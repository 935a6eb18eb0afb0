"""The nodes of a replica beyond the one that its engine host runs on."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import ray
from ray.util.placement_group import placement_group_table
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ray_serve_cai.engines.vllm_plugin import GROUP
from ray_serve_cai.errors import HookError
from ray_serve_cai.plan.parallel import over_nodes
from ray_serve_cai.serving.job import ReplicaJob
from ray_serve_cai.serving.part import run_part


def node_names() -> dict[str, str]:
    """Ray's node ids to ours; nodes that we did not start have none."""
    named = ((node["NodeID"], node["Labels"].get("cai-node")) for node in ray.nodes())
    return {node: name for node, name in named if name}


def other_nodes() -> dict[str, str]:
    """Ray's id and our name of each further node that holds a bundle of this replica."""
    group = ray.util.get_current_placement_group()
    if group is None:
        return {}
    here = ray.get_runtime_context().get_node_id()
    bundles: Mapping[int, str] = placement_group_table(group)["bundles_to_node_id"]
    names = node_names()
    return {node: names.get(node, node) for node in bundles.values() if node != here}


def with_group(job: ReplicaJob) -> ReplicaJob:
    """The job with what its engine host needs to start workers in this replica's bundles: the
    addresses of Ray and of the placement group, in its environment."""
    group = ray.util.get_current_placement_group()
    if group is None or not over_nodes(job.engine_args):
        return job
    found = {"RAY_ADDRESS": ray.get_runtime_context().gcs_address, GROUP: group.id.hex()}
    return replace(job, env={**job.env, **found})


async def prepare_others(
    job: ReplicaJob, replica: str, nodes: Mapping[str, str], wish: Mapping[str, Any]
) -> dict[str, Any]:
    """Run each node's hook and download there, at the same time; results by our node names.

    Raises `HookError` with the first failure; the error names the node.
    """
    on_node = ray.remote(num_cpus=0, max_retries=0)(_on_node)
    running = [
        on_node.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)
        ).remote(job.to_json(), replica, {**wish, "part": "files", "node": name})
        for node, name in nodes.items()
    ]
    try:
        results = await asyncio.gather(*running)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, HookError):
            raise error.cause from error
        raise HookError("CAI-CALLBACK-001", str(error)) from error
    except ray.exceptions.RayError as error:
        names = ", ".join(nodes.values())
        raise HookError("CAI-CALLBACK-001", f"one of the nodes {names} broke off") from error
    finally:
        for task in running:
            ray.cancel(task, force=True)
    return dict(zip(nodes.values(), results, strict=True))


def _on_node(job: dict[str, Any], replica: str, order: dict[str, Any]) -> dict[str, Any]:
    try:
        return asyncio.run(run_part(ReplicaJob.from_json(job), replica, order))
    except HookError as error:
        if order["node"] in error.message:
            raise
        raise HookError(error.code, f"on node {order['node']}: {error.message}") from error
