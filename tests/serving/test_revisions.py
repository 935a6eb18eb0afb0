from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ray_serve_cai.cluster.state import ClusterState
from ray_serve_cai.serving.revisions import RevisionRecord, Revisions, owner_of
from ray_serve_cai.spec import load_files


@pytest.fixture
def state() -> ClusterState:
    made = ClusterState("demo")
    made.create()
    return made


def deployed(state: ClusterState, folder: Path, revision: int) -> RevisionRecord:
    """A revision of one file, with the values that the environment has now."""
    path = folder / "chat.yaml"
    env = {"HF_TOKEN": "${TOKEN}"}
    spec = {"kind": "Model", "name": "team/chat", "source": "builtin:demo", "env": env}
    path.write_text(yaml.safe_dump(spec))
    (document,) = load_files([path])
    record = RevisionRecord(
        document.model.name,
        revision,
        "active",
        document.raw,
        str(path),
        str(folder),
        "",
        "echo",
        "grpc",
        1,
        0.0,
    )
    state.set_variables(document.variables, owner_of(record))
    Revisions(state).save(record)
    return record


def test_values_of_one_revision_do_not_reach_another(
    state: ClusterState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2):
        monkeypatch.setenv("TOKEN", f"hf_{number}")
        deployed(state, tmp_path, number)
    monkeypatch.setenv("TOKEN", "hf_now")
    state.set_variables({"TOKEN": "hf_cluster"})
    revisions = Revisions(state)
    documents = [revisions.document(record) for record in revisions.of("team/chat")]
    assert [document.model.env["HF_TOKEN"] for document in documents] == ["hf_1", "hf_2"]


def test_values_lie_in_one_file_alone(
    state: ClusterState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", "hf_secret")
    deployed(state, tmp_path, 1)
    files = [path for path in state.folder.rglob("*") if path.is_file()]
    assert [path.name for path in files if "hf_secret" in path.read_text()] == ["secrets.json"]
