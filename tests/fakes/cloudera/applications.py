"""Applications of the stand-in: real workloads that must answer 200, restarted when they fail."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

from fakes.cloudera.answers import APPLICATION, SUBDOMAIN, RefusedError, Row, known, now, shown
from fakes.cloudera.project import Project, new_id
from fakes.cloudera.workload import Wanted, Workload

POLL_SECONDS = 0.05
DEFAULT_POLLING_ENDPOINT = "/"


@dataclass
class Knobs:
    """How the workbench is set up, and how fast: the real one restarts after 5 minutes."""

    schedule_seconds: float = 0.0
    start_seconds: float = 30.0
    restart_seconds: float = 0.2
    restarts: int = 3
    # After its workload has ended; name and subdomain stay taken until then.
    delete_seconds: float = 0.0
    grace_seconds: float = 5.0
    restart_hangs: bool = False
    stop_is_ignored: bool = False
    bypass_allowed: bool = False
    runs_workloads: bool = True
    # Set at the end of a test: nothing is waited for any more.
    hurry: threading.Event = field(default_factory=threading.Event)
    most_gpus: int = 4
    shared_memory_limit: int = 8000
    most_on_page: int = 100_000
    runtimes: list[Row] = field(default_factory=lambda: [RUNTIME, OTHER_RUNTIME])
    labels: list[Row] = field(default_factory=lambda: [LABEL])


RUNTIME = {
    "image_identifier": "docker.example/ml-runtime-pbj-workbench-python3.11-standard:2026.06.1-b1",
    "editor": "PBJ Workbench",
    "kernel": "Python 3.11",
    "edition": "Standard",
    "full_version": "2026.06.1-b1",
    "status": "ENABLED",
}
OTHER_RUNTIME = RUNTIME | {
    "image_identifier": "docker.example/ml-runtime-pbj-workbench-python3.11-cuda:2026.06.1-b1",
    "edition": "Nvidia GPU",
}
LABEL = {
    "id": "7",
    "label_key": "nvidia.com/gpu.product",
    "label_value": "NVIDIA-L4",
    "availability": True,
    "max_gpu_count": "8",
    "current_gpu_count": "0",
    "max_gpu_per_workload": "4",
}


class Application:
    """One application, from its creation until its name is free again."""

    def __init__(self, project: Project, knobs: Knobs, fields: Row) -> None:
        self.id = "-".join(new_id()[:4] for _ in range(4))
        self.fields = {"kernel": "", "bypass_authentication": False, "description": ""} | fields
        self.status = "STARTING"
        self.workload: Workload | None = None
        self.workloads: list[Workload] = []
        self.gone = threading.Event()
        self._project, self._knobs = project, knobs
        self._times = {"created_at": now(), "starting_at": now()}
        self._ending = threading.Event()
        self._runner = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        if self._knobs.runs_workloads:
            self._runner.start()

    def row(self) -> Row:
        creator = {"username": "ann", "name": "Ann", "email": "ann@example.com"}
        row = {"id": self.id, "status": f"APPLICATION_{self.status}", "creator": creator}
        return row | self._times | shown(self.fields)

    def stop(self) -> None:
        if not self._knobs.stop_is_ignored:
            threading.Thread(target=self._stop, daemon=True).start()

    def delete(self) -> None:
        def go() -> None:
            self._stop()
            self._knobs.hurry.wait(self._knobs.delete_seconds)
            self.gone.set()

        threading.Thread(target=go, daemon=True).start()

    def restart(self) -> None:
        self.status = "STARTING"
        if self._knobs.restart_hangs:
            # The engine that was there is nobody's now, and no new one comes.
            self._ending.set()
            return
        if self.workload is not None:
            self.workload.kill()

    def _stop(self) -> None:
        self._ending.set()
        if self.status not in ("STOPPED", "FAILED"):
            self.status = "STOPPING"
        if self.workload is not None:
            self.workload.stop()
            self.workload.wait()
        if self._runner.ident is not None:
            self._runner.join()
        self.status = "STOPPED"
        self._times["stopped_at"] = now()

    def _run(self) -> None:
        for left in reversed(range(1 + self._knobs.restarts)):
            if self._ending.wait(self._knobs.schedule_seconds) or not self._life():
                return
            if not left or self._ending.wait(self._knobs.restart_seconds):
                return
            self.status = "STARTING"
            self._times["starting_at"] = now()

    def _life(self) -> bool:
        """One workload from its start to its end; whether it failed."""
        wanted = Wanted(
            kind="application",
            cpu=self.fields.get("cpu", 1.0),
            memory=self.fields.get("memory", 2.0),
            gpu=self.fields.get("nvidia_gpu", 0),
            script=self.fields["script"],
            environment=self.fields.get("environment", {}),
            grace_seconds=self._knobs.grace_seconds,
        )
        self.workload = workload = Workload(self._project, wanted)
        self.workloads.append(workload)
        workload.start()
        waited = 0.0
        while workload.status == "running" and not self._ending.wait(POLL_SECONDS):
            waited += POLL_SECONDS
            if self.status == "STARTING" and self._answers(workload):
                self.status = "RUNNING"
                self._times["running_at"] = now()
            if self.status == "STARTING" and waited > self._knobs.start_seconds:
                workload.stop()
                workload.wait()
        if self._ending.is_set():
            return False
        failed = workload.status != "succeeded"
        self.status = "FAILED" if failed else "STOPPED"
        return failed

    def _answers(self, workload: Workload) -> bool:
        path = workload.environment.get("CDSW_APP_POLLING_ENDPOINT", DEFAULT_POLLING_ENDPOINT)
        try:
            return workload.get(path)[0] == 200
        except OSError:
            return False


class Applications:
    """All of the project's."""

    def __init__(self, project: Project, knobs: Knobs) -> None:
        self._project, self._knobs = project, knobs
        self._all: list[Application] = []
        self._lock = threading.Lock()

    def __call__(self) -> list[Application]:
        with self._lock:
            self._all = [one for one in self._all if not one.gone.is_set()]
            return list(self._all)

    def create(self, body: Row) -> Row:
        fields = known(body, APPLICATION)
        with self._lock:
            self._all = [one for one in self._all if not one.gone.is_set()]
            self._check(fields)
            one = Application(self._project, self._knobs, fields)
            self._all.append(one)
        self._project.give_name(fields["subdomain"])
        one.start()
        return one.row()

    def find(self, application: str) -> Application:
        found = next((one for one in self() if one.id == application), None)
        if found is None:
            raise RefusedError(404, f"application {application} not found")
        return found

    def called(self, name: str) -> Application:
        return next(one for one in self() if one.fields["name"] == name)

    def at_host(self, label: str) -> Application | None:
        """The one whose subdomain or engine id is the first part of a host name."""
        for one in self():
            engine = one.workload.id if one.workload else ""
            if label in (one.fields["subdomain"], engine):
                return one
        return None

    def _check(self, fields: Row) -> None:
        check_workload(self._project, self._knobs, fields)
        if not SUBDOMAIN.fullmatch(fields.get("subdomain", "")):
            raise RefusedError(400, "Problem with field Subdomain")
        for key in ("name", "subdomain"):
            if any(one.fields[key] == fields[key] for one in self._all):
                raise RefusedError(409, f"an application with this {key} exists already")
        if fields.get("bypass_authentication") and not self._knobs.bypass_allowed:
            raise RefusedError(403, "unauthenticated access to applications is not allowed")


def check_workload(project: Project, knobs: Knobs, fields: dict[str, Any]) -> None:
    """What applications and jobs are refused for alike."""
    if not fields.get("name"):
        raise RefusedError(400, "name must be specified")
    if not fields.get("runtime_identifier"):
        raise RefusedError(400, "runtime image must be specified")
    images = {row["image_identifier"] for row in knobs.runtimes}
    if fields["runtime_identifier"] not in images:
        raise RefusedError(400, f"runtime {fields['runtime_identifier']} is not registered")
    script = fields.get("script", "")
    if not script.endswith((".py", ".r", ".R")) or not (project.home / script).is_file():
        raise RefusedError(400, f"script {script!r} is not a file of the project")
    if fields.get("nvidia_gpu", 0) > knobs.most_gpus:
        raise RefusedError(400, "requested GPUs exceed the maximum per workload")
    labels = {row["id"] for row in knobs.labels}
    if fields.get("accelerator_label_id", "") not in labels | {""}:
        raise RefusedError(400, "unknown accelerator label")
