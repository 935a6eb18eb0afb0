"""The deployer without Ray: what it asks of it is recorded."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from ray_serve_cai.cluster.state import ClusterRecord, ClusterState
from ray_serve_cai.plan.model import digest_of
from ray_serve_cai.plan.room import NodeRoom
from ray_serve_cai.serving import deploy, running
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
    monkeypatch.setattr(
        running,
        "start_application",
        lambda job, replicas, *_: started.append((job.revision, replicas)),
    )

    cluster, model = tmp_path / "cluster.yaml", tmp_path / "chat.yaml"
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
        str(tmp_path),
        digest_of(document.model),
        "echo",
        "grpc",
        1,
        0.0,
    )
    state = ClusterState("demo")
    monkeypatch.setattr(running, "serves", lambda *_: False)
    Revisions(state).save(old)
    assert deploy.Deployer(state, record).bring_back("chat") == old
    assert started == [(3, 1)]
    assert asked == [("chat", 3)]
