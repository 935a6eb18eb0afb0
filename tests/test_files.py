"""Files that are replaced whole."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from ray_serve_cai.files import READABLE, replace_text, replaced


def test_new_text_is_there_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "record"
    for text in ("a", "bc"):
        replace_text(path, text, durable=True)
        assert path.read_text() == text
    assert os.listdir(tmp_path) == ["record"]


def test_reader_keeps_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "record"
    replace_text(path, "old")
    with path.open() as reader:
        replace_text(path, "new")
        assert reader.read() == "old"


def test_failure_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "record"
    replace_text(path, "old")
    with pytest.raises(UnicodeEncodeError), replaced(path) as partial:
        partial.write_text("half \ud800")
    with pytest.raises(UnicodeEncodeError):
        replace_text(path, "\ud800")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["record"]


def test_private_unless_said_otherwise(tmp_path: Path) -> None:
    path, before = tmp_path / "record", os.umask(0o022)
    try:
        replace_text(path, "")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        replace_text(path, "", mode=READABLE)
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
    finally:
        os.umask(before)
