"""The deployer without Ray: what it asks of it is recorded."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from ray_serve_cai.cluster.state import ClusterRecord, ClusterState
from ray_serve_cai.plan.model import ModelPlan, NodeRoom, digest_of
from ray_serve_cai.serving import deploy as module
from ray_serve_cai.serving.job import ReplicaJob
from ray_serve_cai.serving.revisions import RevisionRecord
from ray_serve_cai.spec import load_files


def test_old_revision_comes_back_before_ray_knows_of_its_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray learns with a delay that the failed revision is gone; Serve waits for the room."""
    started: list[tuple[ModelPlan, ReplicaJob]] = []
    asked: list[Any] = []
    full = NodeRoom("head", "head", 2, 0, 2**30, 0, 0, 0)
    admit = SimpleNamespace(remote=lambda *words: words)
    monkeypatch.setattr(module, "node_rooms", lambda _: [full])
    monkeypatch.setattr(module, "find_gateway", lambda _: SimpleNamespace(admit=admit))
    monkeypatch.setattr(module, "ask", asked.append)
    monkeypatch.setattr(module, "start_application", lambda *words: started.append(words[:2]))

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
    module.Deployer(ClusterState("demo"), record)._restart(old)
    ((plan, job),) = started
    assert (plan.replicas, job.revision) == (1, 3)
    assert asked == [("chat", 3)]
