"""Jobs of the stand-in and their runs, which are real workloads."""

from __future__ import annotations

import threading

from fakes.cloudera.answers import JOB, RUN, RefusedError, Row, known, now, shown
from fakes.cloudera.applications import Knobs, check_workload
from fakes.cloudera.project import Project, new_id
from fakes.cloudera.workload import Wanted, Workload


class Run:
    """One run of a job; its id is that of its engine."""

    def __init__(self, project: Project, job: Job, fields: Row, grace_seconds: float) -> None:
        own = {**job.fields.get("environment", {}), **fields.get("environment", {})}
        self.arguments = fields.get("arguments") or job.fields.get("arguments", "")
        wanted = Wanted(
            kind="job",
            cpu=job.fields.get("cpu", 1.0),
            memory=job.fields.get("memory", 2.0),
            script=job.fields["script"],
            environment={**own, "JOB_ARGUMENTS": self.arguments},
            grace_seconds=grace_seconds,
        )
        self.workload = Workload(project, wanted)
        self.job, self._created = job, now()
        self._timed_out = False

    def start(self) -> None:
        self.workload.start()
        if limit := self.job.fields.get("timeout"):
            timer = threading.Timer(limit, self._expire)
            timer.daemon = True
            timer.start()

    def _expire(self) -> None:
        if self.workload.status == "running":
            self._timed_out = True
            self.workload.stop()

    @property
    def status(self) -> str:
        word = self.workload.status
        if self._timed_out and word == "stopped":
            return "ENGINE_TIMEDOUT"
        return "ENGINE_SCHEDULING" if word == "created" else f"ENGINE_{word.upper()}"

    def row(self) -> Row:
        fields = {"environment": dict(self.workload.wanted.environment)}
        own = {"id": self.workload.id, "job_id": self.job.id, "status": self.status}
        return shown(fields) | own | {"created_at": self._created, "arguments": self.arguments}


class Job:
    def __init__(self, fields: Row) -> None:
        self.id = "-".join(new_id()[:4] for _ in range(4))
        self.fields = {"kernel": "", "arguments": "", "schedule": ""} | fields
        self.runs: list[Run] = []
        self._created = now()

    def row(self) -> Row:
        return {"id": self.id, "created_at": self._created} | shown(self.fields)


class Jobs:
    """All of the project's."""

    def __init__(self, project: Project, knobs: Knobs) -> None:
        self._project, self._knobs = project, knobs
        self.all: list[Job] = []
        self._lock = threading.Lock()

    def create(self, body: Row) -> Row:
        fields = known(body, JOB)
        check_workload(self._project, self._knobs, fields)
        with self._lock:
            if any(job.fields["name"] == fields["name"] for job in self.all):
                raise RefusedError(409, "a job with this name exists already")
            job = Job(fields)
            self.all.append(job)
        return job.row()

    def find(self, job: str) -> Job:
        found = next((one for one in self.all if one.id == job), None)
        if found is None:
            raise RefusedError(404, f"job {job} not found")
        return found

    def delete(self, job: str) -> None:
        one = self.find(job)
        if any(run.workload.status == "running" for run in one.runs):
            raise RefusedError(400, "the job has running runs")
        self.all.remove(one)

    def run(self, job: str, body: Row) -> Row:
        one = self.find(job)
        run = Run(self._project, one, known(body, RUN), self._knobs.grace_seconds)
        one.runs.append(run)
        if self._knobs.runs_workloads:
            run.start()
        return run.row()

    def find_run(self, job: str, run: str) -> Run:
        found = next((one for one in self.find(job).runs if one.workload.id == run), None)
        if found is None:
            raise RefusedError(404, f"run {run} not found")
        return found
