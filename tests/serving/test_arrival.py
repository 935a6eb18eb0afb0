"""Which failures of replicas end the wait for a revision. Ray and the gateway are played."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from ray_serve_cai.errors import ModelError
from ray_serve_cai.serving import arrival, rescaling
from ray_serve_cai.serving.job import ReplicaRow
from ray_serve_cai.serving.revisions import RevisionRecord
from ray_serve_cai.spec import ModelSpec

RECORD = RevisionRecord("chat", 1, "active", {}, "", "", "", "echo", "grpc", 1, 0.0)


def row(name: str, phase: str = "ready") -> ReplicaRow:
    return ReplicaRow(name, "chat", 1, phase, "node", f"grpc://{name}", message="no luck")


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[ReplicaRow]:
    """What the gateway knows: one crashed, and Serve has put another in its place."""
    known = [row("crashed", "failed"), row("mended")]
    gateway = SimpleNamespace(
        replicas=SimpleNamespace(remote=lambda: list(known)),
        routed=SimpleNamespace(remote=lambda _: True),
    )
    monkeypatch.setattr(arrival, "find_gateway", lambda _: gateway)
    monkeypatch.setattr(arrival, "ask", lambda answer: answer)
    monkeypatch.setattr(arrival, "application_status", lambda *_: None)
    monkeypatch.setattr(arrival, "first_token", lambda *_: None)
    return known


class Serve:
    """Stands in for `Running`; another replica is there at once, or fails at once."""

    cluster = "demo"

    def __init__(self, rows: list[ReplicaRow], phase: str) -> None:
        self._rows, self._phase = rows, phase

    def run(self, _: RevisionRecord, replicas: int) -> None:
        if replicas > 1:
            self._rows.append(row("second", self._phase))

    def failures(self, record: RevisionRecord) -> frozenset[str]:
        return arrival.failures("demo", record)

    def wait(self, record: RevisionRecord, replicas: int, *rest: Any) -> None:
        report, deadline, past = rest
        arrival.wait_for_revision("demo", record, report, deadline, replicas, past)

    def keep(self, *_: Any) -> None:
        pass


def rescale(rows: list[ReplicaRow], phase: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rescaling, "follow", lambda *_, **__: None)
    spec = ModelSpec.model_validate({"kind": "Model", "name": "chat", "source": "builtin:demo"})
    document: Any = SimpleNamespace(model=spec, raw={}, variables={})
    plan: Any = SimpleNamespace(replicas=2)
    serve: Any = Serve(rows, phase)
    rescaling.rescale(serve, document, plan, RECORD, lambda *_: None, 5.0)


def test_crash_that_was_mended_does_not_fail_a_rescale(
    rows: list[ReplicaRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    rescale(rows, "ready", monkeypatch)


def test_crash_of_a_new_replica_does(
    rows: list[ReplicaRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match="no luck"):
        rescale(rows, "failed", monkeypatch)


def test_any_crash_fails_the_first_start(rows: list[ReplicaRow]) -> None:
    with pytest.raises(ModelError, match="no luck"):
        arrival.wait_for_revision("demo", RECORD, lambda *_: None, time.monotonic() + 5)
