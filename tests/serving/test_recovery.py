"""What `recover` would do to a cluster whose nodes are all gone: read from its state folder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from ray_serve_cai.cli.app import run
from ray_serve_cai.cluster.launcher import new_record
from ray_serve_cai.cluster.state import ClusterState
from ray_serve_cai.serving.revisions import RevisionRecord, Revisions
from ray_serve_cai.spec import load_files

REVISION = RevisionRecord("", 1, "active", {}, "", "", "", "echo", "grpc", 1, 0.0)


@pytest.fixture
def dead(tmp_path: Path) -> ClusterState:
    """Its group was scaled to one node, and one of its models never came up."""
    groups = [{"name": "side", "count": 3, "cpu": 0.1, "memory": "100Mi"}]
    spec = {"kind": "Cluster", "name": "dead", "workers": groups}
    spec |= {"head": {"cpu": 0.1, "memory": "100Mi"}, "gateway": {"port": "auto"}}
    path = tmp_path / "dead.yaml"
    path.write_text(yaml.safe_dump(spec))
    (document,) = load_files([path])
    state = ClusterState("dead")
    state.create()
    state.save(replace(new_record(document, None), scaled={"side": 1}))
    revisions = Revisions(state)
    revisions.save(replace(REVISION, model="kept", state="superseded"))
    revisions.save(replace(REVISION, model="kept", revision=2))
    revisions.save(replace(REVISION, model="begun", state="starting"))
    revisions.save(replace(REVISION, model="broken", state="failed"))
    revisions.save(replace(REVISION, model="deleted", state="superseded"))
    return state


def test_dry_run_prints_what_would_come_back(
    dead: ClusterState, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in dead.folder.rglob("*") if path.is_file()}
    assert run(["cluster", "recover", "dead", "--dry-run", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["schema"], data["name"]) == ("cai/v1", "dead")
    assert [(a["verb"], a["kind"], a["name"], a["detail"]) for a in data["actions"][2:]] == [
        ("start", "gateway", "dead", "127.0.0.1:auto"),
        ("start", "model", "begun", "revision 1"),
        ("start", "model", "kept", "revision 2"),
    ]
    assert [a["name"] for a in data["actions"][:2]] == ["head", "side-0"]
    (beyond,) = data["cannot"]
    assert (beyond["kind"], beyond["name"]) == ("model", "broken")
    assert "ever served" in beyond["reason"]
    assert data["notes"] == []
    assert before == {path: path.read_bytes() for path in dead.folder.rglob("*") if path.is_file()}


def test_dry_run_as_text(dead: ClusterState, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["cluster", "recover", "dead", "--dry-run"]) == 0
    said = capsys.readouterr()
    assert "kept" in said.out
    assert "cannot bring back model broken: none of its revisions has ever served" in said.err


def test_dry_run_of_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["cluster", "recover", "nobody", "--dry-run", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "CAI-CLUSTER-001"
