from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from filelock import Timeout

from ray_serve_cai.errors import StorageError
from ray_serve_cai.storage import source
from ray_serve_cai.storage.source import cache_folder, fetch, local_folder
from ray_serve_cai.storage.watch import Watch


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    return folder


def refused(text: str) -> StorageError:
    with pytest.raises(StorageError) as caught:
        fetch(text)
    return caught.value


def test_built_in() -> None:
    assert (fetch("builtin:demo") / "tokenizer.json").is_file()


@pytest.mark.parametrize("name", ["other", "cli", "../demo", ""])
def test_no_such_built_in(name: str) -> None:
    error = refused(f"builtin:{name}")
    assert error.code == "CAI-STORAGE-001"
    assert "try demo" in error.message


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_local_folder(model: Path, form: str) -> None:
    assert fetch(form.format(model)) == model


def test_home_of_the_user(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(model.parent))
    assert fetch("~/model") == model


@pytest.mark.parametrize("text", ["org/name", "s3://bucket/key", "builtin:demo"])
def test_what_is_no_local_folder(text: str) -> None:
    assert local_folder(text) is None


@pytest.mark.parametrize(
    ("missing", "said"), [("model.safetensors", "no weights"), ("config.json", "no config.json")]
)
def test_incomplete_folder(model: Path, missing: str, said: str) -> None:
    (model / missing).unlink()
    error = refused(str(model))
    assert (error.code, error.exit) == ("CAI-STORAGE-001", 2)
    assert said in error.message
    assert str(model) in error.message


def test_gguf_needs_no_config(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"")
    assert fetch(str(tmp_path)) == tmp_path


def test_missing_folder(tmp_path: Path) -> None:
    assert "there is no such folder" in refused(f"{tmp_path}/nowhere").message


def test_folder_that_is_a_file(model: Path) -> None:
    assert "there is no such folder" in refused(str(model / "config.json")).message


def test_no_such_scheme() -> None:
    error = refused("nosuch://bucket/model")
    assert error.code == "CAI-STORAGE-002"
    assert "nosuch:// is not known" in error.message


class TestStore:
    """A model in a store, here a folder of this disk behind a URL that is no local path."""

    @pytest.fixture
    def url(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
        monkeypatch.setenv("CAI_CACHE", str(tmp_path / "cache"))
        system = fsspec.filesystem("memory")
        files = ("config.json", "tokenizer.json", "model.safetensors")
        system.pipe({f"/models/chat/{name}": name.encode() for name in files})
        yield "memory://models/chat"
        if system.exists("/models"):
            system.rm("/models", recursive=True)

    def test_is_brought_into_the_cache(self, url: str, tmp_path: Path) -> None:
        folder = fetch(url)
        assert folder == source.copy_folder(url)
        assert folder.is_relative_to(tmp_path / "cache" / "models")
        assert (folder / "model.safetensors").read_text() == "model.safetensors"

    def test_first_without_weights_then_whole(self, url: str) -> None:
        folder = fetch(f"{url}/", ["*.safetensors"])
        assert not (folder / "model.safetensors").exists()
        modified = (folder / "config.json").stat().st_mtime_ns
        assert fetch(url) == folder
        assert (folder / "model.safetensors").is_file()
        watch = Watch()
        fetch(url, ["*.safetensors"], watch=watch)
        assert watch.moved == 0, "the whole copy has it all"
        assert (folder / "model.safetensors").is_file()
        assert (folder / "config.json").stat().st_mtime_ns == modified

    def test_a_whole_copy_serves_when_the_store_is_gone(
        self, url: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        folder = fetch(url)
        fsspec.filesystem("memory").rm("/models", recursive=True)
        assert fetch(url) == folder
        assert f"the copy in {folder} serves" in caplog.text
        (folder / "model.safetensors").write_text("edited")
        with pytest.raises(StorageError, match="there is nothing"):
            fetch(url)

    def test_half_a_copy_does_not(self, url: str) -> None:
        fetch(url, ["*.safetensors"])
        fsspec.filesystem("memory").rm("/models", recursive=True)
        with pytest.raises(StorageError, match="there is nothing"):
            fetch(url)


class TestHub:
    def test_without_a_network(self) -> None:
        error = refused("org/no-such-model")
        assert error.code == "CAI-STORAGE-002"
        assert error.message.startswith("org/no-such-model: ")
        assert "\n" not in error.message

    def test_bad_name(self) -> None:
        assert refused("a/b/c/d").code == "CAI-STORAGE-002"

    @pytest.mark.parametrize(("text", "revision"), [("org/m@v1", "v1"), ("org/m", None)])
    def test_what_the_hub_is_asked(
        self, text: str, revision: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        import huggingface_hub

        asked = {}
        monkeypatch.setenv("CAI_CACHE", str(tmp_path / "cache"))

        def download(repository: str, **options: object) -> str:
            with pytest.raises(Timeout):
                source.hub_lock(source.hub_folder(text)).acquire(timeout=0)
            asked.update(options, repository=repository)
            return str(tmp_path)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
        assert fetch(text) == tmp_path
        assert (asked["repository"], asked["revision"]) == ("org/m", revision)
        assert asked["cache_dir"] == cache_folder() / "hub"


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CAI_CACHE", "~/elsewhere")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert source.cache_folder() == tmp_path / "elsewhere"
    monkeypatch.delenv("CAI_CACHE")
    assert source.cache_folder() == tmp_path / ".cache" / "cai"
