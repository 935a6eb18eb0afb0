from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, ClassVar

import pytest

from ray_serve_cai.errors import PlanError
from ray_serve_cai.plan.model import (
    ModelFacts,
    ModelPlan,
    NoFreeRoom,
    Revision,
    digest_of,
    plan_model,
)
from ray_serve_cai.plan.room import NodeRoom, check_placement, has_free_room
from ray_serve_cai.plan.scaling import range_of
from ray_serve_cai.spec import ModelSpec

GI = 2**30


def model(**keys: Any) -> ModelSpec:
    base = {"kind": "Model", "name": "chat", "source": "org/chat", "resources": {"cpu": 2}}
    return ModelSpec.model_validate(base | keys)


def room(name: str = "head", cpu: float = 4, free: float | None = None, gpu: int = 0) -> NodeRoom:
    free = cpu if free is None else free
    group = name.rsplit("-", 1)[0]
    return NodeRoom(name, group, cpu, gpu, 8 * GI, free, gpu, 8 * GI)


def plan(spec: ModelSpec, *nodes: NodeRoom, **facts: Any) -> ModelPlan:
    return plan_model(spec, ModelFacts(nodes, {"grpc": "fastest"}, **facts))


def serving(spec: ModelSpec, replicas: int = 1) -> dict[str, Any]:
    return {"current": Revision(3, digest_of(spec), replicas), "next_revision": 4}


def test_new_model() -> None:
    found = plan(model(), room())
    assert (found.strategy, found.revision, found.placement) == ("start", 1, {"head": 2})
    (action,) = found.actions
    assert (action.verb, action.kind, action.name) == ("create", "model", "chat")


def test_placement_is_by_group() -> None:
    nodes = room(cpu=1), room("gpu-0", gpu=1), room("gpu-1", gpu=1)
    found = plan(model(resources={"cpu": 1, "gpu": 1}, replicas=2), *nodes)
    assert found.placement == {"gpu": 2}


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"resources": {"gpu": 2}}, "needs 2 GPU on one node; largest node has 1"),
        ({"resources": {"cpu": 6}}, "needs 6 CPU on one node; largest node has 4"),
        (
            {"resources": {"cpu": 1, "memory": "9Gi"}},
            "needs 9.0Gi of memory on one node; largest node has 8.0Gi",
        ),
        ({"replicas": 3}, "3 replicas of 2 CPU; the nodes hold 2"),
        (
            {"resources": {"cpu": 1, "gpu": 1}, "replicas": 2},
            "2 replicas of 1 CPU and 1 GPU; the nodes hold 1",
        ),
    ],
)
def test_does_not_fit(keys: dict[str, Any], text: str) -> None:
    with pytest.raises(PlanError) as caught:
        plan(model(**keys), room(gpu=1))
    assert caught.value.code == "CAI-PLAN-001"
    assert caught.value.message == f'model "chat": {text}'


def test_room_that_other_models_hold() -> None:
    with pytest.raises(NoFreeRoom) as caught:
        plan(model(replicas=2), room("a-0", free=3), room("a-1", free=1))
    assert caught.value.code == "CAI-PLAN-001"
    assert caught.value.message == (
        'model "chat": needs room for 2 more replicas of 2 CPU; '
        "beside the models that run there is room for 1"
    )


def test_scaling_needs_room_for_the_new_ones_alone() -> None:
    more = model(replicas=3)
    assert plan(more, room(cpu=8, free=2), **serving(model(), 2)).strategy == "scale"
    with pytest.raises(NoFreeRoom, match=r"for 2 more replicas of .* there is room for 1"):
        plan(more, room(cpu=8, free=2), **serving(model(), 1))


def test_no_nodes() -> None:
    with pytest.raises(PlanError, match="the cluster has no nodes"):
        plan(model())


def test_resources_of_two_nodes_do_not_add_up() -> None:
    with pytest.raises(PlanError, match="largest node has 4"):
        plan(model(resources={"cpu": 6}), room("a-0"), room("a-1"))


def test_model_without_replicas_needs_no_room() -> None:
    assert plan(model(replicas=0), room(cpu=1)).replicas == 0


class TestWhatServesAlready:
    def test_unchanged(self) -> None:
        found = plan(model(), room(), **serving(model()))
        assert (found.strategy, found.actions, found.revision) == ("none", (), 3)

    def test_unchanged_beside_a_half_made_one(self) -> None:
        found = plan(model(), room(), half_made=4, **serving(model()))
        (action,) = found.actions
        assert (found.strategy, action.verb) == ("none", "delete")
        assert action.detail == "revision 4, whose deploy is not complete"

    def test_unchanged_but_sick(self) -> None:
        found = plan(model(), room(), healthy=False, **serving(model()))
        assert (found.strategy, found.revision) == ("beside", 4)

    def test_other_count_only(self) -> None:
        found = plan(model(replicas=2), room(), **serving(model()))
        assert (found.strategy, found.revision) == ("scale", 3)
        assert found.actions[0].detail == "1 to 2 replicas"

    def test_changed_with_room_for_both(self) -> None:
        found = plan(model(env={"A": "1"}), room(free=2), **serving(model()))
        assert (found.strategy, found.revision) == ("beside", 4)
        assert "no request is lost" in found.actions[0].detail

    def test_changed_with_room_for_one_more(self) -> None:
        change, there = model(env={"A": "1"}, replicas=2), serving(model(replicas=2), 2)
        there["current"] = replace(there["current"], held={"head": 2}, need=model().resources)
        found = plan(change, room(cpu=6, free=2), **there)
        assert found.strategy == "rolling"
        assert [(step.new, step.old) for step in found.steps] == [(1, 1), (2, 0)]
        assert found.actions[0].detail == (
            "revision 3 by 4: in 2 steps, 1 new beside the old ones first, no request is lost"
        )
        assert plan(change, room(cpu=6, free=1), **there).strategy == "stop-then-start"
        # What does not serve has nothing to keep up.
        sick = plan(change, room(cpu=6, free=2), healthy=False, **there)
        assert sick.strategy == "stop-then-start"

    def test_changed_without_room_once_the_old_one_is_gone(self) -> None:
        there = serving(model(), 1)
        there["current"] = replace(there["current"], held={"head": 1}, need=model().resources)
        with pytest.raises(NoFreeRoom, match=r"for 3 more replicas of .* there is room for 2"):
            plan(model(env={"A": "1"}, replicas=3), room(cpu=6, free=2), **there)

    def test_changed_without_room_for_both(self) -> None:
        found = plan(model(env={"A": "1"}), room(free=1), **serving(model()))
        assert found.strategy == "stop-then-start"
        assert "the model is away meanwhile" in found.actions[0].detail


class TestIdle:
    """A model without replicas."""

    def test_up_and_down_are_scaling(self) -> None:
        down = plan(model(replicas=0), room(), **serving(model()))
        assert (down.strategy, down.actions[0].detail) == ("scale", "1 to 0 replicas")
        up = plan(model(), room(), **serving(model(), 0))
        assert (up.strategy, up.actions[0].detail) == ("scale", "0 to 1 replicas")

    def test_change_of_it_stops_nothing(self) -> None:
        found = plan(model(env={"A": "1"}), room(), **serving(model(), 0))
        assert found.strategy == "start"
        assert found.actions[0].detail == "revision 3 by 4: no replica of the old one runs"
        with pytest.raises(NoFreeRoom):
            plan(model(env={"A": "1"}), room(free=1), **serving(model(), 0))

    def test_change_to_it(self) -> None:
        found = plan(model(env={"A": "1"}, replicas=0), room(free=0), **serving(model()))
        assert found.strategy == "beside"
        assert found.actions[0].detail.endswith("without replicas, the model is idle")


class TestRange:
    RANGE: ClassVar = {"min": 0, "max": 4}

    @pytest.mark.parametrize(("least", "count"), [(0, 1), (1, 1), (2, 2)])
    def test_starts_with_its_least(self, least: int, count: int) -> None:
        found = plan(model(replicas={"min": least, "max": 4}), room())
        assert found.replicas == count
        assert found.actions[0].detail == f"revision 1, {least} to 4 replicas, 16 requests each"

    @pytest.mark.parametrize("running", [0, 1, 3])
    def test_unchanged(self, running: int) -> None:
        """Whatever the autoscaler has made of the count."""
        assert self.again(running, self.RANGE).actions == ()

    @pytest.mark.parametrize(("running", "count"), [(0, 1), (1, 1), (3, 3)])
    def test_changed_model_starts_with_what_runs(self, running: int, count: int) -> None:
        found = self.again(running, self.RANGE, env={"A": "1"})
        assert (found.revision, found.replicas) == (2, count)

    @pytest.mark.parametrize(("running", "count"), [(0, 0), (1, 1), (4, 2)])
    def test_other_range(self, running: int, count: int) -> None:
        found = self.again(running, {"min": 0, "max": 2})
        assert (found.strategy, found.replicas) == ("scale", count)

    def test_after_a_fixed_number(self) -> None:
        current = Revision(1, digest_of(model()), 0)
        found = plan(model(replicas=self.RANGE), room(cpu=16), current=current, next_revision=2)
        assert (found.strategy, found.replicas) == ("scale", 1)

    def again(self, running: int, wanted: dict[str, Any], **keys: Any) -> Any:
        before = range_of(model(replicas=self.RANGE).replicas)
        current = Revision(1, digest_of(model()), running, range=before)
        return plan(model(replicas=wanted, **keys), room(cpu=16), current=current, next_revision=2)


def test_first_transport_is_taken_with_its_reason() -> None:
    found = plan_model(model(), ModelFacts([room()], {"http": "because", "grpc": "never"}))
    assert (found.transport, found.reason) == ("http", "because")


def test_digest_leaves_out_the_count_alone() -> None:
    assert digest_of(model(replicas=2)) == digest_of(model())
    assert digest_of(model(env={"A": "1"})) != digest_of(model())


def test_plan_is_json() -> None:
    data = json.loads(json.dumps(plan(model(), room()).data()))
    assert data["actions"][0]["verb"] == "create"
    assert "digest" not in data


class TestPlacement:
    """Bundles that a hook decided."""

    @pytest.mark.parametrize(
        ("bundles", "strategy", "said"),
        [
            ([{"CPU": 5}], "PACK", "needs 5 CPU on one node; largest node has 4 CPU"),
            ([{"CPU": 3}] * 2, "STRICT_PACK", "needs 6 CPU on one node"),
            ([{"CPU": 3}] * 3, "PACK", "needs 9 CPU in all; the nodes have 8 CPU"),
            ([{"CPU": 1}] * 3, "STRICT_SPREAD", "needs 3 nodes"),
        ],
    )
    def test_that_can_never_fit(self, bundles: Any, strategy: str, said: str) -> None:
        with pytest.raises(PlanError, match=said):
            check_placement("m", {"bundles": bundles, "strategy": strategy}, self.nodes(), 1)

    def test_that_fits(self) -> None:
        placement = {"bundles": [{"CPU": 2}] * 2, "strategy": "STRICT_PACK"}
        check_placement("m", placement, self.nodes(), 2)
        assert has_free_room(placement, self.nodes(free=4), 1)
        assert not has_free_room(placement, self.nodes(free=1), 1)

    def test_code_makes_another_revision(self) -> None:
        assert digest_of(model(), "code") != digest_of(model())

    def nodes(self, free: float = 4) -> list[NodeRoom]:
        return [NodeRoom(name, "g", 4, 0, 2**30, free, 0, 2**30) for name in ("a", "b")]
