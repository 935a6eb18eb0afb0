"""Nodes as workers of the Cloudera AI workload that runs `cai cluster up`.

They end with that workload, and it alone can list and stop them. Anybody else who shares the
folder judges a node by the last sign of life of its agent. What the platform does, and what of it
is inferred: docs/cloudera-ai.md.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ray_serve_cai.errors import CaiError, ClusterError, StateError
from ray_serve_cai.files import replaced
from ray_serve_cai.interrupts import held_back
from ray_serve_cai.plan.nodes import AGENT_MODULE, ASSIGNMENTS, HEAD, SILENT_SECONDS, NodePlan
from ray_serve_cai.providers.base import LaunchContext, Node, Provider
from ray_serve_cai.providers.cai_library import (
    Launched,
    WorkersLibrary,
    engine_id,
    find_library,
)
from ray_serve_cai.providers.cai_record import (
    RECORD,
    WorkerRecord,
    add_workers,
    forget_workers,
    read_workers,
    replace_file,
)
from ray_serve_cai.providers.cai_states import foreign_nodes, own_nodes
from ray_serve_cai.providers.local import LocalProvider
from ray_serve_cai.spec.cluster import CaiWorkersProvider as Settings

# For a head that gives Ray no CPU.
LEAST_CPU = 1.0

# What the launcher's own environment gives its workers; never a key or token.
PASSED_ON = ("CAI_CACHE", "HF_HUB_OFFLINE", "HF_ENDPOINT")

# Run by the worker's IPython. The agent gets a child of its own so that its output goes to the
# shared folder. IPython would lose an exit status, and the platform call the worker succeeded.
CODE = """\
import os, subprocess, sys
path = os.path.join({logs!r}, "worker-" + os.environ["CDSW_ENGINE_ID"] + ".log")
os.environ["PYTHONPATH"] = {pythonpath!r}
with open(path, "ab") as log:
    status = subprocess.call(
        [{python!r}, "-u", "-m", {module!r}, {folder!r}],
        stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
    )
print("cai node: exit status", status, "- its output is in", path, flush=True)
if status:
    os._exit(status if 0 < status < 256 else 1)
"""

FindLabel = Callable[[str], str]


def find_label_id(accelerator: str) -> str:
    """The platform's id of a GPU label; needs the REST API, which this provider does not else.

    Raises `ClusterError` (CAI-PROVIDER-002 for a label that is not there).
    """
    from ray_serve_cai.providers.cai_api import Api, label_id

    try:
        return label_id(Api.from_environment(), accelerator)
    except ClusterError as error:
        raise ClusterError(
            error.code,
            f'accelerator "{accelerator}": {error.message}',
            hint="Name a label that is there, or set provider.accelerator_label_id to its id.",
        ) from error


class CaiWorkersProvider(Provider):
    """`find_label` turns a group's `accelerator` into the platform's label id."""

    list_seconds = 2.0

    def __init__(self, find_label: FindLabel = find_label_id) -> None:
        self._find_label = find_label
        self._local = LocalProvider()

    def launch(self, nodes: Sequence[NodePlan], context: LaunchContext) -> None:
        settings = context.settings
        assert isinstance(settings, Settings)
        library, here = find_library(), engine_id()
        if nodes[0].role == HEAD and settings.head_in == "launcher":
            _record(context.folder, nodes, [here])
            self._local.launch(nodes, context)
            return
        asked = self._asked(library, nodes[0], context, settings)
        launched = _launched(library, nodes, asked, context.folder)
        for node, engine in zip(nodes, launched.ids, strict=False):
            _assign(node, engine, context)
        trouble = _trouble_stopping(library, launched.half_made)
        if launched.refusals:
            words = "; ".join(dict.fromkeys(launched.refusals))
            raise ClusterError(
                "CAI-PROVIDER-002",
                f"{len(launched.refusals)} of {len(nodes)} workers of group "
                f'"{nodes[0].group}" refused: {words}{trouble}',
            )

    def known(self, folder: Path) -> Sequence[str]:
        return list(read_workers(folder))

    def list(self, folder: Path) -> Sequence[Node]:
        here, now = engine_id(), time.time()
        records = read_workers(folder)
        own = {key: record for key, record in records.items() if here and record.by == here}
        workers = {key: record for key, record in own.items() if record.engine != here}
        local = self._local.list(folder) if len(workers) < len(own) else ()
        listed = find_library().list() if workers else {}
        return [
            *local,
            *own_nodes(folder, workers, listed, now),
            *foreign_nodes(folder, _without(records, own), now),
        ]

    def out_of_reach(self, folder: Path, ids: Sequence[str]) -> Mapping[str, str]:
        """The live workers of other workloads."""
        here, wanted = engine_id(), set(ids)
        others = {key: each for key, each in read_workers(folder).items() if each.by != here}
        return {
            node.id: f"launched by workload {others[node.id].by}"
            for node in foreign_nodes(folder, others, time.time())
            if node.id in wanted and node.state != "lost"
        }

    def terminate(self, folder: Path, ids: Sequence[str]) -> None:
        """Raises `ClusterError` (CAI-PROVIDER-005) for live workers of another workload, after
        those of this one have been ended."""
        here = engine_id()
        known, wanted = read_workers(folder), set(ids)
        records = {key: record for key, record in known.items() if key in wanted}
        own = {key: record for key, record in records.items() if here and record.by == here}
        if local := [key for key, record in own.items() if record.engine == here]:
            self._local.terminate(folder, local)
        if engines := [record.engine for record in own.values() if record.engine != here]:
            find_library().stop(engines)
        foreign = self.out_of_reach(folder, ids)
        gone = records.keys() - foreign.keys()
        for key in gone:
            (folder / ASSIGNMENTS / records[key].engine).unlink(missing_ok=True)
        forget_workers(folder, gone)
        if foreign:
            owners = ", ".join(sorted(set(foreign.values())))
            raise ClusterError(
                "CAI-PROVIDER-005",
                f"{', '.join(sorted(foreign))}: {owners}; a node counts as "
                f"ended {SILENT_SECONDS:.0f} s after its agent's last sign of life",
            )

    def _asked(
        self, library: WorkersLibrary, node: NodePlan, context: LaunchContext, settings: Settings
    ) -> dict[str, Any]:
        """Keyword arguments of the launch call. The platform counts memory in GB."""
        asked = {
            "cpu": node.cpu or LEAST_CPU,
            "memory": round((node.memory or 0) / 2**30, 2),
            "nvidia_gpu": node.gpu,
            "code": worker_code(context),
            "env": _environment(context),
        }
        ids = {
            "accelerator_label_id": self._label(node, settings),
            "resource_profile_id": settings.resource_profile_id,
            "resource_group_id": settings.resource_group_id,
        }
        asked |= {name: value for name, value in ids.items() if value is not None}
        if library.takes("name"):
            asked["name"] = f"cai-{context.cluster}-{node.group}"
        return asked

    def _label(self, node: NodePlan, settings: Settings) -> str | None:
        if not node.gpu:
            return None
        if settings.accelerator_label_id or not node.accelerator:
            return settings.accelerator_label_id
        return self._find_label(node.accelerator)


def worker_code(context: LaunchContext) -> str:
    """What a worker runs. It holds paths alone."""
    return CODE.format(
        logs=str(context.logs.resolve()),
        folder=str(context.folder.resolve()),
        python=sys.executable,
        module=AGENT_MODULE,
        pythonpath=_own_pythonpath(),
    )


def _environment(context: LaunchContext) -> dict[str, str]:
    given = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    home = context.folder.resolve().parent.parent
    return {**given, **context.environment, "CAI_HOME": str(home)}


def _own_pythonpath() -> str:
    """This process's own, without the platform's add-ons: their old copies of common packages
    would come before those of a virtual environment, and the agent does not need the library."""
    entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return os.pathsep.join(entry for entry in entries if "cmladdon" not in entry)


def _without(
    records: Mapping[str, WorkerRecord], others: Mapping[str, WorkerRecord]
) -> dict[str, WorkerRecord]:
    return {key: record for key, record in records.items() if key not in others}


def _launched(
    library: WorkersLibrary, nodes: Sequence[NodePlan], asked: Mapping[str, Any], folder: Path
) -> Launched:
    """Launch and record them. After a failure, workers that nobody would know of are stopped."""
    before = _seen(library)
    with held_back():
        launched = Launched((), (), ())
        try:
            launched = library.launch(len(nodes), asked)
            # Which of the workers becomes which node is the same to all: they are equal. Engines
            # of refused ones are recorded too, for `terminate` to stop if that fails here.
            _record(folder, nodes, (*launched.ids, *launched.half_made))
        except CaiError as error:
            made = {*launched.ids, *launched.half_made}
            if before is not None:
                made |= (_seen(library) or set()) - before - _recorded(folder.parent)
            words = error.message + _trouble_stopping(library, sorted(made))
            raise type(error)(error.code, words, hint=error.hint) from error
    return launched


def _seen(library: WorkersLibrary) -> set[str] | None:
    """Every worker of this workload; None when the platform does not say."""
    try:
        return set(library.list())
    except ClusterError:
        return None


def _recorded(clusters: Path) -> set[str]:
    """Workers of any cluster: another launcher of this workload may be at work."""
    found: set[str] = set()
    for path in clusters.glob(f"*/{RECORD}"):
        with suppress(StateError):
            found |= {worker.engine for worker in read_workers(path.parent).values()}
    return found


def _trouble_stopping(library: WorkersLibrary, engines: Sequence[str]) -> str:
    """What to add to the words on a failure."""
    try:
        library.stop(engines)
    except ClusterError as error:
        return f"; some of what it left still runs: {error.message}"
    return ""


def _record(folder: Path, nodes: Sequence[NodePlan], engines: Sequence[str]) -> None:
    by, now = engine_id(), time.time()
    pairs = zip(nodes, engines, strict=False)
    add_workers(folder, {n.id: WorkerRecord(engine, by, now, n.gpu) for n, engine in pairs})


def _assign(node: NodePlan, engine: str, context: LaunchContext) -> None:
    """Tell the worker which node it is, and show its log under the node's name.

    Raises `StateError` (CAI-STATE-001).
    """
    folder = context.folder / ASSIGNMENTS
    log = context.logs / f"node-{node.id}.log"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        with replaced(log) as link:
            link.unlink(missing_ok=True)
            link.symlink_to(f"worker-{engine}.log")
    except OSError as error:
        raise StateError("CAI-STATE-001", f"{error.filename}: {error.strerror}") from error
    # Last: it is what the worker waits for.
    replace_file(folder / engine, node.to_json())
