"""`cai cluster` without a cluster."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ray_serve_cai.cli.app import run


@pytest.mark.parametrize("name", ["", ".", "..", "../..", "{folder}"])
def test_down_of_what_is_no_cluster_deletes_nothing(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The name becomes part of a path whose folder is emptied."""
    home = Path(os.environ["CAI_HOME"])
    folders = [tmp_path, home.parent, home, home / "clusters", home / "clusters" / "demo"]
    for folder in folders:
        (folder / "sub").mkdir(parents=True)
        (folder / "cluster.json").write_text("{}")
    before = {path for top in (tmp_path, home.parent) for path in top.rglob("*")}
    assert run(["cluster", "down", name.format(folder=tmp_path), "--yes"]) == 2
    assert "CAI-CLUSTER-001" in capsys.readouterr().err
    assert {path for top in (tmp_path, home.parent) for path in top.rglob("*")} == before
