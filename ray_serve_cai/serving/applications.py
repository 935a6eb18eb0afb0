"""The Serve applications of a cluster's models, one per model revision.

A revision has an application of its own, so that a new one can come up beside the old one and a
failed one leaves the old one untouched.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Sequence
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError

from ray_serve_cai.cluster.state import ClusterState
from ray_serve_cai.errors import ClusterError, ModelError
from ray_serve_cai.serving.gateway_config import ACTOR_NAME, namespace
from ray_serve_cai.serving.gateway_control import CALL_SECONDS, ask, find_gateway, wait_until
from ray_serve_cai.serving.job import ReplicaJob, ReplicaRow, merged
from ray_serve_cai.serving.replica import TEARDOWN_SECONDS, Replica
from ray_serve_cai.spec import Resources

# Serve tells each of its steps; the command line has its own words for them.
logging.getLogger("ray.serve").setLevel(logging.WARNING)

HEALTH_PERIOD_SECONDS = 2.0
START_ATTEMPTS = 5
COUNT_POLL_SECONDS = 0.02
HEALTH_TIMEOUT_SECONDS = 30.0
# Beyond its `shutdown_timeout` a replica may run the last hooks of a host that died.
GRACE_SECONDS = TEARDOWN_SECONDS + 10.0
DELETE_SECONDS = GRACE_SECONDS + 30.0


def application_name(cluster: str, model: str, revision: int) -> str:
    """Unique also where several clusters of ours share one `existing` Ray; no name has a dot."""
    return f"cai.{cluster}.{model}.r{revision}"


def start_serve() -> None:
    """Start Serve without HTTP proxies, or leave the one that runs as it is."""
    for attempt in range(START_ATTEMPTS):
        try:
            serve.start(proxy_location="Disabled")
        except (ValueError, RayError):
            # The gateway's actor starts Serve too; whoever comes second finds the name taken.
            if attempt == START_ATTEMPTS - 1:
                raise
            time.sleep(1.0)
        else:
            return


def start_application(
    job: ReplicaJob, replicas: int, need: Resources, placement: dict[str, Any] | None = None
) -> None:
    """Ask Serve for the revision's replicas and return without waiting for them.

    `placement` is that of an engine over several nodes, or what hooks decided; without it each
    reserves what it needs.
    """
    start_serve()
    deployment = serve.deployment(Replica).options(
        num_replicas=replicas or 1,
        **(_actor_options(need) if placement is None else _placed(placement, job.gpu)),
        health_check_period_s=HEALTH_PERIOD_SECONDS,
        health_check_timeout_s=HEALTH_TIMEOUT_SECONDS,
        graceful_shutdown_timeout_s=job.shutdown_timeout + GRACE_SECONDS,
        graceful_shutdown_wait_loop_s=0.1,
        max_constructor_retry_count=3,
        # Without a version of ours Serve takes each call for new code and restarts all replicas.
        version=f"r{job.revision}",
        _internal=True,
    )
    target = serve.RunTarget(
        target=deployment.bind(job.to_json(), ACTOR_NAME, namespace(job.cluster)),
        name=application_name(job.cluster, job.model, job.revision),
        route_prefix=None,
        # The autoscaler may then set the count.
        external_scaler_enabled=True,
    )
    there = target.name in _application_statuses()
    serve.run_many([target], wait_for_applications_running=False)
    if not replicas:
        # Serve starts none with a count of zero, but takes it as soon as it knows the application:
        # before the first replica has begun.
        deadline = time.monotonic() + CALL_SECONDS
        wait_until(lambda: _takes(target.name, replicas), deadline, COUNT_POLL_SECONDS)
    elif there:
        # Where that number is the one of last time, Serve keeps what the autoscaler made of it.
        # One that is still being deleted starts with the number anyway.
        _takes(target.name, replicas)


def set_count(application: str, replicas: int) -> Any:
    """Tell Serve how many replicas to run, zero included, and leave those that stay alone; the
    call's reference. It is what Serve's REST API for outside scalers calls, which needs Ray's
    dashboard.

    The call fails with `RayError` for an application that Serve does not know.
    """
    # Takes a second to import, as all of Serve does.
    from ray.serve._private.common import DeploymentID
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

    controller = ray.get_actor(SERVE_CONTROLLER_NAME, SERVE_NAMESPACE)
    deployment = DeploymentID(name=Replica.__name__, app_name=application)
    return controller.update_deployment_replicas.remote(deployment, replicas)


def delete_application(cluster: str, model: str, revision: int) -> None:
    """Take a revision out of the routing, then stop its replicas in order; waits for both.

    Raises `ModelError` (CAI-CLUSTER-006) when the replicas do not end in time.
    """
    with contextlib.suppress(ClusterError):
        ask(find_gateway(cluster).drop_revision.remote(model, revision))
    _delete(cluster, [application_name(cluster, model, revision)])


def delete_all(state: ClusterState) -> None:
    """Delete every application of the cluster; others in the same Serve stay."""
    prefix = f"cai.{state.name}."
    names = [name for name in _application_statuses() if name.startswith(prefix)]
    _delete(state.name, names)


def application_status(cluster: str, model: str, revision: int) -> Any:
    """Serve's own status of a revision, or None when Serve does not know it."""
    return _application_statuses().get(application_name(cluster, model, revision))


def _takes(application: str, replicas: int) -> bool:
    try:
        ray.get(set_count(application, replicas), timeout=CALL_SECONDS)
    except RayError:
        return False
    return True


def _is_over(cluster: str, names: Sequence[str]) -> bool:
    """Whether Serve has forgotten the applications, or no replica of them is left to wait for:
    one that never found a node Serve keeps for the whole of its grace."""
    if not set(names) & set(_application_statuses()):
        return True
    rows = _rows(cluster, names)
    return rows is not None and all(row.phase == "failed" for row in rows)


def _rows(cluster: str, names: Sequence[str]) -> list[ReplicaRow] | None:
    """What the gateway knows of the applications' replicas; None when it does not answer."""
    try:
        rows: list[ReplicaRow] = ask(find_gateway(cluster).replicas.remote())
    except ClusterError:
        return None
    return [r for r in rows if application_name(cluster, r.model, r.revision) in names]


def _delete(cluster: str, names: Sequence[str]) -> None:
    there = [name for name in names if name in _application_statuses()]
    stopping = max((row.shutdown_timeout for row in _rows(cluster, there) or ()), default=0.0)
    for name in there:
        serve.delete(name, _blocking=False)
    deadline = time.monotonic() + stopping + DELETE_SECONDS
    if not wait_until(lambda: _is_over(cluster, there), deadline):
        raise ModelError("CAI-CLUSTER-006", f"still stopping: {', '.join(there)}")


def _application_statuses() -> dict[str, Any]:
    return dict(serve.status().applications)


def _actor_options(need: Resources) -> dict[str, Any]:
    options: dict[str, Any] = {"num_cpus": need.cpu, "num_gpus": need.gpu}
    if need.memory:
        options["memory"] = need.memory
    return {"ray_actor_options": options}


def _placed(placement: dict[str, Any], gpu: float) -> dict[str, Any]:
    """The replica itself takes the first bundle, but for GPUs that workers of its engine take
    there; the others wait for what the engine starts."""
    bundles = merged(placement)
    if not bundles:
        return {"ray_actor_options": {"num_cpus": 0, "num_gpus": 0}}
    first = dict(bundles[0])
    first.pop("GPU", None)
    options = {"num_cpus": first.pop("CPU", 0), "num_gpus": gpu}
    if memory := first.pop("memory", 0):
        options["memory"] = memory
    return {
        "ray_actor_options": {**options, "resources": first},
        "placement_group_bundles": bundles,
        "placement_group_strategy": placement["strategy"],
    }
