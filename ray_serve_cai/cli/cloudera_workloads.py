"""What `cai cloudera` asks of the platform for a list of specs, and how its answers are shown."""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray_serve_cai.errors import CaiError, SpecError
from ray_serve_cai.plan.cluster import POD_MEMORY_PER_CPU
from ray_serve_cai.plan.nodes import PLAN_VARIABLE
from ray_serve_cai.providers.cai_api import Api, Row, environment_of, own_runtime, word_of
from ray_serve_cai.providers.cai_script import project_folder, script_variables, write_script

if TYPE_CHECKING:
    from ray_serve_cai.spec import ClusterSpec, Document

ARGUMENTS = "CAI_ARGUMENTS"
GIB = 1024**3


@dataclass(frozen=True)
class Size:
    """What the workload's pod asks for; None for what the specs need. `memory` in GB."""

    cpu: float | None
    memory: float | None
    gpu: int | None


class Specs:
    """The specs of one workload: a cluster and its models, in files of the project."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Raises `CaiError` for specs that `cai serve` would refuse, and for files elsewhere."""
        from ray_serve_cai.spec import clusters, load_files, models

        self.paths = [_in_project(path) for path in paths]
        self.documents: list[Document] = load_files(paths)
        found = clusters(self.documents)
        models(self.documents)
        if len(found) > 1:
            raise SpecError("CAI-SPEC-007", "cai serve takes one Cluster document, not several")
        self.cluster: ClusterSpec = found[0].cluster

    def arguments(self, command: Sequence[str] = ()) -> str:
        """The command line that the workload runs."""
        end = ["--", *command] if command else []
        return shlex.join(["serve", *self.paths, *end])

    def variables(self, passed: Collection[str]) -> list[str]:
        """Those `${…}` that the specs took from this environment and the workload must have."""
        used = {name for document in self.documents for name in document.variables}
        return sorted(used - set(passed))

    def check_open(self) -> None:
        """Raises `SpecError` (CAI-SPEC-008) for a gateway that anybody could use."""
        if not self.cluster.gateway.api_keys:
            raise SpecError(
                "CAI-SPEC-008",
                f'without Cloudera\'s login the cluster "{self.cluster.name}" needs an API key',
            )

    def body(
        self, api: Api, name: str, size: Size, runtime: str | None, env: Sequence[str], line: str
    ) -> dict[str, Any]:
        """The fields that applications and jobs have in common."""
        needed = size_of(self.cluster)
        return {
            "name": name,
            "script": write_script(),
            "cpu": size.cpu if size.cpu is not None else needed.cpu,
            "memory": size.memory if size.memory is not None else needed.memory,
            "nvidia_gpu": size.gpu if size.gpu is not None else needed.gpu,
            "runtime_identifier": runtime or own_runtime(api),
            "environment": {**_passed(env), **script_variables(), ARGUMENTS: line},
        }


def size_of(cluster: ClusterSpec) -> Size:
    """What of the cluster runs in the workload itself: all of it, its head, or `cai` alone."""
    kind = cluster.provider.type
    nodes: list[tuple[float, int | None, int]] = []
    if kind == "local" or getattr(cluster.provider, "head_in", "") == "launcher":
        nodes.append((cluster.head.cpu, cluster.head.memory, cluster.head.gpu))
    if kind == "local":
        for group in cluster.workers:
            nodes += [(group.cpu, group.memory, group.gpu)] * group.count
    cpu = max(sum(node[0] for node in nodes), 1.0)
    memory = sum(given or POD_MEMORY_PER_CPU * max(cpus, 1) for cpus, given, _ in nodes)
    memory = memory or POD_MEMORY_PER_CPU
    return Size(cpu, round(memory / GIB, 2), sum(node[2] for node in nodes))


def default_subdomain(api: Api, cluster: str) -> str:
    """Subdomains are one space for all projects of a workbench."""
    words = [word for word in cluster.split("-") if word]
    return "-".join([*words, hashlib.sha256(api.project.encode()).hexdigest()[:6]])


def is_ours(row: Row) -> bool:
    return bool({ARGUMENTS, PLAN_VARIABLE} & environment_of(row).keys())


def find(rows: Sequence[Row], name: str, kind: str) -> Row | None:
    """Our row called `name`; raises `CaiError` (CAI-CLI-001) for one that is not ours."""
    found = next((row for row in rows if row.get("name") == name), None)
    if found is not None and not is_ours(found):
        raise CaiError(
            "CAI-CLI-001", f'the {kind} "{name}" was not made by cai', hint="Use another name."
        )
    return found


def refuse_existing(row: Row | None, kind: str, cure: str) -> None:
    """Raises `CaiError` (CAI-PROVIDER-002) when there is a row."""
    if row is not None:
        message = f'there is {kind} "{row["name"]}" already'
        raise CaiError("CAI-PROVIDER-002", message, hint=cure)


def application_row(api: Api, row: Row) -> dict[str, Any]:
    own = environment_of(row)
    return {
        "name": row.get("name"),
        "kind": "node" if PLAN_VARIABLE in own else "serve",
        "state": word_of(row).lower(),
        "url": api.url_of(str(row.get("subdomain"))),
        "arguments": own.get(ARGUMENTS, ""),
        **_common(row),
    }


def job_row(row: Row, runs: Sequence[Row]) -> dict[str, Any]:
    last = runs[0] if runs else None
    return {
        "name": row.get("name"),
        "state": word_of(last).lower() if last else "not run",
        "run": last["id"] if last else None,
        "schedule": row.get("schedule") or None,
        "arguments": row.get("arguments") or environment_of(row).get(ARGUMENTS, ""),
        **_common(row),
    }


def _common(row: Row) -> dict[str, Any]:
    sizes = {"cpu": row.get("cpu"), "memory": row.get("memory"), "gpu": row.get("nvidia_gpu")}
    return {"id": row.get("id"), **sizes}


def _in_project(path: Path) -> str:
    folder = project_folder()
    try:
        return path.resolve().relative_to(folder).as_posix()
    except ValueError:
        raise CaiError(
            "CAI-CLI-001",
            f"{path} is outside of the project's files in {folder}",
            hint="Copy the spec into the project: the workload reads it there.",
        ) from None


def _passed(names: Sequence[str]) -> dict[str, str]:
    for name in names:
        if name not in os.environ:
            raise CaiError("CAI-CLI-001", f"--env {name}: the variable is not set here")
        if name.startswith("CDSW_"):
            message = f"--env {name}: each workload gets its own from the platform"
            raise CaiError("CAI-CLI-001", message)
    return {name: os.environ[name] for name in names}
