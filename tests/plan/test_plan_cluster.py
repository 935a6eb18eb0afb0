from __future__ import annotations

import json
from typing import Any

import pytest

from ray_serve_cai.errors import ClusterError, PlanError
from ray_serve_cai.plan.cluster import (
    ClusterFacts,
    ClusterPlan,
    Machine,
    fixed_part,
    plan_cluster,
    wanted_nodes,
)
from ray_serve_cai.plan.nodes import HEAD, NodePlan
from ray_serve_cai.spec import ClusterSpec

GI = 2**30
MACHINE = Machine(cpus=8, memory=16 * GI, gpus=(0, 1, 2))


def spec(workers: int | list[dict[str, Any]] = 0, **keys: Any) -> ClusterSpec:
    groups = [{"name": "gpu", "count": workers}] if isinstance(workers, int) else workers
    base = {"kind": "Cluster", "name": "demo", "workers": groups}
    return ClusterSpec.model_validate(base | keys)


def there(wanted: ClusterSpec, **changes: str) -> ClusterFacts:
    """The facts after an `up` of this spec."""
    nodes = wanted_nodes(wanted, MACHINE)
    return ClusterFacts(
        {node.id: "ready" for node in nodes} | changes,
        fixed_part(wanted),
        {node.id: (node.cpu, node.gpu) for node in nodes},
        gateway_running=True,
        machine=MACHINE,
    )


def steps(plan: ClusterPlan) -> list[tuple[str, str, str]]:
    return [(action.verb, action.kind, action.name) for action in plan.actions]


def test_new_cluster() -> None:
    assert steps(plan_cluster(spec(workers=2), ClusterFacts(machine=MACHINE))) == [
        ("create", "cluster", "demo"),
        ("create", "node", "head"),
        ("create", "node", "gpu-0"),
        ("create", "node", "gpu-1"),
        ("start", "gateway", "demo"),
    ]


def test_nothing_to_do() -> None:
    wanted = spec(workers=2)
    assert plan_cluster(wanted, there(wanted)).actions == ()


def test_lost_node_is_replaced() -> None:
    wanted = spec(workers=2)
    facts = there(wanted, **{"gpu-1": "lost"})
    assert steps(plan_cluster(wanted, facts)) == [("replace", "node", "gpu-1")]


def test_lost_head_takes_its_workers_along() -> None:
    wanted = spec(workers=2)
    plan = plan_cluster(wanted, there(wanted, **{HEAD: "lost", "gpu-1": "lost"}))
    assert [(action.verb, action.name, action.detail) for action in plan.actions] == [
        ("replace", HEAD, "it is lost"),
        ("replace", "gpu-0", "its head is lost"),
        ("replace", "gpu-1", "it is lost"),
    ]


@pytest.mark.parametrize(
    ("change", "detail"), [({"cpu": 3}, "now 3 CPU"), ({"gpu": 1}, "now 1 CPU, 1 GPU")]
)
def test_worker_of_another_shape_is_replaced(change: dict[str, Any], detail: str) -> None:
    group = {"name": "gpu", "cpu": 1, "memory": "1Gi"}
    plan = plan_cluster(spec([group | change]), there(spec([group])))
    assert steps(plan) == [("replace", "node", "gpu-0")]
    assert plan.actions[0].detail.replace(", 1.0Gi", "") == detail


def test_dead_gateway_is_started() -> None:
    wanted = spec()
    facts = ClusterFacts({"head": "ready"}, fixed_part(wanted), machine=MACHINE)
    assert steps(plan_cluster(wanted, facts)) == [("start", "gateway", "demo")]


def test_more_workers() -> None:
    assert steps(plan_cluster(spec(workers=3), there(spec(workers=1)))) == [
        ("create", "node", "gpu-1"),
        ("create", "node", "gpu-2"),
    ]


def test_fewer_workers() -> None:
    assert steps(plan_cluster(spec(), there(spec(workers=2)))) == [
        ("delete", "node", "gpu-0"),
        ("delete", "node", "gpu-1"),
    ]


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("head", {"cpu": 2}),
        ("ray", {"port": 7000}),
        ("gateway", {"port": 8001}),
        ("gateway", {"api_keys": ["a", "b"]}),
        ("provider", {"type": "existing"}),
    ],
)
def test_change_that_needs_a_new_cluster(key: str, change: dict[str, Any]) -> None:
    with pytest.raises(ClusterError, match=rf'"demo" runs with another value of {key}') as caught:
        plan_cluster(spec(**{key: change}), there(spec()))
    assert caught.value.code == "CAI-CLUSTER-011"


def test_fixed_part_holds_no_secret() -> None:
    secrets = "sk-secret", "hf_secret", "ray-secret"
    keys: dict[str, Any] = {"gateway": {"api_keys": ["sk-secret"]}}
    keys["ray"] = {"env": {"HF_TOKEN": "hf_secret"}}
    keys["provider"] = {"type": "existing", "token": "ray-secret"}
    text = json.dumps(fixed_part(spec(**keys)))
    assert not [secret for secret in secrets if secret in text]


class TestOneMachine:
    def test_each_gpu_belongs_to_one_node(self) -> None:
        workers = [{"name": "gpu", "count": 2, "gpu": 1}]
        nodes = wanted_nodes(spec(head={"gpu": 1}, workers=workers), MACHINE)
        assert [node.gpu_ids for node in nodes] == [(0,), (1,), (2,)]

    def test_node_without_gpu_sees_none(self) -> None:
        nodes = wanted_nodes(spec(workers=[{"name": "gpu", "gpu": 2}]), MACHINE)
        assert [node.gpu_ids for node in nodes] == [(), (0, 1)]

    def test_memory_is_shared(self) -> None:
        first, second = wanted_nodes(spec(workers=1), MACHINE)
        assert first.memory == second.memory
        assert (first.memory or 0) + (second.memory or 0) <= MACHINE.memory * 0.8

    def test_given_memory_stays(self) -> None:
        (head,) = wanted_nodes(spec(head={"memory": "2Gi"}), MACHINE)
        assert head.memory == 2 * GI

    def test_too_few_gpus(self) -> None:
        with pytest.raises(PlanError, match=r"ask for 4 GPU; this machine has 3") as caught:
            wanted_nodes(spec(workers=[{"name": "gpu", "count": 2, "gpu": 2}]), MACHINE)
        assert caught.value.code == "CAI-PLAN-003"

    def test_too_little_memory(self) -> None:
        with pytest.raises(PlanError, match=r"ask for 20.0Gi of memory; this machine has 16.0Gi"):
            wanted_nodes(spec(head={"memory": "20Gi"}), MACHINE)

    def test_shared_cpus_are_said(self) -> None:
        plan = plan_cluster(spec(head={"cpu": 16}), ClusterFacts(machine=MACHINE))
        assert plan.notes == ("the nodes share 8 CPUs but offer 16 to Ray",)


def test_existing_owns_no_nodes() -> None:
    wanted = spec(provider={"type": "existing"})
    assert wanted_nodes(wanted, None) == ()


class TestPods:
    """On Cloudera AI a pod must be asked for with a size."""

    WORKERS = [{"name": "a", "cpu": 4}, {"name": "b", "memory": "3Gi"}]

    @pytest.mark.parametrize("kind", ["cai-applications", "cai-workers"])
    def test_memory_where_none_is_given(self, kind: str) -> None:
        provider = {"type": kind} | ({"head_in": "worker"} if kind == "cai-workers" else {})
        wanted = spec(self.WORKERS, provider=provider, head={"cpu": 0})
        plan = plan_cluster(wanted, ClusterFacts())
        sizes = {node.id: node.memory for node in plan.nodes}
        assert sizes == {"head": 4 * GI, "a-0": 16 * GI, "b-0": 3 * GI}
        assert plan.notes == ("no memory given for head, a: 4.0Gi for each CPU are asked for",)

    def test_head_in_the_launcher_has_what_that_has(self) -> None:
        plan = plan_cluster(spec([], provider={"type": "cai-workers"}), ClusterFacts())
        assert (plan.nodes[0].memory, plan.notes) == (None, ())


def test_scaled_group_is_said() -> None:
    wanted = spec(workers=1)
    facts = ClusterFacts(fixed=fixed_part(wanted), scaled={"gpu": 3}, machine=MACHINE)
    assert plan_cluster(wanted, facts).notes == (
        "group gpu: 3 set by `cluster scale` gives way to the file",
    )


def test_plan_is_json() -> None:
    plan = plan_cluster(spec(workers=1), ClusterFacts(machine=MACHINE))
    data = json.loads(json.dumps(plan.data()))
    assert [node["id"] for node in data["nodes"]] == ["head", "gpu-0"]
    assert set(data["actions"][0]) == {"verb", "kind", "name", "detail"}


@pytest.mark.parametrize("gpu_ids", [None, (), (0, 3)])
def test_node_crosses_as_json(gpu_ids: tuple[int, ...] | None) -> None:
    node = NodePlan("gpu-0", "worker", "gpu", 1.5, 2 * GI, 2, gpu_ids, "NVIDIA-L4")
    assert NodePlan.from_json(node.to_json()) == node
