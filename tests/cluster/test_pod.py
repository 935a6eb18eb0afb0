"""What keeps the front door of a pod running."""

from __future__ import annotations

import socket

import psutil
import pytest
from support import until

from ray_serve_cai.cluster import pod
from ray_serve_cai.cluster.ports import free_port


def test_front_door_comes_back_until_it_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pod, "FRONT_DOOR_MODULE", "http.server")
    monkeypatch.setattr(pod, "DOOR_PAUSE_SECONDS", 0.05)
    port = free_port("127.0.0.1")
    door = pod.FrontDoor(["--bind", "127.0.0.1", str(port)])
    door.start()
    try:
        until(lambda: listens(port), 20, "the door")
        (first,) = [p for p in psutil.Process().children() if str(port) in p.cmdline()]
        first.kill()
        until(lambda: not first.is_running() and listens(port), 20, "its successor")
    finally:
        door.stop()
    assert not listens(port)


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
