"""Bringing a cluster back from its state folder, after its head or its launcher is gone."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from ray_serve_cai.cluster.state import ClusterRecord, ClusterState
from ray_serve_cai.errors import CaiError
from ray_serve_cai.plan.cluster import ClusterPlan
from ray_serve_cai.serving.arrival import wait_for_revision
from ray_serve_cai.serving.deploy import Deployer
from ray_serve_cai.serving.lifecycle import up_again
from ray_serve_cai.serving.revisions import RevisionRecord, Revisions
from ray_serve_cai.serving.scaling import scaled
from ray_serve_cai.serving.session import session

Report = Callable[..., None]

SESSION_PATIENCE = 30.0


@dataclass(frozen=True)
class Recovery:
    """What came back: nodes by `plan`, `models` started again. `lost` maps what did not come back
    to the reason."""

    plan: ClusterPlan
    url: str
    models: tuple[str, ...] = ()
    lost: dict[str, str] = field(default_factory=dict)


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
        counts = state.existing_record().scaled
        document = state.document(state.existing_record())
        wanted = replace(document, spec=scaled(document.cluster, counts))
        done = up_again(wanted, counts, report=report, timeout=timeout)
        record = state.existing_record()
        with session(state, record, SESSION_PATIENCE):
            models, lost = _models_back(state, record, report, deadline)
    return Recovery(done.plan, done.url, models, lost)


def _models_back(
    state: ClusterState, record: ClusterRecord, report: Report, deadline: float
) -> tuple[tuple[str, ...], dict[str, str]]:
    """All are started before the first is waited for."""
    deployer, revisions = Deployer(state, record), Revisions(state)
    started: list[RevisionRecord] = []
    lost: dict[str, str] = {}
    for model in revisions.models():
        try:
            again = deployer.bring_back(model)
        except (CaiError, RayError, RayServeException, TimeoutError) as error:
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
        each.state = "active"
        revisions.save(each)
    return tuple(each.model for each in started if each.model not in lost), lost
