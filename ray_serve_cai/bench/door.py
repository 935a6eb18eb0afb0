"""What the front door costs a request: `python -m ray_serve_cai.bench.door [--rounds N]`.

One local cluster with the echo engine, whose tokens cost next to nothing, so that what the door
adds shows as large as it can. The same load goes to the gateway and, in turn, through the door.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from ray_serve_cai.bench.compare import measure, ratios
from ray_serve_cai.bench.load import Load, Target
from ray_serve_cai.bench.scheduler import undisturbed
from ray_serve_cai.cluster.ports import free_port
from ray_serve_cai.errors import ClusterError

NAME = "door"
SPEC = f"""
kind: Cluster
name: {NAME}
head: {{cpu: 2}}
ray: {{port: auto}}
gateway: {{port: auto}}
---
kind: Model
name: echo
source: builtin:demo
engine: {{type: echo}}
"""
# The echo engine says it again: some 32 pieces.
PROMPT = " ".join(f"word{number}" for number in range(32))
CLIENTS = (1, 8, 32)
STEP_SECONDS = 300.0
START_SECONDS = 30.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=600)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cai-door-", dir="/tmp") as folder:
        found = _measured(Path(folder), options.rounds, options.requests)
    print(json.dumps(found, indent=1))


def _measured(folder: Path, rounds: int, requests: int) -> dict[str, Any]:
    results = []
    with _cluster(folder) as gateway, _door(folder) as (door, pid), undisturbed() as note:
        targets = {"gateway": Target(gateway, "echo"), "door": Target(door, "echo")}
        proxy = _haproxy(pid)
        for clients in CLIENTS:
            load = Load(clients, requests, prompt=PROMPT)
            before = _cpu(proxy)
            rows = measure(targets, load, rounds=rounds, report=_report)
            # The warm-up, of a tenth, goes through it as well.
            asked = requests * rounds + max(clients, requests // 10)
            cost = {"haproxy_cpu_ms": round((_cpu(proxy) - before) / asked * 1000, 3)}
            ratio = ratios(rows["door"], rows["gateway"])
            results.append({"clients": clients, **rows, "ratios": ratio, **cost})
    return {"note": note, "rounds": rounds, "requests": requests, "results": results}


@contextmanager
def _cluster(folder: Path) -> Iterator[str]:
    """The gateway's URL of a cluster with the model `echo`."""
    spec = folder / "door.yaml"
    spec.write_text(SPEC)
    try:
        url = _cai(folder, "cluster", "up", str(spec)).strip().splitlines()[-1]
        _cai(folder, "model", "deploy", str(spec), "--cluster", NAME)
        yield url
    finally:
        _cai(folder, "cluster", "down", NAME, "--yes")


@contextmanager
def _door(folder: Path) -> Iterator[tuple[str, int]]:
    """The URL of a front door that leads to the cluster, and the door's process."""
    port = free_port("127.0.0.1")
    state = folder / "home" / "clusters" / NAME
    command = [sys.executable, "-m", "ray_serve_cai.serving.front_door", str(state)]
    process = subprocess.Popen([*command, "--port", str(port)])
    try:
        url = f"http://127.0.0.1:{port}"
        _wait(url)
        yield url, process.pid
    finally:
        process.terminate()
        process.wait()


def _haproxy(door: int) -> psutil.Process:
    return next(p for p in psutil.Process(door).children() if p.name() == "haproxy")


def _cpu(process: psutil.Process) -> float:
    """Seconds of CPU so far."""
    times = process.cpu_times()
    return float(times.user + times.system)


def _wait(url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/health", trust_env=False).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise ClusterError("CAI-DOOR-002", f"{url} does not lead to the gateway")


def _cai(folder: Path, *words: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "ray_serve_cai", *words],
        env={**os.environ, "CAI_HOME": str(folder / "home")},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=STEP_SECONDS,
    ).stdout


def _report(step: str, what: str) -> None:
    print(f"{step}: {what}", file=sys.stderr)


if __name__ == "__main__":
    main()
