"""The bare engine's own server, for comparison: vLLM's OpenAI server, started as its docs say."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from ray_serve_cai.bench.groups import of_server
from ray_serve_cai.bench.load import Target
from ray_serve_cai.cluster.ports import free_port
from ray_serve_cai.engines.vllm_args import command_line
from ray_serve_cai.errors import EngineError

START_SECONDS = 300.0
STOP_SECONDS = 30.0
POLL_SECONDS = 0.05
MODULE = "vllm.entrypoints.openai.api_server"


@contextmanager
def bare_vllm(
    model: str, folder: Path, args: Mapping[str, Any], env: Mapping[str, str], log: Path
) -> Iterator[Target]:
    """vLLM's server with the model's own arguments and environment, up and answering.

    Raises `EngineError` (CAI-MODEL-002) when it does not come up.
    """
    port = free_port("127.0.0.1")
    line = command_line({**args, "model": str(folder), "served_model_name": model})
    defaults = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    with log.open("ab") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", MODULE, "--host", "127.0.0.1", "--port", str(port), *line],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **defaults, **env},
        )
    target = Target(f"http://127.0.0.1:{port}", model, processes=of_server(server.pid))
    try:
        _wait(server, target.url, log)
        yield target
    finally:
        _stop(server)


def _wait(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if httpx.get(f"{url}/health", timeout=2, trust_env=False).is_success:
                return
        except httpx.TransportError:
            time.sleep(POLL_SECONDS)
    raise EngineError("CAI-MODEL-002", f"the bare engine did not start; its log is {log}")


def _stop(server: subprocess.Popen[bytes]) -> None:
    if server.poll() is None:
        server.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            server.wait(STOP_SECONDS)
    try:
        os.killpg(server.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
