"""What the gateway's actor is called and how it listens."""

from __future__ import annotations

from dataclasses import dataclass, field

ACTOR_NAME = "cai-gateway"


def namespace(cluster: str) -> str:
    """The Ray namespace of a cluster's actors; several clusters may share one `existing` Ray."""
    return f"cai-{cluster}"


@dataclass(frozen=True)
class GatewayConfig:
    """How the gateway listens. `folder` and `log_path` lie on the head node. Sizes in bytes,
    `queue_timeout` in whole seconds."""

    host: str
    port: int
    metrics_host: str
    metrics_port: int
    api_keys: tuple[str, ...] = field(repr=False)
    internal_key: str = field(repr=False)
    max_request_bytes: int
    max_concurrent: int
    queue: int
    queue_timeout: int
    folder: str
    log_path: str
