"""The web port that `cai serve` takes inside Cloudera AI."""

from __future__ import annotations

import socket

import pytest

from ray_serve_cai.cli.serve import _web_port
from ray_serve_cai.errors import ClusterError


@pytest.fixture
def ports(monkeypatch: pytest.MonkeyPatch) -> list[socket.socket]:
    """Two listeners at the ports of this workload."""
    made = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    for name, server in zip(("CDSW_APP_PORT", "CDSW_READONLY_PORT"), made, strict=True):
        monkeypatch.setenv(name, str(server.getsockname()[1]))
    return made


def test_outside_of_the_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CDSW_APP_PORT", "CDSW_READONLY_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert _web_port() is None


def test_editor_has_the_first(
    ports: list[socket.socket], capsys: pytest.CaptureFixture[str]
) -> None:
    number = ports[1].getsockname()[1]
    ports[1].close()
    assert _web_port() == number
    assert "the editor's" in capsys.readouterr().err
    ports[0].close()


def test_both_are_taken(ports: list[socket.socket]) -> None:
    with pytest.raises(ClusterError) as caught:
        _web_port()
    assert caught.value.code == "CAI-CLUSTER-004"
    for server in ports:
        server.close()
