"""What the platform puts into a workload: the functions of `cdsw` and `cml.workers_v1`.

`write_addons` copies this file into a folder for PYTHONPATH, under the names of one variant; it
is never imported from here by what it serves. Facts: docs/cloudera-ai.md.
"""

from __future__ import annotations

import base64
import json
import os
import random
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

POLL_SECONDS = 5
_FAILED = ("failed", "timedout", "stopped")


def list_workers() -> Any:
    """All workers of this engine, dead ones included; an error's body as it came."""
    return _call("GET", os.environ["CDSW_ENGINE_URL"] + "/workers")[1]


def stop_workers(*worker_id: str) -> Any:
    """Without ids: every worker of this engine."""
    ids = worker_id or [worker["id"] for worker in list_workers()]
    if not ids:
        return None
    urls = [f"{os.environ['CDSW_PROJECT_URL']}/dashboards/{each}/stop" for each in ids]
    with ThreadPoolExecutor(10) as pool:
        return list(pool.map(lambda url: _Answer(_call("PUT", url, None, raw=True)[0]), urls))


def await_workers(
    ids: Any, wait_for_completion: bool = True, timeout_seconds: float = 60
) -> dict[str, Any]:
    wanted = [each["id"] if isinstance(each, dict) else each for each in ids]
    done: dict[str, list[Any]] = {"workers": [], "failures": []}
    slept = 0.0
    while slept < timeout_seconds:
        there = [worker for worker in list_workers() if worker["id"] in wanted]
        for worker in there:
            where = _settled(worker, wait_for_completion)
            if where is None:
                break
            done[where].append(worker)
            wanted.remove(worker["id"])
        if not wanted:
            return done
        time.sleep(POLL_SECONDS)
        slept += POLL_SECONDS
    done["failures"] += [worker for worker in list_workers() if worker["id"] in wanted]
    return done


def _settled(worker: dict[str, Any], wait_for_completion: bool) -> str | None:
    status = worker["status"]
    if status in _FAILED:
        return "failures"
    if status == "succeeded":
        return "workers" if wait_for_completion else "failures"
    started = status == "running" and worker.get("ip_address") != "unknown"
    return "workers" if started and not wait_for_completion else None


def _launch(n: int, script: str = "", code: str = "", env: Any = None, **asked: Any) -> list[Any]:
    """The bodies of the answers, whatever their status, in no particular order."""
    body = {
        **asked,
        "script": script,
        "code": code,
        "env": env or {},
        "master_id": os.environ["CDSW_MASTER_ID"] or os.environ["CDSW_ENGINE_ID"],
    }
    url = os.environ["CDSW_PROJECT_URL"] + "/dashboards"
    with ThreadPoolExecutor(10) as pool:
        calls = [pool.submit(_call, "POST", url, body) for _ in range(n)]
        answers = [call.result()[1] for call in calls]
    random.shuffle(answers)
    return answers


def _call(method: str, url: str, body: Any = None, *, raw: bool = False) -> tuple[int, Any]:
    key = os.environ.get("CDSW_API_KEY")
    if not key:
        raise RuntimeError("CDSW_API_KEY is not set")
    request = urllib.request.Request(url, method=method)
    request.add_header("Authorization", "Basic " + base64.b64encode(f"{key}:".encode()).decode())
    request.add_header("Content-Type", "application/json")
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(request, data) as answer:
            status, text = answer.status, answer.read()
    except urllib.error.HTTPError as error:
        status, text = error.code, error.read()
    return status, None if raw else json.loads(text)


class _Answer:
    """The part of `requests.Response` that callers read."""

    def __init__(self, status_code: int) -> None:
        self.status_code = status_code


def _emulate_cdsw() -> Any:
    from cml import workers_v1

    names = ("launch_workers", "list_workers", "stop_workers", "await_workers")
    return SimpleNamespace(**{name: getattr(workers_v1, name) for name in names})
