from __future__ import annotations

from pathlib import Path

import pytest
from filelock import FileLock

from ray_serve_cai.storage.mirror import mirror, whole_copy
from ray_serve_cai.storage.prune import Copy, copies, remove, unused
from ray_serve_cai.storage.source import cache_folder, copy_folder, hub_lock


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("CAI_CACHE", str(tmp_path / "cache"))
    return cache_folder()


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A copy of ten bytes is in the cache."""
    there = tmp_path / "there"
    (there / "deep").mkdir(parents=True)
    (there / "deep" / "weights").write_text("0123456789")
    url = f"file://{there}"
    mirror(url, copy_folder(url))
    return url


def hub_copy(cache: Path, name: str) -> Path:
    folder = cache / "hub" / f"models--{name.replace('/', '--')}"
    (folder / "blobs").mkdir(parents=True)
    (folder / "blobs" / "x").write_text("12345")
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "snapshots" / "abc" / "x").symlink_to("../../blobs/x")
    return folder


def test_an_empty_cache() -> None:
    assert copies() == unused([]) == []


def test_what_is_named_is_kept(url: str, cache: Path) -> None:
    hub = hub_copy(cache, "org/name")
    here = copy_folder(url)
    assert {(c.folder, c.source) for c in copies()} == {(here, url), (hub, "org/name")}
    assert unused([url, "org/name@v1"]) == []
    assert unused([f"{url}/", "org/other"]) == [Copy(hub, "org/name", 5)]
    assert [copy.folder for copy in unused(["org/name"])] == [here]


def test_removing(url: str, cache: Path) -> None:
    hub_copy(cache, "org/name")
    assert all(remove(copy) for copy in unused([]))
    assert copies() == []
    assert not list(copy_folder(url).rglob("weights"))
    # It can be brought again.
    mirror(url, copy_folder(url))
    assert whole_copy(url, copy_folder(url))


def test_one_that_is_being_brought_stays(url: str) -> None:
    (copy,) = copies()
    with FileLock(copy.folder / ".cai" / "lock"):
        assert not remove(copy)
    assert whole_copy(url, copy.folder)
    assert remove(copy)


def test_an_unfinished_one_is_listed(cache: Path) -> None:
    folder = cache / "models" / "half"
    (folder / ".cai" / "parts").mkdir(parents=True)
    (folder / ".cai" / "parts" / "x.partial").write_text("123")
    assert copies() == [Copy(folder, "", 3)]
    assert remove(copies()[0])
    assert copies() == []


def test_one_that_comes_from_the_hub_stays(cache: Path) -> None:
    folder = hub_copy(cache, "org/name")
    (copy,) = copies()
    with hub_lock(folder):
        assert not remove(copy)
    assert copies() == [copy]
    assert remove(copy)
    assert copies() == []
