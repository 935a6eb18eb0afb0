"""The workers library that Cloudera AI puts into a workload: `cml.workers_v1`, before it `cdsw`.

Its functions differ between workbenches and are not documented in all they do, so only keyword
arguments of the live signature are used and no answer is taken for granted. It raises what its
HTTP calls raise, answers a refusal as a result without an id, and a stop without ids stops every
worker of the workload.
"""

from __future__ import annotations

import importlib
import inspect
import os
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from ray_serve_cai.errors import ClusterError
from ray_serve_cai.plan.nodes import ENGINE_VARIABLE

MODULES = ("cml.workers_v1", "cdsw")
# Where a refusal, or a worker that waits, may say why.
MESSAGE_KEYS = ("message", "k8sMessage", "failure_reason", "reason", "error")
# Of a stop: there is no such worker, or none any more.
NOT_THERE = (404, 410)
# What every workbench's `launch_workers` takes.
OLDEST = ("n", "cpu", "memory", "nvidia_gpu", "kernel", "script", "code", "env")
# Seconds to wait for an answer: the library itself would wait for ever. It launches ten at once.
LIMITS = {"launch_workers": 300.0, "list_workers": 30.0, "stop_workers": 120.0}


@dataclass(frozen=True)
class Launched:
    """What one launch call came to: ids of workers, and the platform's words on the others.

    `half_made` are engines of refused workers, which stay behind until they are stopped.
    """

    ids: tuple[str, ...]
    refusals: tuple[str, ...]
    half_made: tuple[str, ...]


class WorkersLibrary:
    """One of `MODULES`."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module
        self._known, self._takes_all = _parameters(module.launch_workers)

    def takes(self, parameter: str) -> bool:
        """Whether this workbench's `launch_workers` has a parameter of that name."""
        return parameter in self._known or self._takes_all

    def launch(self, count: int, wanted: Mapping[str, Any]) -> Launched:
        """Ask for `count` equal workers in one call.

        Raises `ClusterError`: CAI-PROVIDER-002 for a parameter that this workbench lacks,
        CAI-PROVIDER-003 when the call itself failed.
        """
        if missing := [name for name in wanted if not self.takes(name)]:
            raise ClusterError(
                "CAI-PROVIDER-002",
                f"this workbench's {self._module.__name__}.launch_workers takes no "
                f"{', '.join(missing)} (it takes {', '.join(self._known)})",
            )
        results = _rows(self._call("launch_workers", n=count, **wanted), "launch_workers")
        ids = tuple(str(row["id"]) for row in results if row.get("id"))
        refused = [row for row in results if not row.get("id")]
        words = [said(row) or "no reason given" for row in refused]
        words += ["no answer for this worker"] * (count - len(results))
        half_made = tuple(str(row["engineId"]) for row in refused if row.get("engineId"))
        return Launched(ids, tuple(words), half_made)

    def list(self) -> dict[str, dict[str, Any]]:
        """The workers of this workload by id, dead ones included; raises CAI-PROVIDER-003."""
        rows = _rows(self._call("list_workers"), "list_workers")
        return {str(row["id"]): row for row in rows if row.get("id")}

    def stop(self, ids: Sequence[str]) -> None:
        """Stop these workers; one that is not there is done.

        Raises `ClusterError` (CAI-PROVIDER-003) when the platform does not do it.
        """
        if not ids:
            return
        answers = self._call("stop_workers", *ids) or ()
        statuses = [int(getattr(answer, "status_code", 200)) for answer in answers]
        # The answers stand in the order of the ids.
        bad = [
            f"{one}: HTTP {status}"
            for one, status in zip(ids, statuses, strict=False)
            if not (200 <= status < 300 or status in NOT_THERE)
        ]
        if bad:
            raise ClusterError("CAI-PROVIDER-003", f"stop_workers: not stopped: {', '.join(bad)}")

    def _call(self, function_name: str, /, *values: str, **keywords: Any) -> Any:
        function: Callable[..., Any] = getattr(self._module, function_name)
        try:
            return _bounded(lambda: function(*values, **keywords), LIMITS[function_name])
        except Exception as error:
            # A foreign library raises what it likes.
            text = f"{function_name}: {type(error).__name__}: {error}"
            raise ClusterError("CAI-PROVIDER-003", text) from error


def find_library() -> WorkersLibrary:
    """Raises `ClusterError` (CAI-PROVIDER-001) outside a Cloudera AI workload."""
    if not engine_id():
        raise ClusterError(
            "CAI-PROVIDER-001", f"not inside a Cloudera AI workload: {ENGINE_VARIABLE} is not set"
        )
    failures = []
    for name in MODULES:
        try:
            return WorkersLibrary(importlib.import_module(name))
        except (ImportError, AttributeError) as error:
            failures.append(f"{name}: {error}")
    raise ClusterError(
        "CAI-PROVIDER-001", f"no workers library in this workload ({'; '.join(failures)})"
    )


def engine_id() -> str:
    """The workload that this process runs in; empty outside of any."""
    return os.environ.get(ENGINE_VARIABLE, "")


def said(row: Mapping[str, Any]) -> str:
    """The platform's own words in a result or listing; empty when there are none."""
    return "; ".join(str(row[key]) for key in MESSAGE_KEYS if row.get(key))


def _parameters(function: Callable[..., Any]) -> tuple[Sequence[str], bool]:
    """Their names, and whether any other is taken too; `OLDEST` where it shows no signature."""
    try:
        known = inspect.signature(function).parameters
    except (ValueError, TypeError):
        return OLDEST, False
    kinds = {each.kind for each in known.values()}
    return tuple(known), inspect.Parameter.VAR_KEYWORD in kinds


def _bounded(function: Callable[[], Any], seconds: float) -> Any:
    """Its result; `TimeoutError` when there is none in time, and then it goes on for nobody."""
    results: queue.SimpleQueue[tuple[Any, Exception | None]] = queue.SimpleQueue()

    def work() -> None:
        try:
            results.put((function(), None))
        except Exception as error:  # noqa: BLE001 - handed to the caller's thread
            results.put((None, error))

    threading.Thread(target=work, name="workers-library", daemon=True).start()
    try:
        value, error = results.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer within {seconds:g} s") from None
    if error is not None:
        raise error
    return value


def _rows(answer: Any, name: str) -> Sequence[dict[str, Any]]:
    """An error's body stands where a list should, since the library looks at no status."""
    if isinstance(answer, list) and all(isinstance(row, dict) for row in answer):
        return answer
    words = said(answer) if isinstance(answer, dict) else ""
    raise ClusterError(
        "CAI-PROVIDER-003",
        f"{name} answered {words or type(answer).__name__}, not a list of workers",
    )
