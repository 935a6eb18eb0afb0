"""`cai cluster` without a cluster."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ray_serve_cai.cli.app import run
from ray_serve_cai.cli.cluster import UP_TIMEOUT, _patience
from ray_serve_cai.spec import ClusterSpec


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


@pytest.mark.parametrize(
    ("provider", "seconds"),
    [
        ({"type": "local"}, UP_TIMEOUT),
        ({"type": "cai-workers"}, 1200),
        ({"type": "cai-applications", "launch_timeout": "5m"}, 300),
    ],
)
def test_how_long_up_waits(provider: dict[str, str], seconds: float) -> None:
    spec = ClusterSpec.model_validate({"kind": "Cluster", "name": "demo", "provider": provider})
    assert _patience(spec, None) == seconds
    assert _patience(spec, 7) == 7


def test_workers_outside_of_cloudera_ai(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said at once, and nothing stays behind."""
    monkeypatch.delenv("CDSW_ENGINE_ID", raising=False)
    spec = tmp_path / "demo.yaml"
    spec.write_text(
        "kind: Cluster\nname: demo\nprovider: {type: cai-workers}\n"
        "ray: {port: auto}\ngateway: {port: auto}\n"
    )
    assert run(["cluster", "up", str(spec)]) == 2
    assert "CAI-PROVIDER-001" in capsys.readouterr().err
    assert not any((Path(os.environ["CAI_HOME"]) / "clusters" / "demo").glob("*"))
