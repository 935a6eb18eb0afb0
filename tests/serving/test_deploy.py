"""The deployer without Ray: what it asks of it is recorded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from ray_serve_cai.cluster.state import ClusterRecord, ClusterState
from ray_serve_cai.plan.model import digest_of
from ray_serve_cai.plan.room import NodeRoom
from ray_serve_cai.serving import deploy, rescaling, running
from ray_serve_cai.serving.revisions import RevisionRecord, Revisions
from ray_serve_cai.spec import load_files


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
