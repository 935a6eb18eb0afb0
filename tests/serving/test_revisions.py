from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ray_serve_cai.cluster.state import ClusterState
from ray_serve_cai.errors import ModelError, SpecProblems
from ray_serve_cai.serving.history import revision_rows
from ray_serve_cai.serving.revisions import RevisionRecord, Revisions, owner_of
from ray_serve_cai.spec import load_files


@pytest.fixture
def state() -> ClusterState:
    made = ClusterState("demo")
    made.create()
    return made


def deployed(
    state: ClusterState, folder: Path, revision: int, word: str = "active", **keys: Any
) -> RevisionRecord:
    """A revision of one file, with the values that the environment has now."""
    path = folder / "chat.yaml"
    env = {"HF_TOKEN": "${TOKEN}"}
    spec = {"kind": "Model", "name": "team/chat", "source": "builtin:demo", "env": env, **keys}
    path.write_text(yaml.safe_dump(spec))
    (document,) = load_files([path])
    record = RevisionRecord(
        document.model.name,
        revision,
        word,  # type: ignore[arg-type]
        document.raw,
        str(path),
        str(folder),
        "",
        "echo",
        "grpc",
        1,
        0.0,
        served=word in ("active", "superseded"),
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


CHAT = "team/chat"


class TestWayBack:
    def test_last_that_served_before(
        self, state: ClusterState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TOKEN", "hf_secret")
        for number, word in enumerate(("superseded", "failed", "active", "failed"), 1):
            deployed(state, tmp_path, number, word)
        revisions = Revisions(state)
        assert revisions.earlier(CHAT).revision == 1
        assert revisions.earlier(CHAT, 2).revision == 2
        revisions.retire(CHAT)
        # Of a model that was deleted, the one that was deleted.
        assert revisions.earlier(CHAT).revision == 3
        assert revisions.models() == [], "nor is the last try, which failed, shown"

    @pytest.mark.parametrize(
        ("model", "number", "code"),
        [
            (CHAT, None, "CAI-MODEL-004"),
            (CHAT, 7, "CAI-MODEL-004"),
            ("other", None, "CAI-MODEL-001"),
        ],
    )
    def test_none(
        self,
        state: ClusterState,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        model: str,
        number: int | None,
        code: str,
    ) -> None:
        monkeypatch.setenv("TOKEN", "hf_secret")
        deployed(state, tmp_path, 1)
        with pytest.raises(ModelError) as caught:
            Revisions(state).earlier(model, number)
        assert (caught.value.code, caught.value.exit) == (code, 2)

    def test_count_is_that_of_now(
        self, state: ClusterState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TOKEN", "hf_1")
        first = deployed(state, tmp_path, 1, "superseded", replicas=2)
        second = deployed(state, tmp_path, 2, replicas=3)
        second.replicas = 4
        revisions = Revisions(state)
        revisions.save(second)
        again = revisions.again(first)
        assert (again.model.replicas, again.raw["replicas"]) == (4, 4)
        assert again.model.env["HF_TOKEN"] == "hf_1"
        follows = deployed(state, tmp_path, 3, "superseded", replicas={"min": 1, "max": 2})
        assert revisions.again(follows).model.replicas.max == 2  # type: ignore[union-attr]

    def test_value_that_is_gone(
        self, state: ClusterState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TOKEN", "hf_1")
        record = deployed(state, tmp_path, 1)
        (state.folder / "secrets.json").unlink()
        with pytest.raises(SpecProblems) as caught:
            Revisions(state).again(record)
        assert "the variable TOKEN is not set" in str(caught.value)


class TestHistory:
    def test_what_changed(
        self, state: ClusterState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for number, keys in enumerate(({}, {"resources": {"cpu": 2}}), 1):
            monkeypatch.setenv("TOKEN", f"hf_secret_{number}")
            deployed(state, tmp_path, number, **keys)
        new, old = revision_rows(state, CHAT)
        assert (new["revision"], old["changed"]) == (2, [])
        assert new["changed"] == [
            {"key": "resources.cpu", "before": 1.0, "after": 2.0},
            {"key": "env.HF_TOKEN", "before": "***", "after": "***"},
        ]

    def test_without_the_values(
        self, state: ClusterState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TOKEN", "hf_secret")
        deployed(state, tmp_path, 1)
        deployed(state, tmp_path, 2, env={"A_TOKEN": "in the file itself", "B": "${NEVER:-}"})
        (state.folder / "secrets.json").unlink()
        keys = [change["key"] for change in revision_rows(state, CHAT)[0]["changed"]]
        assert keys == ["env.HF_TOKEN", "env.A_TOKEN", "env.B"]
        assert "in the file itself" not in str(revision_rows(state, CHAT))

    def test_code_is_a_change(
        self, state: ClusterState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TOKEN", "hf_secret")
        first, second = (deployed(state, tmp_path, number) for number in (1, 2))
        Revisions(state).save_code(first, "one")
        Revisions(state).save_code(second, "two")
        assert revision_rows(state, CHAT)[0]["changed"] == [
            {"key": "code", "before": None, "after": None}
        ]
