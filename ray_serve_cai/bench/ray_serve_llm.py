"""Ray Serve LLM, for comparison, in a Ray of its own: `default`, or `direct` streaming.

Direct streaming is its way around Serve's Python proxy: HAProxy sends the requests to vLLM's own
server, in the replica.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx

from ray_serve_cai.bench.groups import of_ray
from ray_serve_cai.bench.load import Target
from ray_serve_cai.cluster.ports import free_port
from ray_serve_cai.errors import EngineError
from ray_serve_cai.providers.processes import kill_marked, marks

START_SECONDS = 300.0
POLL_SECONDS = 0.2
MODULE = "ray_serve_cai.bench.ray_serve_llm_app"
HOST = "127.0.0.1"
# Of its extra `llm`, which would replace vLLM; the rest is here or is not needed for text on CPUs.
LIBRARIES = ("pyarrow", "jsonref")


@contextmanager
def ray_serve_llm(
    model: str,
    folder: Path,
    args: Mapping[str, Any],
    env: Mapping[str, str],
    log: Path,
    mode: str,
) -> Iterator[Target]:
    """Its OpenAI endpoint, up and answering; everything that it started ends with the block.

    Raises `EngineError`: CAI-ENGINE-002 when a library that it needs is missing, CAI-MODEL-002
    when it does not come up.
    """
    if missing := [name for name in LIBRARIES if find_spec(name) is None]:
        raise EngineError("CAI-ENGINE-002", f"Ray Serve LLM needs {' and '.join(missing)} too")
    # In /tmp, since Ray puts Unix sockets in its folders and their paths end at 107 bytes.
    place = Path(tempfile.mkdtemp(prefix="cai-llm-", dir="/tmp"))
    port = free_port(HOST)
    order: dict[str, Any] = {"model": model, "folder": str(folder), "args": dict(args)}
    order |= {"place": str(place), "host": HOST, "port": port}
    target = Target(f"http://{HOST}:{port}", model, processes=of_ray(place))
    try:
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", MODULE],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # Ray's workers inherit it; its `runtime_env` would show secrets.
                env={**os.environ, **env, **_own(place, mode), **marks(place, "bench")},
            )
        assert process.stdin is not None
        # Left open: the program ends when it closes.
        process.stdin.write(json.dumps(order).encode() + b"\n")
        process.stdin.flush()
        _wait(process, target, log)
        yield target
    finally:
        kill_marked(place)
        shutil.rmtree(place, ignore_errors=True)


def _own(place: Path, mode: str) -> dict[str, str]:
    token = place / "token"
    token.write_text(secrets.token_urlsafe(48))
    token.chmod(0o600)
    own = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TMPDIR": str(place),
    }
    return own | (_direct(place) if mode == "direct" else {})


def _direct(place: Path) -> dict[str, str]:
    """Two switches, and places of its own for what would lie below /tmp and at fixed ports."""
    ports = ("HAPROXY_METRICS", "HAPROXY_STATS", "FALLBACK_PROXY_HTTP", "FALLBACK_PROXY_GRPC")
    return {f"RAY_SERVE_{name}_PORT": str(free_port("")) for name in ports} | {
        "RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING": "1",
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(place / "haproxy" / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(place / "haproxy" / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(place / "haproxy"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(place / "haproxy" / "server-state"),
    }


def _wait(process: subprocess.Popen[bytes], target: Target, log: Path) -> None:
    """Until it answers: its health check says yes before its model is there."""
    body = {"model": target.model, "prompt": "Hello", "max_tokens": 1}
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            reply = httpx.post(
                f"{target.url}/v1/completions", json=body, timeout=60, trust_env=False
            )
            if reply.is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(POLL_SECONDS)
    raise EngineError("CAI-MODEL-002", f"Ray Serve LLM did not start; its log is {log}")
