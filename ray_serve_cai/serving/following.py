"""What the deployer tells the autoscaler, and hears from it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from ray_serve_cai.errors import ClusterError
from ray_serve_cai.serving.applications import application_name
from ray_serve_cai.serving.gateway_control import ask, find_gateway
from ray_serve_cai.serving.revisions import RevisionRecord
from ray_serve_cai.serving.rules import Rule


def follow(cluster: str, record: RevisionRecord, *, tell: bool = False) -> None:
    """Let the autoscaler count the model's replicas as the record says; with `tell` it is the
    one to ask Serve for `record.replicas`."""
    application = application_name(cluster, record.model, record.revision)
    rule = Rule(record.model, record.revision, application, record.replicas, record.range)
    ask(find_gateway(cluster).follow.remote(rule, tell=tell))


def pause(cluster: str, record: RevisionRecord) -> int:
    """Have the autoscaler leave the model alone until `follow`, while another revision takes this
    one's place; how many replicas it wants."""
    if record.range is None:
        return record.replicas
    try:
        found: int | None = ask(find_gateway(cluster).pause.remote(record.model))
    except ClusterError:
        found = None
    return record.replicas if found is None else found


def forget(cluster: str, model: str) -> None:
    """The model is deleted; nothing to do where the gateway is gone."""
    with contextlib.suppress(ClusterError):
        ask(find_gateway(cluster).forget.remote(model))


def replicas_of(cluster: str, record: RevisionRecord) -> int:
    """How many replicas the revision wants now."""
    return counted(record, counts(cluster)) if record.range else record.replicas


def counts(cluster: str) -> Mapping[str, int]:
    """The counts of all models that the autoscaler knows; none where the gateway is gone."""
    try:
        found: dict[str, int] = ask(find_gateway(cluster).counts.remote())
    except ClusterError:
        return {}
    return found


def counted(record: RevisionRecord, known: Mapping[str, int]) -> int:
    """The revision's count: the autoscaler's where it follows a range, else the record's."""
    return known.get(record.model, record.replicas) if record.range else record.replicas
