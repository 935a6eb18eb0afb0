"""How long starting takes: `python -m ray_serve_cai.bench.startup [--rounds N]`.

Two pairs, each in turn on the same machine: `cai cluster up` of a local one-node cluster beside
`ray start --head`, and `cai model deploy` of the demo model beside vLLM's own server, both to
their first token.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import httpx

from ray_serve_cai.bench.bare import bare_vllm
from ray_serve_cai.bench.scheduler import autogroups_off
from ray_serve_cai.cluster.ports import free_port
from ray_serve_cai.demo import model_dir
from ray_serve_cai.providers.processes import kill_marked, marks

ENGINE_ARGS = {"max_model_len": 1024, "enforce_eager": True}
SPEC = """
kind: Cluster
name: startup
head: {cpu: 2}
ray: {port: auto}
gateway: {port: auto}
---
kind: Model
name: demo
source: builtin:demo
engine: {args: {max_model_len: 1024, enforce_eager: true}}
"""
STEP_SECONDS = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="cai-startup-") as folder, autogroups_off() as note:
        times = _measure(Path(folder), rounds)
    medians = {name: round(median(values), 2) for name, values in times.items()}
    result = {
        "note": note,
        "seconds": medians,
        "rounds": {name: [round(value, 2) for value in values] for name, values in times.items()},
        "up_ratio": round(medians["cai cluster up"] / medians["ray start --head"], 2),
        "deploy_ratio": round(medians["cai model deploy"] / medians["bare vLLM"], 2),
    }
    print(json.dumps(result, indent=1))


def _measure(folder: Path, rounds: int) -> dict[str, list[float]]:
    spec = folder / "startup.yaml"
    spec.write_text(SPEC)
    times: dict[str, list[float]] = {
        "ray start --head": [],
        "cai cluster up": [],
        "bare vLLM": [],
        "cai model deploy": [],
    }
    # One round more than counted: the first fills the page cache for everybody.
    for number in range(rounds + 1):
        found = {
            "ray start --head": _ray_start(folder),
            "cai cluster up": _timed(lambda: _cai(folder, "cluster", "up", str(spec))),
        }
        try:
            found["cai model deploy"] = _timed(lambda: _cai(folder, "model", "deploy", str(spec)))
        finally:
            _cai(folder, "cluster", "down", "startup", "--yes")
        found["bare vLLM"] = _bare(folder)
        print(json.dumps({"round": number, **found}), file=sys.stderr)
        if number:
            for name, value in found.items():
                times[name].append(value)
    return times


def _ray_start(folder: Path) -> float:
    """Seconds until `ray start --head` returns; its processes are ended afterwards."""
    mark = folder / "ray"
    mark.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head"]
    command += [f"--port={free_port('')}", f"--ray-client-server-port={free_port('')}"]
    command += ["--num-cpus=2", "--num-gpus=0", "--include-dashboard=false"]
    command += ["--disable-usage-stats", f"--temp-dir={mark}"]
    token = folder / "token"
    token.write_text(secrets.token_urlsafe(48))
    environment = {**os.environ, **marks(mark, "bench"), "RAY_AUTH_TOKEN_PATH": str(token)}
    try:
        return _timed(
            lambda: subprocess.run(
                command, env=environment, check=True, capture_output=True, timeout=STEP_SECONDS
            )
        )
    finally:
        kill_marked(mark)


def _cai(folder: Path, *words: str) -> None:
    environment = {**os.environ, "CAI_HOME": str(folder / "home")}
    subprocess.run(
        [sys.executable, "-m", "ray_serve_cai", *words],
        env=environment,
        check=True,
        capture_output=True,
        timeout=STEP_SECONDS,
    )


def _bare(folder: Path) -> float:
    """Seconds to the first token of vLLM's own server; stopping it does not count."""
    began = time.perf_counter()
    with bare_vllm("demo", model_dir(), ENGINE_ARGS, {}, folder / "bare.log") as target:
        body = {"model": "demo", "prompt": "Hello", "max_tokens": 1}
        httpx.post(f"{target.url}/v1/completions", json=body, timeout=60).raise_for_status()
        return time.perf_counter() - began


def _timed(step: Callable[[], object]) -> float:
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
