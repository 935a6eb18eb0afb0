"""SMG in a process of its own, configured over stdin so that no key stands on a command line."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from typing import Any

CHECK_SECONDS = 1
HEALTH_SECONDS = 5
SHUTDOWN_GRACE_SECONDS = 10


def main() -> None:
    order = json.loads(sys.stdin.readline())
    threading.Thread(target=_die_with_parent, name="lifeline", daemon=True).start()
    from smg.launch_router import launch_router

    launch_router(router_args(order))


def router_args(order: dict[str, Any]) -> Any:
    """SMG's arguments for a `GatewayConfig` as a dict, plus the path of the `manifest`."""
    from smg.router_args import RouterArgs

    keys = order["api_keys"]
    tenants = [(f"key-{number}", key) for number, key in enumerate(keys, 1)]
    return RouterArgs(
        host=order["host"],
        port=order["port"],
        discovery_provider="file",
        discovery_file=order["manifest"],
        discovery_check_interval_secs=CHECK_SECONDS,
        enable_igw=True,
        policy="cache_aware",
        prometheus_host=order["metrics_host"],
        prometheus_port=order["metrics_port"],
        max_payload_size=order["max_request_bytes"],
        max_concurrent_requests=order["max_concurrent"],
        queue_size=order["queue"],
        queue_timeout_secs=order["queue_timeout"],
        health_check_interval_secs=HEALTH_SECONDS,
        # The first answer counts: a replica is listed only once its engine has made a token.
        health_success_threshold=1,
        shutdown_grace_period_secs=SHUTDOWN_GRACE_SECONDS,
        # With `api_key` alone every client would need that one key.
        api_key=order["internal_key"] if tenants else None,
        tenant_api_keys=tenants,
        # Otherwise anybody who reaches the gateway could add and remove workers.
        control_plane_api_keys=[("cai", "cai", order["internal_key"], "admin")],
        log_level="warn",
    )


def _die_with_parent() -> None:
    sys.stdin.read()
    os.killpg(os.getpgid(0), signal.SIGKILL)


if __name__ == "__main__":
    main()
