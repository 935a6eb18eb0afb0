from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ray_serve_cai.cli.app import run
from ray_serve_cai.storage.mirror import mirror
from ray_serve_cai.storage.source import copy_folder


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CAI_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "there"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.txt").write_text("a")
    (folder / "deep" / "b.bin").write_text("bb")
    return folder


def data(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert run(["storage", *words, "--json"]) == status
    captured = capsys.readouterr()
    assert captured.err == ""
    found: dict[str, Any] = json.loads(captured.out)
    assert found["schema"] == "cai/v1"
    return found


class TestLs:
    def test_json(self, there: Path, capsys: pytest.CaptureFixture[str]) -> None:
        found = data(capsys, "ls", str(there))
        names = [(row["name"], row["size"]) for row in found["files"]]
        assert names == [("a.txt", 1), ("deep/b.bin", 2)]
        assert found["bytes"] == 3

    def test_table_and_patterns(self, there: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["storage", "ls", f"file://{there}", "--exclude", "*.txt"]) == 0
        out = capsys.readouterr().out
        assert "deep/b.bin" in out
        assert "a.txt" not in out

    def test_nothing_there(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["storage", "ls", str(tmp_path / "nowhere")]) == 1
        said = capsys.readouterr().err
        assert f"error CAI-STORAGE-002: {tmp_path}/nowhere: there is nothing" in said

    @pytest.mark.parametrize("word", ["anon", "=1"])
    def test_an_option_without_a_value(self, word: str, there: Path) -> None:
        assert run(["storage", "ls", str(there), "--option", word]) == 2

    def test_an_option_that_is_no_yaml(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["storage", "ls", "s3://bucket/x", "--option", "anon=[1"]) == 2
        assert "anon" in capsys.readouterr().err


class TestPull:
    def test_then_again(
        self, there: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        here = tmp_path / "here"
        assert run(["storage", "pull", str(there), str(here)]) == 0
        captured = capsys.readouterr()
        assert captured.out.splitlines()[-1] == str(here)
        assert "storage pull: 2 files, 3 bytes" in captured.err
        assert "2 files, 3 bytes moved" in captured.err
        assert (here / "deep" / "b.bin").read_text() == "bb"
        again = data(capsys, "pull", str(there), str(here))
        assert (again["files"], again["bytes"], again["moved"]) == (2, 3, 0)

    def test_patterns(
        self, there: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        found = data(capsys, "pull", str(there), str(tmp_path / "x"), "--include", "*.bin")
        assert found["files"] == 1

    def test_a_missing_package(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("ray_serve_cai.storage.stores.find_spec", lambda name: None)
        found = data(capsys, "pull", "gs://bucket/x", str(tmp_path / "x"), status=1)
        assert found["error"]["hint"] == 'pip install "ray-serve-cai[gcs]"'
        assert not (tmp_path / "x").exists()


def test_push(there: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"file://{tmp_path}/store"
    assert run(["storage", "push", str(there), url]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == url
    assert (tmp_path / "store" / "deep" / "b.bin").read_text() == "bb"
    assert data(capsys, "push", str(there), url)["bytes"] == 3


class TestPrune:
    def test_asks_first(self, there: Path, capsys: pytest.CaptureFixture[str]) -> None:
        url = f"file://{there}"
        mirror(url, copy_folder(url))
        assert run(["storage", "prune"]) == 2
        said = capsys.readouterr().err
        assert f"bytes  {url}  {copy_folder(url)}" in said
        assert "Remove 1 copy, " in said
        (gone,) = data(capsys, "prune", "--yes")["removed"]
        assert (gone["source"], gone["folder"]) == (url, str(copy_folder(url)))
        assert not (copy_folder(url) / "a.txt").exists()
        assert data(capsys, "prune")["removed"] == []
