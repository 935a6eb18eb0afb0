"""The gateway actor from outside: start, find, stop. The caller is connected to Ray."""

from __future__ import annotations

import contextlib
import math
import time
from typing import Any

import ray

from ray_serve_cai.cluster.ports import free_port
from ray_serve_cai.cluster.state import ClusterRecord, ClusterState
from ray_serve_cai.errors import ClusterError
from ray_serve_cai.serving.gateway import Gateway
from ray_serve_cai.serving.gateway_config import ACTOR_NAME, GatewayConfig, namespace
from ray_serve_cai.serving.readiness import ATTEMPT_SECONDS
from ray_serve_cai.spec import ClusterSpec

CALL_SECONDS = 30.0
STOP_SECONDS = 15.0


def start_gateway(spec: ClusterSpec, state: ClusterState, record: ClusterRecord) -> str:
    """Start the actor on the head node if it is not there; the gateway's base URL once it answers.

    Raises `ClusterError` (CAI-GATEWAY-001).
    """
    options = {
        "name": ACTOR_NAME,
        "namespace": namespace(record.name),
        "lifetime": "detached",
        "get_if_exists": True,
        "num_cpus": 0,
        "max_restarts": -1,
        "max_task_retries": 3,
        "max_concurrency": 1000,
        "resources": {"node:__internal_head__": 0.001},
    }
    actor = ray.remote(Gateway).options(**options).remote(_config(spec, state, record))
    try:
        return str(ray.get(actor.start.remote(), timeout=CALL_SECONDS))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except (ray.exceptions.RayError, TimeoutError) as error:
        raise ClusterError(
            "CAI-GATEWAY-001", f"the gateway actor did not start: {error}"
        ) from error


def find_gateway(cluster: str) -> Any:
    """The actor's handle; raises `ClusterError` (CAI-CLUSTER-009) when there is none."""
    try:
        return ray.get_actor(ACTOR_NAME, namespace(cluster))
    except ValueError as error:
        raise ClusterError(
            "CAI-CLUSTER-009", f'the gateway of cluster "{cluster}" is not running'
        ) from error


def ask(reference: Any) -> Any:
    """The answer of an actor call, with a limit."""
    try:
        return ray.get(reference, timeout=CALL_SECONDS)
    except (ray.exceptions.RayActorError, TimeoutError) as error:
        raise ClusterError("CAI-CLUSTER-009", f"the gateway does not answer: {error}") from error


def first_token(cluster: str, model: str, deadline: float) -> None:
    """Return once `model` has answered through the gateway, asked by the gateway's own actor:
    the gateway need not be reachable from here.

    `deadline` is monotonic. Raises `ModelError` (CAI-MODEL-003, CAI-CLUSTER-006).
    """
    seconds = max(deadline - time.monotonic(), 0.0)
    reference = find_gateway(cluster).first_token.remote(model, seconds)
    try:
        ray.get(reference, timeout=seconds + ATTEMPT_SECONDS)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except (ray.exceptions.RayActorError, TimeoutError) as error:
        raise ClusterError("CAI-CLUSTER-009", f"the gateway does not answer: {error}") from error


def stop_gateway(cluster: str) -> None:
    """End the gateway and its actor; nothing to do when they are gone."""
    try:
        actor = find_gateway(cluster)
    except ClusterError:
        return
    with contextlib.suppress(ray.exceptions.RayError, TimeoutError):
        ray.get(actor.stop.remote(), timeout=STOP_SECONDS)
    with contextlib.suppress(ray.exceptions.RayError):
        ray.kill(actor, no_restart=True)


def wait_until(condition: Any, deadline: float, interval: float = 0.1) -> bool:
    """Poll `condition()` until it holds or the deadline (monotonic) passes."""
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(interval)
    return True


def _config(spec: ClusterSpec, state: ClusterState, record: ClusterRecord) -> GatewayConfig:
    gateway = spec.gateway
    port = record.gateway_port or (free_port("") if gateway.port == "auto" else gateway.port)
    wanted = gateway.metrics.port
    metrics_port = record.metrics_port or (free_port("") if wanted == "auto" else wanted)
    record.gateway_port, record.metrics_port = port, metrics_port
    return GatewayConfig(
        host=gateway.host,
        port=port,
        metrics_host=gateway.metrics.host,
        metrics_port=metrics_port,
        api_keys=tuple(gateway.api_keys),
        internal_key=state.internal_key(),
        max_request_bytes=gateway.max_request_bytes,
        max_concurrent=gateway.max_concurrent,
        queue=gateway.queue,
        queue_timeout=max(math.ceil(gateway.queue_timeout), 1),
        folder=str(state.folder / "gateway"),
        log_path=str(state.logs / "gateway.log"),
    )
