from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from made_up import initialize

from ray_serve_cai.callbacks import CallbackConfig, CloudDownloader, cloud
from ray_serve_cai.errors import HookError, SpecError, StorageError


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    folder = tmp_path / "remote"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.txt").write_text("a")
    (folder / "deep" / "b.txt").write_text("b")
    return folder


@pytest.fixture
def store() -> Iterator[Any]:
    """What `memory://` URLs lead to."""
    system = fsspec.filesystem("memory")
    system.pipe({"/bucket/cache/a.bin": b"a", "/bucket/cache/deep/b.bin": b"b"})
    yield system
    system.rm("/bucket", recursive=True)


def tree(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and ".cai" not in str(path))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def download(*paths: tuple[str, str]) -> list[str]:
    output = initialize(CallbackConfig(CloudDownloader, {"paths": list(paths)}))
    found: list[str] = output.custom_data["cloud_downloader"]
    return found


class TestCloudDownloader:
    def test_local_files_and_folders(self, remote: Path, tmp_path: Path) -> None:
        here = tmp_path / "here"
        targets = [str(here / "all"), str(here / "one.txt")]
        found = download((str(remote), targets[0]), (str(remote / "a.txt"), targets[1]))
        assert found == targets
        assert tree(here) == {"all/a.txt": b"a", "all/deep/b.txt": b"b", "one.txt": b"a"}

    @pytest.mark.usefixtures("store")
    def test_urls(self, tmp_path: Path) -> None:
        # One by one: readers of one object in memory share its position.
        download(("memory://bucket/cache", str(tmp_path / "here" / "cache")))
        download(("memory://bucket/cache/", str(tmp_path / "here" / "again")))
        download(("memory://bucket/cache/a.bin", str(tmp_path / "here" / "one")))
        files = {"a.bin": b"a", "deep/b.bin": b"b"}
        assert tree(tmp_path / "here") == {
            **{f"cache/{name}": data for name, data in files.items()},
            **{f"again/{name}": data for name, data in files.items()},
            "one": b"a",
        }

    def test_home_of_the_user(
        self, remote: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        download(("~/remote/a.txt", "~/here/a.txt"))
        assert tree(tmp_path / "here") == {"a.txt": b"a"}

    def test_in_parallel(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each waits for the other, so one by one would end in a broken barrier."""
        barrier = threading.Barrier(2, timeout=30)

        def meet(url: str, target: Path, **_: object) -> Path:
            barrier.wait()
            return target

        monkeypatch.setattr(cloud, "place", meet)
        assert download(("a", "/x"), ("b", "/y")) == ["/x", "/y"]

    @pytest.mark.parametrize(
        "missing", ["memory://bucket/nothing", "/nowhere/at/all", "nosuch://bucket/object"]
    )
    def test_a_failing_path_names_the_object(self, missing: str, tmp_path: Path) -> None:
        target = tmp_path / "here" / "cache"
        with pytest.raises(HookError, match="CloudDownloader") as caught:
            download((missing, str(target)))
        assert isinstance(caught.value.__cause__, StorageError)
        assert f"{missing}: " in caught.value.message
        assert tree(tmp_path / "here") == {}
        assert not target.parent.exists()

    def test_one_failing_path_fails_it(self, remote: Path, tmp_path: Path) -> None:
        with pytest.raises(HookError, match="/nowhere/at/all"):
            download(
                (str(remote), str(tmp_path / "good")), ("/nowhere/at/all", str(tmp_path / "x"))
            )
        assert {path.name for path in tmp_path.iterdir()} <= {"remote", "good"}

    @pytest.mark.parametrize(
        "paths", ["s3://a", ["s3://a"], [("s3://a",)], [("a", "b", "c")], [("a", 1)]]
    )
    def test_paths_that_are_no_pairs(self, paths: Any) -> None:
        with pytest.raises(SpecError, match="paths: each is a pair of remote and local"):
            CloudDownloader(paths=paths)
