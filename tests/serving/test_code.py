"""The user's code on its way to replicas."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ray_serve_cai.errors import SpecError
from ray_serve_cai.serving import code
from ray_serve_cai.serving.code import pack, unpack


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    for name, text in {
        "callbacks/mine.py": "X = 1",
        "callbacks/sub/data.json": "{}",
        "callbacks/__pycache__/mine.pyc": "old",
        "callbacks/.hidden": "no",
        "single.py": "Y = 2",
        "other/not_named.py": "Z = 3",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def tree(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_named_packages_travel_and_nothing_else(project: Path, tmp_path: Path) -> None:
    packed = pack(project, ["callbacks.mine.X", "single:Y", "json.decoder.JSONDecoder"])
    unpack(packed, tmp_path / "there")
    assert tree(tmp_path / "there") == {
        "callbacks/mine.py",
        "callbacks/sub/data.json",
        "single.py",
    }
    assert (tmp_path / "there" / "single.py").read_text() == "Y = 2"


def test_nothing_of_the_project(project: Path, tmp_path: Path) -> None:
    assert pack(project, ["json.decoder.JSONDecoder"]) == ""
    unpack("", tmp_path / "there")
    assert not (tmp_path / "there").exists()


def test_equal_code_gives_equal_bytes(project: Path) -> None:
    """It is part of what tells revisions apart."""
    before = pack(project, ["callbacks.mine.X"])
    os.utime(project / "callbacks" / "mine.py", (1, 1))
    assert pack(project, ["callbacks.mine.X"]) == before
    (project / "callbacks" / "mine.py").write_text("X = 2")
    assert pack(project, ["callbacks.mine.X"]) != before


def test_too_much(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code, "LIMIT_BYTES", 3)
    with pytest.raises(SpecError, match="too much to send"):
        pack(project, ["callbacks.mine.X"])
