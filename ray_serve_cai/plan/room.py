"""What the nodes have room for. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ray_serve_cai.errors import PlanError
from ray_serve_cai.spec import Resources
from ray_serve_cai.spec.base import rounded_size

_ROOMS = (("CPU", "cpu"), ("GPU", "gpu"), ("memory", "memory"))
# Ray counts in ten-thousandths; sums of such figures miss whole numbers by less.
_GRAIN = 1e-5
_ANY_NUMBER = 1_000_000


@dataclass(frozen=True)
class NodeRoom:
    """A node's resources in Ray: all of them, and what is free now. Memory in bytes."""

    id: str
    group: str
    cpu: float
    gpu: float
    memory: float
    free_cpu: float
    free_gpu: float
    free_memory: float


def capacity(need: Resources, room: NodeRoom) -> int:
    """How many replicas the node holds when nothing else runs there."""
    return _fit(need, room.cpu, room.gpu, room.memory)


def fits(need: Resources, room: NodeRoom, gone: int = 0, other: Resources | None = None) -> int:
    """How many replicas the node holds beside what runs there, or once `gone` replicas that need
    `other` have left it."""
    cpu, gpu, memory = room.free_cpu, room.free_gpu, room.free_memory
    if other is not None:
        cpu, gpu = cpu + gone * other.cpu, gpu + gone * other.gpu
        memory += gone * (other.memory or 0)
    return _fit(need, cpu, gpu, memory)


def without(nodes: Sequence[NodeRoom], held: Mapping[str, int], need: Resources) -> list[NodeRoom]:
    """The nodes once the replicas that they hold, each of which needs `need`, have left."""
    return [
        replace(
            node,
            free_cpu=node.free_cpu + held.get(node.id, 0) * need.cpu,
            free_gpu=node.free_gpu + held.get(node.id, 0) * need.gpu,
            free_memory=node.free_memory + held.get(node.id, 0) * (need.memory or 0),
        )
        for node in nodes
    ]


def check_placement(
    name: str, placement: Mapping[str, Any], nodes: Sequence[NodeRoom], replicas: int
) -> None:
    """Raise `PlanError` (CAI-PLAN-001) for bundles that the nodes can never hold."""
    bundles = placement["bundles"]
    for word, room in _ROOMS:
        amounts = [float(bundle.get(word, 0)) for bundle in bundles]
        on_one = (
            sum(amounts) if placement["strategy"] == "STRICT_PACK" else max(amounts, default=0)
        )
        largest = max((getattr(node, room) for node in nodes), default=0)
        together, there = sum(amounts) * replicas, sum(getattr(node, room) for node in nodes)
        for wanted, have, where in (
            (on_one, largest, "on one node; largest node has"),
            (together, there, "in all; the nodes have"),
        ):
            if wanted > have:
                shown = [
                    rounded_size(int(it)) if room == "memory" else f"{it:g} {word}"
                    for it in (wanted, have)
                ]
                raise PlanError(
                    "CAI-PLAN-001", f'model "{name}": needs {shown[0]} {where} {shown[1]}'
                )
    for bundle in bundles:
        if not any(_holds(bundle, node, "") for node in nodes):
            parts = " and ".join(f"{amount:g} {word}" for word, amount in bundle.items())
            raise PlanError(
                "CAI-PLAN-001", f'model "{name}": needs {parts} on one node; none has all of it'
            )
    if placement["strategy"] == "STRICT_SPREAD" and len(bundles) > len(nodes):
        raise PlanError(
            "CAI-PLAN-001",
            f'model "{name}": needs {len(bundles)} nodes (STRICT_SPREAD); there are {len(nodes)}',
        )


def has_free_room(placement: Mapping[str, Any], nodes: Sequence[NodeRoom], replicas: int) -> bool:
    """Whether bundles fit beside what runs, as far as sums and each on its own tell."""
    bundles = placement["bundles"]
    for word, room in _ROOMS:
        wanted = sum(float(bundle.get(word, 0)) for bundle in bundles) * replicas
        if wanted > sum(getattr(node, f"free_{room}") for node in nodes):
            return False
    return all(any(_holds(bundle, node, "free_") for node in nodes) for bundle in bundles)


def _holds(bundle: Mapping[str, float], node: NodeRoom, which: str) -> bool:
    return all(float(bundle.get(word, 0)) <= getattr(node, which + room) for word, room in _ROOMS)


def _fit(need: Resources, cpu: float, gpu: float, memory: float) -> int:
    rooms = [
        (have + _GRAIN) // want
        for have, want in ((cpu, need.cpu), (gpu, need.gpu), (memory, need.memory or 0))
        if want
    ]
    return int(min(rooms, default=_ANY_NUMBER))
