"""How the workers of one vLLM engine are spread: processes of one node, or Ray over several.

Pure. The sizes and the executor's names are vLLM's own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ray_serve_cai.errors import PlanError
from ray_serve_cai.plan.room import NodeRoom, capacity
from ray_serve_cai.spec import ModelSpec, Resources

Executor = Literal["uni", "mp", "ray"]

TENSOR, PIPELINE, DATA = (f"{kind}_parallel_size" for kind in ("tensor", "pipeline", "data"))
SIZES = (TENSOR, PIPELINE, "prefill_context_parallel_size", DATA)
EXECUTOR = "distributed_executor_backend"


@dataclass(frozen=True)
class Parallel:
    """The workers of one replica. `executor` is what starts them; with `ray` each has a bundle of
    `placement`, else that is None and all are on the replica's node."""

    workers: int
    executor: Executor
    reason: str
    placement: Mapping[str, Any] | None = None
    warning: str = ""


def plan_parallel(spec: ModelSpec, nodes: Sequence[NodeRoom]) -> Parallel:
    """Where the workers of a vLLM model run.

    Raises `PlanError` (CAI-PLAN-001) for another number of workers than of reserved GPUs, and for
    workers of several nodes where vLLM cannot have them there. Without GPUs the workers share the
    CPUs of one node, and their number is the spec's affair.
    """
    sizes = {name: _size(spec.engine.args, name) for name in SIZES}
    count, asked = workers(spec.engine.args), _given(spec.engine.args, EXECUTOR)
    gpu = spec.resources.gpu
    product = " x ".join(f"{name} {size}" for name, size in sizes.items() if size > 1)
    if gpu and count > gpu:
        raise PlanError(
            "CAI-PLAN-001",
            f'model "{spec.name}": {product} is {count} workers; resources.gpu is {gpu}',
            hint=f"Set resources.gpu to {count}.",
        )
    fits = not gpu or any(capacity(spec.resources, room) for room in nodes)
    if asked != "ray" and (fits or count < gpu or not _over_nodes(gpu, nodes)):
        # What fits on no node, nor over them, is refused with the arithmetic of one node.
        return _on_one_node(count, asked, gpu)
    fault = _fault(asked, sizes, count, gpu)
    if fault:
        raise PlanError("CAI-PLAN-001", f'model "{spec.name}": {fault}')
    largest = int(max((room.gpu for room in nodes), default=0))
    return Parallel(
        count,
        "ray",
        "the spec says so" if asked == "ray" else f"no node holds {gpu} GPUs; Ray spans nodes",
        {"bundles": bundles_of(spec.resources), "strategy": "PACK"},
        warning=f"{TENSOR} {sizes[TENSOR]} is more than the {largest} GPUs of the largest node: "
        f"every layer waits for the network; {PIPELINE} over nodes and {TENSOR} inside is faster"
        if sizes[TENSOR] > largest
        else "",
    )


def with_executor(
    args: Mapping[str, Any], bundles: Sequence[Mapping[str, float]]
) -> dict[str, Any]:
    """vLLM's arguments for the bundles that a replica reserves: Ray starts the workers when each
    has a bundle of one GPU, as vLLM wants it. In larger bundles only the first one's GPUs can be
    used, where the replica itself is."""
    gpus = [bundle["GPU"] for bundle in bundles if bundle.get("GPU")]
    spread = 1 < workers(args) <= len(gpus) and set(gpus) == {1} and _size(args, DATA) == 1
    if spread and _given(args, EXECUTOR) is None:
        return {**args, EXECUTOR: "ray"}
    return dict(args)


def over_nodes(args: Mapping[str, Any]) -> bool:
    """Whether Ray starts the engine's workers."""
    return bool(_given(args, EXECUTOR) == "ray")


def workers(args: Mapping[str, Any], sizes: Sequence[str] = SIZES) -> int:
    """How many the arguments ask for."""
    return math.prod(_size(args, name) for name in sizes)


def bundles_of(need: Resources) -> list[dict[str, float]]:
    """One for each GPU; the first has the CPUs and the memory too, for the process that leads."""
    lead = {"CPU": need.cpu, "GPU": 1.0, "memory": float(need.memory or 0)}
    others = [{"GPU": 1.0} for _ in range(need.gpu - 1)]
    return [{name: amount for name, amount in lead.items() if amount}, *others]


def _on_one_node(count: int, asked: Any, gpu: int) -> Parallel:
    idle = f"resources.gpu is {gpu}, for {count} workers; the rest is idle"
    warning = idle if gpu > count else ""
    if asked in ("uni", "mp"):
        return Parallel(count, asked, "the spec says so", warning=warning)
    if count == 1:
        return Parallel(1, "uni", "one worker", warning=warning)
    return Parallel(count, "mp", f"{count} processes of one node", warning=warning)


def _over_nodes(gpu: int, nodes: Sequence[NodeRoom]) -> bool:
    return max((room.gpu for room in nodes), default=0) < gpu <= sum(room.gpu for room in nodes)


def _fault(asked: Any, sizes: Mapping[str, int], count: int, gpu: int) -> str | None:
    """Why workers cannot be spread over nodes."""
    if not gpu:
        return f"{EXECUTOR} is ray, which needs resources.gpu; on CPUs leave it out"
    if count < gpu:
        return f"{EXECUTOR} is ray, with {count} workers on {gpu} GPUs; each takes one"
    if asked not in (None, "ray"):
        return f"{EXECUTOR} is {asked}, but no node holds {gpu} GPUs; leave it out for Ray"
    if sizes[DATA] > 1:
        return f"{DATA} is {sizes[DATA]}, but no node holds {gpu} GPUs; use replicas instead"
    return None


def _size(args: Mapping[str, Any], name: str) -> int:
    value = str(_given(args, name))
    # What is no number vLLM refuses itself.
    return max(int(value), 1) if value.isdecimal() else 1


def _given(args: Mapping[str, Any], name: str) -> Any:
    return args.get(name, args.get(name.replace("_", "-")))
