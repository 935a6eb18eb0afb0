"""A watch reads each node's row once for each time that it was written."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from fakes.provider import FakeProvider

from ray_serve_cai.cluster import watch as watched
from ray_serve_cai.cluster.state import ClusterState
from ray_serve_cai.cluster.watch import Watch


class Counted(ClusterState):
    """Counts what is read and how often the rows are looked at."""

    reads = looks = 0

    def read(self, path: Path) -> dict[str, Any] | None:
        self.reads += 1
        return super().read(path)

    def node_row_paths(self) -> dict[str, Path]:
        self.looks += 1
        return super().node_row_paths()

    def say(self, node_id: str, state: str) -> None:
        """As agents do: a file renamed into place."""
        path = self.folder / "nodes" / f"{node_id}.json"
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps({"state": state}))
        os.replace(partial, path)


@pytest.fixture
def state() -> Counted:
    state = Counted("demo")
    state.create()
    return state


@pytest.fixture
def watch(state: Counted) -> Watch:
    return Watch(state, FakeProvider())


def test_no_row_is_missed(state: Counted, watch: Watch) -> None:
    assert watch.rows() == {}
    for word in ("starting", "running", "ended"):
        state.say("w-0", word)
        # At once, so that the folder may have the same time of change as before.
        assert watch.rows()["w-0"] == {"state": word}
    state.forget_node("w-0")
    assert watch.rows() == {}


def test_only_what_was_written_is_read(state: Counted, watch: Watch) -> None:
    for number in range(20):
        state.say(f"w-{number}", "starting")
    watch.rows()
    assert state.reads == 20
    state.say("w-7", "running")
    assert watch.rows()["w-7"] == {"state": "running"}
    assert state.reads == 21


def test_heartbeats_cost_nothing(
    state: Counted, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched, "CLOCK_SECONDS", -1.0)
    state.say("w-0", "running")
    watch.rows()
    state.looks = state.reads = 0
    os.utime(state.folder / "nodes" / "w-0.json")
    assert watch.rows() == {"w-0": {"state": "running"}}
    assert (state.looks, state.reads) == (0, 0)
