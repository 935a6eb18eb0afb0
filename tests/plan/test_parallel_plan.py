from __future__ import annotations

from typing import Any

import pytest

from ray_serve_cai.errors import PlanError
from ray_serve_cai.plan.model import ModelFacts, ModelPlan, Revision, digest_of, plan_model
from ray_serve_cai.plan.parallel import over_nodes, with_executor
from ray_serve_cai.plan.room import NodeRoom
from ray_serve_cai.spec import ModelSpec
from ray_serve_cai.spec.model import Engine

GI = 2**30


def model(gpu: int = 0, cpu: float = 2, **args: Any) -> ModelSpec:
    resources = {"cpu": cpu, "gpu": gpu, "memory": "1Gi"}
    base = {"kind": "Model", "name": "chat", "source": "org/chat", "resources": resources}
    return ModelSpec.model_validate(base | {"engine": {"args": args}})


def rooms(*gpus: int, free: int | None = None) -> list[NodeRoom]:
    return [
        NodeRoom(f"gpu-{i}", "gpu", 8, gpu, 8 * GI, 8, gpu if free is None else free, 8 * GI)
        for i, gpu in enumerate(gpus)
    ]


def room(name: str, gpu: int, free: int | None = None, cpu: float = 8) -> NodeRoom:
    left = gpu if free is None else free
    return NodeRoom(name, name.rsplit("-", 1)[0], cpu, gpu, 8 * GI, cpu, left, 8 * GI)


def plan(spec: ModelSpec, nodes: list[NodeRoom], **facts: Any) -> ModelPlan:
    return plan_model(spec, ModelFacts(nodes, {"grpc": "fastest"}, **facts))


@pytest.mark.parametrize(
    ("args", "gpu", "executor", "reason"),
    [
        ({}, 0, "uni", "one worker"),
        ({}, 1, "uni", "one worker"),
        ({"tensor_parallel_size": 2}, 0, "mp", "2 processes of one node"),
        ({"tensor-parallel-size": 2, "pipeline_parallel_size": 2}, 4, "mp", "4 processes of"),
        ({"data_parallel_size": 4}, 4, "mp", "4 processes of one node"),
        ({"distributed_executor_backend": "mp"}, 1, "mp", "the spec says so"),
        ({"distributed_executor_backend": "ray"}, 1, "ray", "the spec says so"),
        ({"tensor_parallel_size": "4", "prefill_context_parallel_size": 2}, 8, "ray", "no node"),
        ({"tensor_parallel_size": 8}, 8, "ray", "no node holds 8 GPUs; Ray spans nodes"),
    ],
)
def test_what_starts_the_workers(
    args: dict[str, Any], gpu: int, executor: str, reason: str
) -> None:
    found = plan(model(gpu, **args), rooms(4, 4)).parallel
    assert found is not None
    assert found.executor == executor
    assert found.reason.startswith(reason)
    assert (found.placement is not None) == (executor == "ray")


def test_vllm_by_its_dotted_path() -> None:
    spec = model(1).model_copy(update={"engine": Engine(type="a.b.VLLMEngine")})
    assert plan(spec, rooms(4)).parallel is None
    assert plan(spec, rooms(4), engine="vllm").parallel is not None


def test_each_gpu_has_a_bundle() -> None:
    args = {"tensor_parallel_size": 2, "pipeline_parallel_size": 2}
    found = plan(model(4, **args), rooms(2, 2))
    assert found.parallel is not None
    assert found.parallel.workers == 4
    lead = {"CPU": 2, "GPU": 1, "memory": GI}
    bundles = [lead, {"GPU": 1}, {"GPU": 1}, {"GPU": 1}]
    assert found.parallel.placement == {"bundles": bundles, "strategy": "PACK"}
    assert found.notes == ()
    assert found.data()["parallel"]["executor"] == "ray"


def test_a_tensor_over_nodes_is_slow() -> None:
    (note,) = plan(model(4, tensor_parallel_size=4), rooms(2, 2)).notes
    assert note.startswith("tensor_parallel_size 4 is more than the 2 GPUs of the largest node")


def test_idle_gpus_are_told() -> None:
    (note,) = plan(model(4, tensor_parallel_size=2), rooms(4)).notes
    assert note == "resources.gpu is 4, for 2 workers; the rest is idle"


@pytest.mark.parametrize(
    ("args", "gpu", "text"),
    [
        (
            {"tensor_parallel_size": 2, "pipeline_parallel_size": 4},
            4,
            "tensor_parallel_size 2 x pipeline_parallel_size 4 is 8 workers; resources.gpu is 4",
        ),
        (
            {"tensor_parallel_size": 8, "distributed_executor_backend": "mp"},
            8,
            "distributed_executor_backend is mp, but no node holds 8 GPUs; leave it out for Ray",
        ),
        (
            {"distributed_executor_backend": "ray"},
            0,
            "distributed_executor_backend is ray, which needs resources.gpu; on CPUs leave it out",
        ),
        (
            {"distributed_executor_backend": "ray"},
            2,
            "distributed_executor_backend is ray, with 1 workers on 2 GPUs; each takes one",
        ),
        (
            {"data_parallel_size": 8},
            8,
            "data_parallel_size is 8, but no node holds 8 GPUs; use replicas instead",
        ),
        ({"tensor_parallel_size": 16}, 16, "needs 16 GPU on one node; largest node has 4"),
        ({}, 8, "needs 8 GPU on one node; largest node has 4"),
    ],
)
def test_refused(args: dict[str, Any], gpu: int, text: str) -> None:
    with pytest.raises(PlanError) as caught:
        plan(model(gpu, **args), rooms(4, 4))
    assert caught.value.code == "CAI-PLAN-001"
    assert caught.value.message == f'model "chat": {text}'


def test_gpus_that_others_hold() -> None:
    with pytest.raises(PlanError) as caught:
        plan(model(8, tensor_parallel_size=8), rooms(4, 4, free=2))
    assert caught.value.message == (
        'model "chat": needs 8 GPU over several nodes for each of 1 more replicas; '
        "beside the models that run they are not free"
    )


@pytest.mark.parametrize(("free", "strategy"), [(8, "beside"), (0, "stop-then-start")])
def test_replacing_one_that_spans_nodes(free: int, strategy: str) -> None:
    old, new = (model(12, tensor_parallel_size=12, seed=seed) for seed in (1, 2))
    current = Revision(3, digest_of(old), 1)
    found = plan(new, rooms(8, 8, free=free), current=current, next_revision=4)
    assert found.strategy == strategy


@pytest.mark.parametrize(("held", "refused"), [({"gpu-0": 1}, True), ({"gpu-0": 2}, False)])
def test_what_the_old_one_leaves_must_suffice(held: dict[str, int], refused: bool) -> None:
    """Before it is stopped."""
    old, new = model(2), model(6, tensor_parallel_size=6)
    current = Revision(3, digest_of(old), sum(held.values()), held, old.resources)
    nodes = [room("gpu-0", 4, free=0), room("gpu-1", 4, free=2)]
    if refused:
        with pytest.raises(PlanError, match="they are not free"):
            plan(new, nodes, current=current, next_revision=4)
    else:
        found = plan(new, nodes, current=current, next_revision=4)
        assert found.strategy == "stop-then-start"


def test_the_leading_bundle_needs_cpu_and_gpu_on_one_node() -> None:
    nodes = [room("head", 0, cpu=8), room("gpu-0", 4, cpu=1), room("gpu-1", 4, cpu=1)]
    with pytest.raises(PlanError) as caught:
        plan(model(8, tensor_parallel_size=8), nodes)
    assert "needs 2 CPU and 1 GPU and" in caught.value.message
    assert caught.value.message.endswith("on one node; none has all of it")


def test_hooks_that_place_decide_this_too() -> None:
    assert plan(model(1, tensor_parallel_size=4), rooms(4), placed_by="mine").parallel is None


def test_fewer_replicas_need_no_room() -> None:
    spec = model(8, tensor_parallel_size=8)
    current = Revision(3, digest_of(spec), 2)
    assert plan(spec, rooms(4, 4, 4, 4, free=0), current=current).strategy == "scale"


def test_bundles_that_hooks_chose_decide_too() -> None:
    two = [{"CPU": 1.0, "GPU": 1.0}, {"GPU": 1.0}]
    asked = {"tensor-parallel-size": 2}
    assert over_nodes(with_executor(asked, two))
    assert not over_nodes(with_executor(asked, [{"CPU": 1.0, "GPU": 2.0}]))
    assert not over_nodes(with_executor({}, two))
    # vLLM takes bundles of one GPU alone, and no data parallel ranks by them.
    assert not over_nodes(with_executor({"tensor_parallel_size": 8}, [{"GPU": 4.0}] * 2))
    assert not over_nodes(with_executor({"data_parallel_size": 2}, two))
    kept = {**asked, "distributed-executor-backend": "mp"}
    assert with_executor(kept, two) == kept


def test_other_engines_are_not_asked() -> None:
    base = {"kind": "Model", "name": "chat", "source": "org/chat", "engine": {"type": "echo"}}
    assert plan(ModelSpec.model_validate(base), rooms(4)).parallel is None
