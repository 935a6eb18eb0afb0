"""The key with which commands ask the gateway."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from ray_serve_cai.cluster.launcher import new_record
from ray_serve_cai.cluster.state import ClusterState
from ray_serve_cai.serving.chat import client_key
from ray_serve_cai.spec import load_files

URL = "https://demo-head-1.cml.invalid"


@pytest.mark.parametrize(
    ("url", "keys", "wanted"),
    [
        (URL, [], "key-of-the-platform"),
        (URL, ["key-of-the-gateway"], "key-of-the-gateway"),
        ("http://127.0.0.1:8000", [], None),
    ],
)
def test_login_of_the_platform_takes_its_own_key(
    url: str,
    keys: list[str],
    wanted: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CDSW_APIV2_KEY", "key-of-the-platform")
    spec = {
        "kind": "Cluster",
        "name": "demo",
        "provider": {"type": "cai-applications"},
        "gateway": {"api_keys": keys},
    }
    (tmp_path / "demo.yaml").write_text(yaml.safe_dump(spec))
    (document,) = load_files([tmp_path / "demo.yaml"])
    state = ClusterState("demo")
    state.create()
    record = new_record(document, None)
    record.gateway_url = url
    note = state.folder / "applications" / "head.json"
    note.parent.mkdir()
    note.write_text(json.dumps({"application": "1", "url": URL}))
    assert client_key(state, record) == wanted
