"""Planning a model: does it fit, over which transport, beside or instead of what runs. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ray_serve_cai.errors import PlanError
from ray_serve_cai.plan.actions import Action
from ray_serve_cai.plan.parallel import Parallel, plan_parallel
from ray_serve_cai.plan.rolling import Step, slots_after, steps
from ray_serve_cai.plan.room import NodeRoom, capacity, check_placement, has_free_room, without
from ray_serve_cai.plan.scaling import described, first_count, kept_count, notes_of, range_of
from ray_serve_cai.spec import ModelSpec, ReplicaRange, Resources
from ray_serve_cai.spec.base import rounded_size


class NoFreeRoom(PlanError):
    """The nodes could hold the model, but for what runs there now."""


Transport = Literal["grpc", "http"]
Strategy = Literal["none", "start", "scale", "beside", "rolling", "stop-then-start"]


@dataclass(frozen=True)
class Revision:
    """The revision that serves now. `digest` is `digest_of` its spec, `held` maps node ids to its
    replicas there; without `need`, what one takes, nothing is known of the room they leave.
    `range` is what its count follows."""

    number: int
    digest: str
    replicas: int
    held: Mapping[str, int] = field(default_factory=dict)
    need: Resources | None = None
    range: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class ModelFacts:
    """What is there. `transports` maps what the engine can be reached by to the reason why it
    would be chosen, best first. `next_revision` is a number never used before. `placed_by` names
    the callbacks that decide the placement at the deploy, `code` is the user's own code.
    `half_made` is a revision whose deploy was not completed and that is not the wanted one,
    `replaced` are those that have yet to end since a newer one serves.
    `front` is the server before the engine: `rust`, `python`, `engine` or `generic`. `engine` is
    its name, where the spec has a dotted path."""

    nodes: Sequence[NodeRoom]
    transports: Mapping[Transport, str]
    current: Revision | None = None
    next_revision: int = 1
    healthy: bool = True
    placed_by: str = ""
    code: str = ""
    half_made: int | None = None
    replaced: tuple[int, ...] = ()
    front: str = ""
    engine: str = ""


@dataclass(frozen=True)
class ModelPlan:
    """What `deploy` would do. `placement` maps node groups to how many replicas fit there, `steps`
    are those from the serving revision to this one, `parallel` is about vLLM's workers."""

    name: str
    revision: int
    engine: str
    transport: Transport
    reason: str
    replicas: int
    cpu: float
    gpu: int
    memory: int | None
    strategy: Strategy
    steps: tuple[Step, ...]
    digest: str
    placement: Mapping[str, int]
    actions: tuple[Action, ...]
    notes: tuple[str, ...] = ()
    placed_by: str = ""
    front: str = ""
    parallel: Parallel | None = None

    def data(self) -> dict[str, Any]:
        """The JSON form."""
        data = asdict(self)
        data.pop("digest")
        return data | {"actions": [action.row() for action in self.actions]}


def plan_model(spec: ModelSpec, facts: ModelFacts) -> ModelPlan:
    """Raises `PlanError` (CAI-PLAN-001) with the arithmetic when no node can hold a replica."""
    replicas, notes = _replicas(spec, facts), notes_of(spec.replicas)
    there = {room.id: capacity(spec.resources, room) for room in facts.nodes}
    ours = _is_vllm(spec, facts) and not facts.placed_by
    parallel = plan_parallel(spec, facts.nodes) if ours else None
    spread = parallel.placement if parallel else None
    strategy, way = _strategy(spec, facts, replicas, spread)
    if parallel and parallel.warning:
        notes.append(parallel.warning)
    if facts.placed_by:
        notes.append(f"placement decided by {facts.placed_by} when the model is deployed")
    elif spread:
        check_placement(spec.name, spread, facts.nodes, replicas)
        _check_free_over_nodes(spec, facts, strategy, replicas, spread)
    else:
        if replicas and sum(there.values()) < replicas:
            raise PlanError("CAI-PLAN-001", _does_not_fit(spec, facts.nodes, replicas, there))
        _check_free(spec, facts, strategy, replicas)
    transport, reason = next(iter(facts.transports.items()))
    keeps = strategy in ("none", "scale") and facts.current is not None
    revision = facts.current.number if keeps and facts.current else facts.next_revision
    return ModelPlan(
        name=spec.name,
        revision=revision,
        engine=spec.engine.type,
        transport=transport,
        reason=reason,
        replicas=replicas,
        cpu=spec.resources.cpu,
        gpu=spec.resources.gpu,
        memory=spec.resources.memory,
        strategy=strategy,
        steps=way,
        digest=digest_of(spec, facts.code),
        placement=_by_group(facts.nodes, there),
        actions=(*_undone(spec, facts), *_actions(spec, facts, strategy, way, revision)),
        notes=tuple(notes),
        placed_by=facts.placed_by,
        front=facts.front,
        parallel=parallel,
    )


def digest_of(spec: ModelSpec, code: str = "") -> str:
    """The same for two specs that a replica could not tell apart; the count is left out.

    `code`: the user's own code that goes with it.
    """
    data = spec.model_dump(mode="json", exclude={"replicas"})
    return hashlib.sha256((json.dumps(data, sort_keys=True) + code).encode()).hexdigest()


def _is_vllm(spec: ModelSpec, facts: ModelFacts) -> bool:
    return (facts.engine or spec.engine.type) == "vllm"


def _replicas(spec: ModelSpec, facts: ModelFacts) -> int:
    """How many the deploy starts with; the autoscaler goes on from there."""
    if not isinstance(spec.replicas, ReplicaRange):
        return spec.replicas
    current = facts.current
    if current is None:
        return first_count(spec.replicas, 0)
    unchanged = current.digest == digest_of(spec, facts.code) and facts.healthy
    count = kept_count if unchanged and current.range else first_count
    return count(spec.replicas, current.replicas)


def _check_free(spec: ModelSpec, facts: ModelFacts, strategy: Strategy, replicas: int) -> None:
    """What other models hold is not there for this one."""
    current = facts.current
    if strategy in ("none", "beside", "rolling"):
        return
    slots = _slots(spec, facts)
    if strategy == "stop-then-start":
        # What the old one leaves counts as far as it is known.
        known = current is not None and current.need is not None
        more, room = replicas, slots[-1] if known else replicas
    else:
        more, room = replicas - (current.replicas if current else 0), slots[0]
    if more > room:
        raise NoFreeRoom(
            "CAI-PLAN-001",
            f'model "{spec.name}": needs room for {more} more replicas of {_each(spec)}; '
            f"beside the models that run there is room for {room}",
        )


def _check_free_over_nodes(
    spec: ModelSpec,
    facts: ModelFacts,
    strategy: Strategy,
    replicas: int,
    spread: Mapping[str, Any],
) -> None:
    current, nodes = facts.current, facts.nodes
    more = replicas - (current.replicas if current else 0)
    if strategy == "stop-then-start" and current and current.need:
        more, nodes = replicas, without(nodes, current.held, current.need)
    elif strategy not in ("start", "scale"):
        return
    if more > 0 and not has_free_room(spread, nodes, more):
        raise NoFreeRoom(
            "CAI-PLAN-001",
            f'model "{spec.name}": needs {spec.resources.gpu} GPU over several nodes for each of '
            f"{more} more replicas; beside the models that run they are not free",
        )


def _each(spec: ModelSpec) -> str:
    need = spec.resources
    gpu = f" and {need.gpu} GPU" if need.gpu else ""
    return f"{need.cpu:g} CPU{gpu}" + (f" and {rounded_size(need.memory)}" if need.memory else "")


def _strategy(
    spec: ModelSpec, facts: ModelFacts, replicas: int, spread: Mapping[str, Any] | None
) -> tuple[Strategy, tuple[Step, ...]]:
    current, at_once = facts.current, (Step(replicas, 0),)
    if current is None:
        return "start", at_once
    if current.digest == digest_of(spec, facts.code) and facts.healthy:
        same = current.replicas == replicas and current.range == range_of(spec.replicas)
        return ("none" if same else "scale"), ()
    if not current.replicas:
        return "start", at_once
    if spread:
        beside = has_free_room(spread, facts.nodes, replicas)
        return ("beside" if beside else "stop-then-start"), at_once
    way = steps(current.replicas, replicas, _slots(spec, facts))
    if len(way) > 1 and facts.healthy and not facts.placed_by:
        return "rolling", way
    return ("beside" if way == at_once else "stop-then-start"), at_once


def _slots(spec: ModelSpec, facts: ModelFacts) -> tuple[int, ...]:
    """How many replicas there is room for, by how many of those that serve now have gone."""
    current = facts.current
    held, need = (current.held, current.need) if current else ({}, None)
    return slots_after(facts.nodes, held, need, spec.resources)


def _undone(spec: ModelSpec, facts: ModelFacts) -> tuple[Action, ...]:
    details = [f"revision {number}, which has been replaced" for number in facts.replaced]
    if facts.half_made is not None:
        details.append(f"revision {facts.half_made}, whose deploy is not complete")
    return tuple(Action("delete", "model", spec.name, detail) for detail in details)


def _actions(
    spec: ModelSpec, facts: ModelFacts, strategy: Strategy, way: Sequence[Step], revision: int
) -> tuple[Action, ...]:
    replicas = _replicas(spec, facts)
    if strategy == "none" or facts.current is None:
        detail = f"revision {revision}, {described(spec.replicas, replicas)}"
        return () if strategy == "none" else (Action("create", "model", spec.name, detail),)
    old = facts.current
    if strategy == "scale":
        detail = f"{old.replicas} to {replicas} replicas"
        follows = f", then {described(spec.replicas, replicas)}" if range_of(spec.replicas) else ""
        return (Action("scale", "model", spec.name, detail + follows),)
    how = {
        "start": "no replica of the old one runs",
        "beside": "the new one starts beside the old one, no request is lost",
        "rolling": f"in {len(way)} steps, {way[0].new if way else 0} new beside the old ones "
        "first, no request is lost",
        "stop-then-start": "no room for both: stop, then start; the model is away meanwhile",
    }[strategy]
    how = how if replicas else "without replicas, the model is idle"
    detail = f"revision {old.number} by {revision}: {how}"
    return (Action("replace", "model", spec.name, detail),)


def _does_not_fit(
    spec: ModelSpec, nodes: Sequence[NodeRoom], replicas: int, capacity: Mapping[str, int]
) -> str:
    need = spec.resources
    if not nodes:
        return f'model "{spec.name}": the cluster has no nodes'
    for word, want, have in (
        ("CPU", need.cpu, max(r.cpu for r in nodes)),
        ("GPU", need.gpu, max(r.gpu for r in nodes)),
    ):
        if want > have:
            return (
                f'model "{spec.name}": needs {want:g} {word} on one node; '
                f"largest node has {have:g}"
            )
    largest = max(r.memory for r in nodes)
    if (need.memory or 0) > largest:
        return (
            f'model "{spec.name}": needs {rounded_size(need.memory or 0)} of memory on one node; '
            f"largest node has {rounded_size(largest)}"
        )
    room = sum(capacity.values())
    return f'model "{spec.name}": {replicas} replicas of {_each(spec)}; the nodes hold {room}'


def _by_group(nodes: Sequence[NodeRoom], capacity: Mapping[str, int]) -> dict[str, int]:
    groups: dict[str, int] = {}
    for room in nodes:
        groups[room.group] = groups.get(room.group, 0) + capacity[room.id]
    return {group: min(count, 10_000) for group, count in groups.items() if count}
