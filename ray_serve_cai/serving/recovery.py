"""Bringing a cluster back from its state folder, after its head or its launcher is gone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from ray_serve_cai.cluster.launcher import named, out_of_reach
from ray_serve_cai.cluster.state import ClusterRecord, ClusterState
from ray_serve_cai.errors import CaiError
from ray_serve_cai.plan.cluster import ClusterPlan
from ray_serve_cai.plan.nodes import HEAD
from ray_serve_cai.plan.recovery import Beyond, RecoveryPlan
from ray_serve_cai.serving.arrival import serves, wait_for_revision
from ray_serve_cai.serving.deploy import Deployer
from ray_serve_cai.serving.lifecycle import plan_up, up_again
from ray_serve_cai.serving.reach import head_stays
from ray_serve_cai.serving.revisions import RevisionRecord, Revisions
from ray_serve_cai.serving.scaling import scaled
from ray_serve_cai.serving.session import session
from ray_serve_cai.spec import Document

Report = Callable[..., None]

SESSION_PATIENCE = 30.0
# What asking Serve, and starting something there, may come to.
TROUBLES = (CaiError, RayError, RayServeException, TimeoutError)


@dataclass(frozen=True)
class Recovery:
    """What was done by `plan`. `lost` maps the models that did not come back to the reason."""

    plan: RecoveryPlan
    url: str
    lost: dict[str, str] = field(default_factory=dict)


def plan_recovery(name: str) -> RecoveryPlan:
    """What `recover` would do now; changes nothing."""
    state = ClusterState(name)
    record = state.existing_record()
    # The exposure was checked, or waived, when the cluster was made.
    cluster = plan_up(_document(state, record), insecure=True)
    ended = [*named(cluster, "replace"), *named(cluster, "delete")]
    nodes = [Beyond("node", *each) for each in out_of_reach(state, record.provider, ended).items()]
    models, never = _lost_models(state, record, cluster)
    numbers = {each.model: each.revision for each in models}
    return RecoveryPlan(cluster, numbers, (*nodes, *never))


def recover(name: str, *, report: Report, timeout: float) -> Recovery:
    """Make the nodes what they were, `cluster scale` included, and start again every model that
    Serve has lost, at its last revision with the code and the values of that deploy.

    What is alive stays as it is. Raises `CaiError` when the nodes do not come back; a model that
    does not is in the answer.
    """
    deadline = time.monotonic() + timeout
    state = ClusterState(name)
    state.existing_record()
    with state.locked("recover"):
        plan, record = plan_recovery(name), state.existing_record()
        document = _document(state, record)
        url = up_again(document, plan.cluster, record.scaled, report=report, timeout=timeout).url
        lost: dict[str, str] = {}
        if plan.models:
            record = state.existing_record()
            with session(state, record, SESSION_PATIENCE):
                lost = _models_back(state, record, plan.models, report, deadline)
    return Recovery(plan, url, lost)


def _document(state: ClusterState, record: ClusterRecord) -> Document:
    """The cluster's, with the counts that `cluster scale` set."""
    document = state.document(record)
    return replace(document, spec=scaled(document.cluster, record.scaled))


def _lost_models(
    state: ClusterState, record: ClusterRecord, cluster: ClusterPlan
) -> tuple[list[RevisionRecord], list[Beyond]]:
    """Last revisions that Serve does not have, and models of which none ever served."""
    revisions = Revisions(state)
    last = {model: revisions.last(model) for model in revisions.models()}
    never = [
        Beyond("model", model, "none of its revisions has ever served")
        for model, revision in last.items()
        if revision is None
    ]
    there = [revision for revision in last.values() if revision is not None]
    goes = any(action.kind == "node" and action.name == HEAD for action in cluster.actions)
    if not there or goes or not head_stays(state, record):
        return there, never
    with session(state, record, SESSION_PATIENCE):
        return [revision for revision in there if _is_lost(record, revision)], never


def _is_lost(record: ClusterRecord, revision: RevisionRecord) -> bool:
    """Where Serve does not say, the revision is started again unless it is there by then."""
    try:
        return not serves(record.name, revision)
    except TROUBLES:
        return True


def _models_back(
    state: ClusterState,
    record: ClusterRecord,
    models: Iterable[str],
    report: Report,
    deadline: float,
) -> dict[str, str]:
    """All are started before the first is waited for."""
    deployer, revisions = Deployer(state, record), Revisions(state)
    started: list[RevisionRecord] = []
    lost: dict[str, str] = {}
    for model in models:
        try:
            again = deployer.bring_back(model)
        except TROUBLES as error:
            lost[model] = str(error)
            continue
        if again is not None:
            report("starting", f"model {model}, revision {again.revision}")
            started.append(again)
    for each in started:
        try:
            wait_for_revision(record.name, each, report, deadline)
        except CaiError as error:
            lost[each.model] = error.message
            continue
        revisions.activate(each)
    return lost
