"""What `serve` does while its cluster serves, as far as that goes without nodes."""

from __future__ import annotations

import threading

import pytest
from support import until

from ray_serve_cai.cluster.state import ClusterRecord, ClusterState
from ray_serve_cai.serving import supervision

RECORD = ClusterRecord("demo", "local", "ready", 1, {}, "demo.yaml", {}, 0.0)


def test_record_that_cannot_be_read_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cluster goes on serving; the watch ends when somebody takes the cluster down."""
    state = ClusterState("demo")
    state.create()
    state.save(RECORD)
    monkeypatch.setattr(supervision, "WATCH_SECONDS", 0.01)
    monkeypatch.setattr(supervision, "missing", lambda state: "" if state.record() else "all")
    said: list[tuple[str, ...]] = []
    watch = threading.Thread(
        target=supervision.supervise,
        args=("demo",),
        kwargs={"report": lambda *words: said.append(words), "timeout": 1.0},
    )
    watch.start()
    until(lambda: said, 10, "the first look")
    state.record_path.write_text("{")
    until(lambda: said[-1][0] == "unclear", 10, "the complaint")
    assert "cluster.json" in said[-1][1]
    state.save(RECORD)
    until(lambda: said[-1] == ("ready",), 10, "the good end of it")
    state.record_path.unlink()
    watch.join(10)
    assert not watch.is_alive()
