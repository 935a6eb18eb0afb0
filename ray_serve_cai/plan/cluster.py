"""Planning a cluster: the wanted nodes against those that are there. Pure; facts are passed in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ray_serve_cai.errors import ClusterError, PlanError
from ray_serve_cai.plan.actions import Action
from ray_serve_cai.plan.nodes import HEAD, NodePlan
from ray_serve_cai.spec import ClusterSpec
from ray_serve_cai.spec.base import rounded_size

POD_PROVIDERS = ("cai-workers", "cai-applications")
# A Cloudera AI pod must be asked for with a size; this is the ratio of its usual profiles.
POD_MEMORY_PER_CPU = 4 * 1024**3

# Ray's own share for its object store is 30 %; what is left over is the system's.
LOCAL_MEMORY_SHARE = 0.8


@dataclass(frozen=True)
class Machine:
    """This machine, for the `local` provider. `memory` in bytes, `gpus` as ids."""

    cpus: int
    memory: int
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True)
class ClusterFacts:
    """What is there. `nodes` maps node ids to state words, `shapes` to CPUs and GPUs; `fixed` is
    `fixed_part` of the spec that the running cluster was made from (None when there is none);
    `scaled` holds counts set by `cluster scale`."""

    nodes: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, str] | None = None
    shapes: Mapping[str, tuple[float, int]] = field(default_factory=dict)
    gateway_running: bool = False
    scaled: Mapping[str, int] = field(default_factory=dict)
    machine: Machine | None = None


@dataclass(frozen=True)
class ClusterPlan:
    """What `up` would do, and the nodes as they are wanted."""

    name: str
    provider: str
    nodes: tuple[NodePlan, ...]
    actions: tuple[Action, ...]
    notes: tuple[str, ...] = ()

    def data(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "name": self.name,
            "provider": self.provider,
            "nodes": [asdict(node) for node in self.nodes],
            "actions": [action.row() for action in self.actions],
            "notes": list(self.notes),
        }


def plan_cluster(spec: ClusterSpec, facts: ClusterFacts) -> ClusterPlan:
    """Raises `PlanError` when the machine is too small, `ClusterError` (CAI-CLUSTER-011) when
    the change would need a new cluster."""
    _refuse_fixed_changes(spec, facts)
    nodes = wanted_nodes(spec, facts.machine)
    actions = [*_node_actions(nodes, facts), *_gateway_actions(spec, facts)]
    if facts.fixed is None:
        actions.insert(0, Action("create", "cluster", spec.name, f"provider {spec.provider.type}"))
    return ClusterPlan(
        spec.name, spec.provider.type, nodes, tuple(actions), tuple(_notes(spec, facts, nodes))
    )


def wanted_nodes(spec: ClusterSpec, machine: Machine | None) -> tuple[NodePlan, ...]:
    """The head and every worker; none for `existing`, which owns no nodes."""
    if spec.provider.type == "existing":
        return ()
    port = 0 if spec.ray.port == "auto" else spec.ray.port
    nodes = [
        NodePlan(
            HEAD,
            "head",
            HEAD,
            spec.head.cpu,
            spec.head.memory,
            spec.head.gpu,
            object_store_memory=spec.ray.object_store_memory,
            port=port,
            dashboard=spec.ray.dashboard,
        )
    ]
    for group in spec.workers:
        nodes += [
            NodePlan(
                f"{group.name}-{number}",
                "worker",
                group.name,
                group.cpu,
                group.memory,
                group.gpu,
                accelerator=group.accelerator,
                object_store_memory=spec.ray.object_store_memory,
            )
            for number in range(group.count)
        ]
    if spec.provider.type in POD_PROVIDERS:
        return tuple(_with_pod_memory(node, spec) for node in nodes)
    return tuple(nodes) if machine is None else _on_machine(nodes, machine)


def fixed_part(spec: ClusterSpec) -> dict[str, str]:
    """Digests of the parts of a spec that cannot change while the cluster runs, keys included."""
    data = spec.model_dump(mode="json", exclude={"workers"})
    return {key: _digest(value) for key, value in data.items()}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _with_pod_memory(node: NodePlan, spec: ClusterSpec) -> NodePlan:
    if node.memory is not None or (node.id == HEAD and _head_in_launcher(spec)):
        return node
    return replace(node, memory=int(max(node.cpu, 1) * POD_MEMORY_PER_CPU))


def _head_in_launcher(spec: ClusterSpec) -> bool:
    """The head then has what the pod that runs `up` was given."""
    provider = spec.provider
    return provider.type == "cai-workers" and provider.head_in == "launcher"


def _on_machine(nodes: list[NodePlan], machine: Machine) -> tuple[NodePlan, ...]:
    """Give each local node its own GPUs and a share of the memory."""
    _check_room(nodes, machine)
    share = int(machine.memory * LOCAL_MEMORY_SHARE) // len(nodes)
    free = list(machine.gpus)
    placed = []
    for node in nodes:
        ids, free = tuple(free[: node.gpu]), free[node.gpu :]
        values = asdict(node) | {"gpu_ids": ids, "memory": node.memory or share}
        placed.append(NodePlan(**values))
    return tuple(placed)


def _check_room(nodes: list[NodePlan], machine: Machine) -> None:
    gpus = sum(node.gpu for node in nodes)
    if gpus > len(machine.gpus):
        raise PlanError(
            "CAI-PLAN-003", f"the nodes ask for {gpus} GPU; this machine has {len(machine.gpus)}"
        )
    memory = sum(node.memory or 0 for node in nodes)
    if memory > machine.memory:
        raise PlanError(
            "CAI-PLAN-003",
            f"the nodes ask for {rounded_size(memory)} of memory; "
            f"this machine has {rounded_size(machine.memory)}",
        )


def _refuse_fixed_changes(spec: ClusterSpec, facts: ClusterFacts) -> None:
    if facts.fixed is None:
        return
    wanted = fixed_part(spec)
    changed = sorted(key for key in wanted if wanted[key] != facts.fixed.get(key))
    if changed:
        names = ", ".join(changed)
        raise ClusterError(
            "CAI-CLUSTER-011", f'cluster "{spec.name}" runs with another value of {names}'
        )


def _node_actions(nodes: tuple[NodePlan, ...], facts: ClusterFacts) -> list[Action]:
    actions = []
    head_is_new = facts.nodes.get(HEAD) in (None, "lost")
    for node in nodes:
        state = facts.nodes.get(node.id)
        if state is None:
            actions.append(Action("create", "node", node.id, _described(node)))
        elif state == "lost":
            actions.append(Action("replace", "node", node.id, "it is lost"))
        elif head_is_new:
            # Ray's workers know the old head only.
            actions.append(Action("replace", "node", node.id, "its head is lost"))
        elif facts.shapes.get(node.id, (node.cpu, node.gpu)) != (node.cpu, node.gpu):
            actions.append(Action("replace", "node", node.id, f"now {_described(node)}"))
    wanted = {node.id for node in nodes}
    actions += [
        Action("delete", "node", node_id, "no longer in the spec")
        for node_id in facts.nodes
        if node_id not in wanted
    ]
    return actions


def _gateway_actions(spec: ClusterSpec, facts: ClusterFacts) -> list[Action]:
    if facts.gateway_running:
        return []
    return [Action("start", "gateway", spec.name, f"{spec.gateway.host}:{spec.gateway.port}")]


def _notes(spec: ClusterSpec, facts: ClusterFacts, nodes: tuple[NodePlan, ...]) -> list[str]:
    counts = {group.name: group.count for group in spec.workers}
    notes = [
        f"group {group}: {count} set by `cluster scale` gives way to the file"
        for group, count in facts.scaled.items()
        if count != counts.get(group)
    ]
    if groups := _groups_without_memory(spec):
        notes.append(
            f"no memory given for {', '.join(groups)}: "
            f"{rounded_size(POD_MEMORY_PER_CPU)} for each CPU are asked for"
        )
    cpus = sum(node.cpu for node in nodes)
    if facts.machine is not None and cpus > facts.machine.cpus:
        notes.append(f"the nodes share {facts.machine.cpus} CPUs but offer {cpus:g} to Ray")
    return notes


def _groups_without_memory(spec: ClusterSpec) -> list[str]:
    """Groups, the head among them, whose pods get their memory from us."""
    if spec.provider.type not in POD_PROVIDERS:
        return []
    head = [] if spec.head.memory or _head_in_launcher(spec) else [HEAD]
    return [*head, *(group.name for group in spec.workers if not group.memory)]


def _described(node: NodePlan) -> str:
    memory = f", {rounded_size(node.memory)}" if node.memory else ""
    gpu = f", {node.gpu} GPU" if node.gpu else ""
    return f"{node.cpu:g} CPU{memory}{gpu}"
