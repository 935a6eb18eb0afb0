"""The rows of models, as far as they need neither Ray nor a gateway."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ray_serve_cai.cluster.state import ClusterRecord, ClusterState
from ray_serve_cai.serving import views
from ray_serve_cai.serving.revisions import RevisionRecord, Revisions


def test_revision_that_a_killed_deploy_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    state = ClusterState("demo")
    state.create()
    old = RevisionRecord("chat", 3, "active", {}, "", "", "", "echo", "grpc", 1, 0.0)
    Revisions(state).save(old)
    Revisions(state).save(replace(old, revision=4))
    monkeypatch.setattr("ray_serve_cai.serving.gateway_control.ray.get_actor", none)
    monkeypatch.setattr(views, "_serve_failure", lambda *_: None)
    record = ClusterRecord("demo", "local", "ready", 1, {}, "", {}, 0.0)
    there = {3, 4}
    status = "ray_serve_cai.serving.applications.application_status"
    monkeypatch.setattr(status, lambda *words: words[-1] in there or None)
    (row,) = views.model_rows(state, record)
    assert row["revision"] == 4
    assert row["message"].startswith("revision 3 was replaced and has not ended")
    there.remove(3)
    (row,) = views.model_rows(state, record)
    assert row["message"] == ""


def none(*_: object) -> None:
    raise ValueError
