"""The real gateway in front of servers of this process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import httpx

from ray_serve_cai.cluster.ports import free_port
from ray_serve_cai.serving.gateway_config import GatewayConfig
from ray_serve_cai.serving.manifest import manifest_text


@contextmanager
def smg(folder: Path, ports: list[int]) -> Iterator[str]:
    """Its URL, with gRPC workers on these ports of 127.0.0.1."""
    manifest = folder / "workers.json"
    workers = {str(number): f"grpc://127.0.0.1:{port}" for number, port in enumerate(ports)}
    manifest.write_text(manifest_text(workers))
    config = GatewayConfig(
        host="127.0.0.1",
        port=free_port("127.0.0.1"),
        metrics_host="127.0.0.1",
        metrics_port=free_port("127.0.0.1"),
        api_keys=(),
        internal_key="internal",
        max_request_bytes=2**20,
        max_concurrent=64,
        queue=64,
        queue_timeout=60,
        folder=str(folder),
        log_path=str(folder / "gateway.log"),
    )
    with open(config.log_path, "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "ray_serve_cai.serving.gateway_process"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        assert process.stdin is not None
        order = asdict(config) | {"manifest": str(manifest)}
        process.stdin.write(json.dumps(order).encode() + b"\n")
        process.stdin.flush()
        yield f"http://127.0.0.1:{config.port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for_models(url: str, names: set[str], seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while not names <= _models(url):
        assert time.monotonic() < deadline, f"not within {seconds} s: {names}"
        time.sleep(0.1)


def _models(url: str) -> set[str]:
    try:
        return {row["id"] for row in httpx.get(f"{url}/v1/models").json()["data"]}
    except (httpx.HTTPError, KeyError, ValueError):
        return set()
