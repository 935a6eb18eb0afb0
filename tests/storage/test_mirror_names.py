"""Names in a store that a disk likes less, and those that no one shall write by."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

import fsspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from servers import S3, contents, is_whole

from ray_serve_cai.errors import StorageError
from ray_serve_cai.storage.listing import Listing, Remote, list_store
from ray_serve_cai.storage.mirror import mirror
from ray_serve_cai.storage.stores import Store

LONG = "d" * 255


@pytest.mark.parametrize(
    "name",
    [
        "with space.txt",
        " leading and trailing ",
        "plus+percent%20and%2fmore",
        "hash#question?equals=amp&",
        "ünïcødé/模型/🤗.bin",
        "quote\"'`$(x)\\",
        "star*[a-z]",
        "...",
        "~",
        "-rf",
        "a.partial",
        ".caibin",
        "sub/.cai/inner",
        LONG,
        "/".join(["d" * 200] * 4),
    ],
)
def test_odd_names_are_kept(s3: S3, tmp_path: Path, name: str) -> None:
    s3.put(f"m/{name}", b"data")
    s3.put("m/other", b"more")
    assert contents(mirror(s3.url(), tmp_path / "here")) == {name: b"data", "other": b"more"}


@pytest.mark.parametrize(
    "name", ["../evil", "a/../../evil", "..", "a/..", "./b", "/evil", "a//b", "//", f"{LONG}d"]
)
def test_impossible_names_are_refused(s3: S3, tmp_path: Path, name: str) -> None:
    s3.put("m/config.json", b"{}")
    s3.put(f"m/{name}", b"evil")
    with pytest.raises(StorageError) as caught:
        mirror(s3.url(), tmp_path / "in/here")
    assert caught.value.code == "CAI-STORAGE-003"
    assert f'"{name}"' in caught.value.message
    assert not any(path.is_file() for path in tmp_path.rglob("*") if path.name != "lock")


def test_path_too_long_for_the_system(s3: S3, tmp_path: Path) -> None:
    name = "/".join(["d" * 100] * 9)
    s3.put(f"m/{name}", b"data")
    deep = tmp_path.joinpath(*["e" * 250] * 14)
    with pytest.raises(StorageError, match="name too long"):
        mirror(s3.url(), deep)
    assert not is_whole(tmp_path)


def test_file_that_is_a_folder_too(s3: S3, tmp_path: Path) -> None:
    s3.put("m/a", b"file")
    s3.put("m/a/b", b"below")
    with pytest.raises(StorageError, match='"a" cannot be a file and the folder of "a/b"'):
        mirror(s3.url(), tmp_path / "here")


def test_markers_of_folders_are_no_files(s3: S3, tmp_path: Path) -> None:
    for name in ("m/", "m/sub/", "m/sub/deep/"):
        s3.put(name)
    s3.put("m/sub/file", b"data")
    assert contents(mirror(s3.url(), tmp_path / "here")) == {"sub/file": b"data"}


def test_marker_with_content_is_refused(s3: S3, tmp_path: Path) -> None:
    s3.put("m/file", b"data")
    s3.put("m/sub/", b"content")
    with pytest.raises(StorageError, match="sub/"):
        mirror(s3.url(), tmp_path / "here")


def test_notes_of_a_store_do_not_become_ours(s3: S3, tmp_path: Path) -> None:
    s3.put("m/.cai/manifest.json", b'{"format": 1, "files": []}')
    s3.put("m/.cai/lock", b"evil")
    s3.put("m/file", b"data")
    folder = mirror(s3.url(), tmp_path / "here")
    assert contents(folder) == {"file": b"data"}
    assert b"evil" not in (folder / ".cai/lock").read_bytes()


@pytest.mark.parametrize("link", ["sub", "sub/file", "sub/deep"])
def test_links_in_the_folder_lead_nobody_out(s3: S3, tmp_path: Path, link: str) -> None:
    """A link that lay in the folder, made by whomever, is not written through."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"mine")
    folder = tmp_path / "here"
    (folder / link).parent.mkdir(parents=True)
    (folder / link).symlink_to(outside / "file" if link.endswith("file") else outside)
    s3.put("m/sub/file", b"data")
    s3.put("m/sub/deep/file", b"deeper")
    with contextlib.suppress(StorageError):
        mirror(s3.url(), folder)
    assert contents(outside) == {"file": b"mine"}


class _Fake:
    """A filesystem of one listing; every object has the same bytes."""

    def __init__(self, paths: list[str]) -> None:
        self._paths = paths

    def find(self, root: str, detail: bool) -> dict[str, dict[str, object]]:
        return {path: self.info(path) for path in self._paths}

    def info(self, path: str) -> dict[str, object]:
        return {"name": path, "size": 4, "type": "file"}

    def cat_file(self, path: str, start: int, end: int) -> bytes:
        return b"evil"[start:end]


PARTS = st.sampled_from(["..", ".", "", "a", "b", ".cai", "~", "\0", "c" * 256, "\\..", "..\n"])
NAMES = st.one_of(st.lists(PARTS, max_size=5).map("/".join), st.text(max_size=20))


@given(st.lists(NAMES, min_size=1, max_size=4), st.booleans())
@example(["/../../x"], True)
@example([".cai/../../x"], True)
@example(["\udc80"], True)
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_name_writes_outside(
    monkeypatch: pytest.MonkeyPatch, names: list[str], slash: bool
) -> None:
    """Whatever a store lists, also paths that do not lie below the URL."""
    paths = [f"root/{name}" if slash else name for name in names]
    system = _Fake(paths)
    module = "ray_serve_cai.storage.mirror.open_store"
    with tempfile.TemporaryDirectory() as temporary, monkeypatch.context() as patch:
        patch.setattr(module, lambda *_: Store("memory://root", system, "root"))
        base = Path(temporary)
        folder = base / "a/b/here"
        with contextlib.suppress(StorageError):
            mirror("memory://root", folder)
        written = [Path(at, file) for at, _, files in os.walk(base) for file in files]
        assert all(path.is_relative_to(folder) for path in written)
        notes = {path.name for path in written if path.is_relative_to(folder / ".cai")}
        assert notes <= {"lock", "manifest.json", "journal"}


def test_memory_store(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe({"/names/a b": b"1", "/names/new\nline": b"2"})
    assert contents(mirror("memory://names", tmp_path)) == {"a b": b"1", "new\nline": b"2"}


def test_single_object_with_an_odd_name(s3: S3) -> None:
    s3.put("m/a b#c", b"data")
    store = Store(s3.url("m/a b#c"), _Fake([f"{s3.bucket}/m/a b#c"]), f"{s3.bucket}/m/a b#c")
    listing = list_store(store)
    assert isinstance(listing, Listing)
    assert [each.name for each in listing.files] == ["a b#c"]
    assert isinstance(listing.files[0], Remote)
