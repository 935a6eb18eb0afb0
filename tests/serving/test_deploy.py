"""The deployer without Ray: what it asks of it is recorded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from ray_serve_cai.cluster.state import ClusterRecord, ClusterState
from ray_serve_cai.errors import ModelError
from ray_serve_cai.plan.model import ModelPlan, digest_of
from ray_serve_cai.plan.room import NodeRoom
from ray_serve_cai.serving import deploy, following, rescaling, running
from ray_serve_cai.serving.revisions import RevisionRecord, Revisions
from ray_serve_cai.spec import Document, load_files


def test_old_revision_comes_back_before_ray_knows_of_its_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray learns with a delay that the failed revision is gone; Serve waits for the room."""
    started: list[tuple[int, int]] = []
    asked: list[Any] = []
    full = NodeRoom("head", "head", 2, 0, 2**30, 0, 0, 0)
    admit = SimpleNamespace(remote=lambda *words: words)
    monkeypatch.setattr(deploy, "node_rooms", lambda _: [full])
    monkeypatch.setattr(running, "find_gateway", lambda _: SimpleNamespace(admit=admit))
    monkeypatch.setattr(running, "ask", asked.append)
    followed: list[RevisionRecord] = []
    monkeypatch.setattr(deploy, "follow", lambda _, it: followed.append(it))
    monkeypatch.setattr(
        running,
        "start_application",
        lambda job, replicas, *_: started.append((job.revision, replicas)),
    )

    state, record, old = world(tmp_path)
    monkeypatch.setattr(running, "serves", lambda *_: False)
    assert deploy.Deployer(state, record).bring_back("chat") == old
    assert started == [(3, 1)]
    assert asked == [("chat", 3)]
    assert followed == [old]


def test_idle_model_comes_back_idle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an application, which the autoscaler wakes."""
    state, record, old = world(tmp_path)
    old.range = {"min": 0, "max": 2}
    Revisions(state).save(old)
    started: list[tuple[int, int]] = []
    monkeypatch.setattr(deploy, "node_rooms", lambda _: [])
    monkeypatch.setattr(deploy, "plan_model", lambda *_: None)
    monkeypatch.setattr(following, "counts", lambda _: {"chat": 0})
    monkeypatch.setattr(deploy, "follow", lambda _, it: started.append((it.revision, it.replicas)))
    monkeypatch.setattr(running.Running, "serves", lambda *_: False)
    monkeypatch.setattr(running.Running, "admit", lambda *_: None)
    monkeypatch.setattr(
        running,
        "start_application",
        lambda job, replicas, *_: started.append((job.revision, replicas)),
    )
    assert deploy.Deployer(state, record).bring_back("chat") == replace(old, replicas=0)
    assert started == [(3, 0), (3, 0)]


def test_deploy_of_what_serves_undoes_a_half_made_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its deploy was killed in the midst of a roll."""
    state, record, old = world(tmp_path)
    revisions = Revisions(state)
    revisions.save(replace(old, revision=4, digest="", state="starting", steps=[[1, 0]], done=1))
    deployer = deploy.Deployer(state, record)
    asked: list[tuple[int, int]] = []
    fake = SimpleNamespace(
        serves=lambda _: True,
        admit=lambda _: None,
        rows=lambda _: [],
        ready=lambda _: 0,
        run=lambda it, replicas: asked.append((it.revision, replicas)),
        end=lambda it: asked.append((it.revision, 0)),
    )
    monkeypatch.setattr(deployer, "_running", fake)
    monkeypatch.setattr(deploy, "node_names", dict)
    followed: list[RevisionRecord] = []
    monkeypatch.setattr(deploy, "follow", lambda _, it: followed.append(it))
    monkeypatch.setattr(
        deploy, "node_rooms", lambda _: [NodeRoom("head", "head", 4, 0, 2**30, 4, 0, 0)]
    )
    document = revisions.document(old)
    plan = deployer.plan(document)
    assert plan.strategy == "none"
    done = deployer.deploy(document, plan, report=lambda *_: None, timeout=1)
    assert [action.detail for action in done.actions] == [
        "revision 4, whose deploy is not complete"
    ]
    assert asked[-2:] == [(4, 0), (3, 1)]
    assert followed == [old]
    assert [it.state for it in revisions.of("chat")] == ["active", "failed"]


def test_undoing_that_fails_lets_the_old_one_follow_its_load_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, record, old = world(tmp_path)
    revisions = Revisions(state)
    new = replace(old, revision=4, state="starting", steps=[[1, 0]])
    revisions.save(new)
    deployer = deploy.Deployer(state, record)

    def stuck(_: RevisionRecord) -> None:
        raise ModelError("CAI-CLUSTER-006", "still stopping")

    fake = SimpleNamespace(end=stuck, admit=lambda _: None, rows=lambda _: [])
    monkeypatch.setattr(deployer, "_running", fake)
    followed: list[RevisionRecord] = []
    monkeypatch.setattr(deploy, "follow", lambda _, it: followed.append(it))
    said: list[str] = []
    deployer._give_up(new, ModelError("CAI-MODEL-002", "no"), lambda _, it="": said.append(it))
    assert followed == [old]
    assert said[-1] == "not complete: still stopping"
    assert [it.state for it in revisions.of("chat")] == ["active", "failed"]


def test_another_count_for_one_that_still_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both deploys with `--no-wait`: the first must not be lost, nor the old one be changed."""
    state, record, old = world(tmp_path)
    revisions = Revisions(state)
    document = revisions.document(old)
    spec = document.model.model_copy(update={"replicas": 2})
    wanted = replace(document, spec=spec, raw={**document.raw, "replicas": 2})
    revisions.save(replace(old, digest="before"))
    revisions.save(replace(old, revision=4, state="starting", steps=[[1, 0]]))
    deployer = deploy.Deployer(state, record)
    asked: list[tuple[int, int]] = []
    fake = SimpleNamespace(
        serves=lambda _: True,
        rows=lambda _: [],
        failures=lambda _: frozenset(),
        run=lambda it, replicas: asked.append((it.revision, replicas)),
        wait=lambda *_: None,
        cluster="demo",
        keep=lambda it, _: revisions.save(it),
        end=lambda it: asked.append((it.revision, 0)),
    )
    monkeypatch.setattr(deployer, "_running", fake)
    followed: list[tuple[int, int]] = []
    for module in (deploy, rescaling):
        monkeypatch.setattr(
            module, "follow", lambda _, it, **__: followed.append((it.revision, it.replicas))
        )
    monkeypatch.setattr(deploy, "node_names", dict)
    monkeypatch.setattr(
        deploy, "node_rooms", lambda _: [NodeRoom("head", "head", 8, 0, 2**30, 8, 0, 0)]
    )
    plan = deployer.plan(wanted)
    assert (plan.strategy, plan.revision) == ("scale", 4)
    deployer.deploy(wanted, plan, report=lambda *_: None, timeout=1, wait=False)
    assert asked == [(4, 1), (3, 0), (4, 2)]
    assert followed == [(4, 1), (4, 2)]
    assert [(it.state, it.replicas) for it in revisions.of("chat")] == [
        ("superseded", 1),
        ("active", 2),
    ]


@pytest.fixture
def played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Played:
    return Played(tmp_path, monkeypatch)


class Played:
    """A deployer whose steps are noted: `run`, `end`, `pause` and `follow`, with revisions. As
    soon as `dies` is to be noted, the command is killed."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[tuple[str, int]] = []
        self.dies: tuple[str, int] | None = None
        self.state, self.record, self.old = world(folder)
        self.revisions = Revisions(self.state)
        self.deployer = deploy.Deployer(self.state, self.record)
        rooms = [NodeRoom("head", "head", 8, 0, 2**30, 8, 0, 0)]
        fake = SimpleNamespace(
            serves=lambda _: True,
            admit=lambda _: None,
            rows=lambda _: [],
            wait=lambda *_: None,
            run=lambda it, *_: self.note("run", it),
            end=lambda it: self.note("end", it),
        )
        monkeypatch.setattr(self.deployer, "_running", fake)
        monkeypatch.setattr(deploy, "node_names", dict)
        monkeypatch.setattr(deploy, "node_rooms", lambda _: rooms)
        monkeypatch.setattr(deploy, "follow", lambda _, it: self.note("follow", it))
        monkeypatch.setattr(deploy, "pause", self.pause)
        monkeypatch.setattr(deploy, "replicas_of", lambda _, it: it.replicas)

    def note(self, word: str, record: RevisionRecord) -> None:
        step = (word, record.revision)
        if step == self.dies:
            raise Killed
        self.steps.append(step)

    def pause(self, _: str, record: RevisionRecord) -> int:
        self.note("pause", record)
        return 2

    def changed(self) -> Document:
        document = self.revisions.document(self.old)
        env = {"WORD": "new"}
        spec = document.model.model_copy(update={"env": env})
        return replace(document, spec=spec, raw={**document.raw, "env": env})

    def deploy(self, document: Document) -> ModelPlan:
        plan = self.deployer.plan(document)
        return self.deployer.deploy(document, plan, report=lambda *_: None, timeout=1)

    def killed(self, document: Document, *step: Any) -> None:
        self.dies = step
        with pytest.raises(Killed):
            self.deploy(document)
        self.dies = None
        self.steps.clear()

    @property
    def states(self) -> dict[int, str]:
        return {it.revision: it.state for it in self.revisions.of("chat")}


class Killed(BaseException):
    """Whatever cannot be caught; where it is, the caught one's work is noted."""


def test_killed_before_the_old_ones_end(played: Played) -> None:
    """The next deploy ends it, also one of the same file, and its plan says so."""
    document = played.changed()
    played.killed(document, "end", 3)
    assert [it.revision for it in played.revisions.replaced("chat")] == [3]
    done = played.deploy(document)
    assert (done.strategy, done.revision) == ("none", 4)
    assert [action.detail for action in done.actions] == ["revision 3, which has been replaced"]
    assert played.steps == [("end", 3)]
    assert played.states == {3: "superseded", 4: "active"}
    assert played.deploy(document).actions == ()


def test_killed_before_the_new_one_is_on_record(played: Played) -> None:
    document = played.changed()
    played.killed(document, "follow", 4)
    assert played.states == {3: "active", 4: "starting"}
    played.deploy(document)
    assert played.steps[-2:] == [("follow", 4), ("end", 3)]
    assert played.states == {3: "superseded", 4: "active"}


def test_count_after_a_kill(played: Played) -> None:
    played.killed(played.changed(), "end", 3)
    assert [action.verb for action in played.deployer.scale("chat", 1).actions] == []
    assert played.steps == [("end", 3)]


def test_model_that_follows_its_load_is_left_alone_while_it_is_replaced(played: Played) -> None:
    played.old.range = {"min": 1, "max": 4}
    played.revisions.save(played.old)
    played.deploy(played.changed())
    assert played.steps == [("pause", 3), ("run", 4), ("run", 4), ("follow", 4), ("end", 3)]
    played.old = played.revisions.of("chat")[0]
    assert (played.old.state, played.old.replicas) == ("superseded", 2)


def world(folder: Path) -> tuple[ClusterState, ClusterRecord, RevisionRecord]:
    """A cluster with one model, whose revision 3 serves."""
    cluster, model = folder / "cluster.yaml", folder / "chat.yaml"
    cluster.write_text(yaml.safe_dump({"kind": "Cluster", "name": "demo"}))
    spec = {"kind": "Model", "name": "chat", "source": "builtin:demo", "resources": {"cpu": 2}}
    model.write_text(yaml.safe_dump(spec | {"engine": {"type": "echo"}}))
    (top,), (document,) = load_files([cluster]), load_files([model])
    record = ClusterRecord("demo", "local", "ready", 1, top.raw, str(cluster), {}, 0.0)
    old = RevisionRecord(
        "chat",
        3,
        "active",
        document.raw,
        str(model),
        str(folder),
        digest_of(document.model),
        "echo",
        "grpc",
        1,
        0.0,
    )
    state = ClusterState("demo")
    Revisions(state).save(old)
    return state, record, old
