"""The stand-in platform itself: it schedules workers, and answers the in-session library."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fakes.cloudera.addons import Signature, Variant, write_addons
from fakes.cloudera.http_server import ApiServer
from fakes.cloudera.network import Network
from fakes.cloudera.project import Project, new_id
from fakes.cloudera.workload import Wanted, Workload

TICK_SECONDS = 0.02
GPU_REASON = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."


@dataclass
class Knobs:
    """How the platform behaves; to be changed at any time.

    Delays are in seconds. `late` are those of the next launches, on top of `schedule`.
    `gpus` is the stock of GPUs (None for plenty), `quota` how many live
    workers are allowed, `refusals` how many of the next launches are refused, `refusal` what their
    answers hold (`engineId` gets a value where the key is there), `dies_after` how long a
    worker lives, `broken_lists` how many of the next listings are answered with `broken_answer`,
    `status_words` what is said in place of a status, `absent` the keys of a listing that are not
    there, `stall` how long a listing takes, `lost_posts` how many of the next launches end without
    an answer although they are done, `bad_stops` the statuses that the next stops get and are not
    done, `wanted` what of a worker (fields of `Wanted`) is another.
    """

    schedule: float = 0.0
    late: list[float] = field(default_factory=list)
    image_pull: float = 0.0
    late_ip: float = 0.0
    dies_after: float = 0.0
    gpus: int | None = None
    quota: int | None = None
    refusals: int = 0
    refusal: dict[str, str] = field(default_factory=lambda: {"message": "Quota exceeded"})
    broken_lists: int = 0
    broken_answer: bytes = b'{"error": "upstream connect error", "code": 14}'
    lost_posts: int = 0
    bad_stops: list[int] = field(default_factory=list)
    stall: float = 0.0
    status_words: dict[str, str] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    wanted: dict[str, Any] = field(default_factory=dict)


@dataclass
class Worker:
    """A worker from its launch on. `asked` is the body of the call; times are epoch seconds."""

    workload: Workload
    asked: dict[str, Any]
    created: float
    late: float
    scheduled: float = 0.0
    running: float = 0.0
    finished: float = 0.0
    stopped: bool = False


class Platform:
    """Runs in the process that makes it, until `close`; its pods end with that process."""

    def __init__(
        self,
        folder: Path,
        *,
        apart: bool = True,
        variant: Variant = "cml",
        signature: Signature = "current",
    ) -> None:
        """`apart` gives every workload namespaces of its own, which needs root."""
        self._closing = ExitStack()
        self.network = Network() if apart else None
        if self.network:
            self._closing.callback(self.network.remove)
        self.knobs = Knobs()
        self.calls: Counter[str] = Counter()
        self.workers: dict[str, Worker] = {}
        # Further workloads that may launch workers.
        self.masters: Callable[[], Iterable[Workload]] = tuple
        self.half_made: set[str] = set()
        self._sessions: list[Workload] = []
        self._lock = threading.RLock()
        self._closed = threading.Event()
        self._server = ApiServer(self.network.host if self.network else "127.0.0.1", self)
        addons = write_addons(folder / "cmladdons", variant, signature)
        self.project = Project(folder, self.network, self._server.domain, addons=[addons])
        self._thread = threading.Thread(target=self._run, name="platform", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        self._thread.join()
        self._server.close()
        workloads = [*self._sessions, *(worker.workload for worker in self.workers.values())]
        for workload in workloads:
            workload.kill()
        for workload in workloads:
            workload.wait()
        self._closing.close()

    def session(self, **wanted: Any) -> Workload:
        """A running session, or what `kind` says; what it launches ends with it."""
        workload = Workload(self.project, Wanted(**wanted))
        with self._lock:
            self._sessions.append(workload)
        workload.start()
        return workload

    def stall(self) -> None:
        """Let a request wait for its answer."""
        self._closed.wait(self.knobs.stall)

    def live(self) -> list[Worker]:
        """The workers that hold something: pending, running or stopping."""
        with self._lock:
            return [worker for worker in self.workers.values() if not self._ended(worker)]

    def launch(self, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to one POST."""
        with self._lock:
            knobs, master = self.knobs, self._session(body["master_id"])
            full = knobs.quota is not None and len(self.live()) >= knobs.quota
            if full or knobs.refusals > 0 or master is None:
                knobs.refusals -= not full
                return self._refusal()
            wanted = Wanted(
                kind="worker",
                cpu=float(body["cpu"]),
                memory=float(body["memory"]),
                gpu=int(body["nvidia_gpu"]),
                code=body["code"],
                script=body["script"],
                environment={str(k): str(v) for k, v in body["env"].items()},
                grace_seconds=1.0,
            )
            workload = Workload(self.project, replace(wanted, **knobs.wanted), master)
            late = knobs.late.pop(0) if knobs.late else 0.0
            worker = Worker(workload, body, time.time(), late)
            self.workers[workload.id] = worker
        row = self._row(worker)
        return {key: row[key] for key in ("id", "app_url", "status", "created_at")}

    def listing(self, engine: str) -> list[dict[str, Any]]:
        """The workers of one engine, dead ones included."""
        with self._lock:
            mine = [w for w in self.workers.values() if w.workload.master.id == engine]
        rows = [self._row(worker) for worker in mine]
        return [
            {key: value for key, value in row.items() if key not in self.knobs.absent}
            for row in rows
        ]

    def stop(self, engine: str) -> bool:
        """Whether there is, or was, such an engine."""
        with self._lock:
            self.half_made.discard(engine)
            worker = self.workers.get(engine)
            if worker is None:
                return False
            worker.stopped = True
            worker.workload.stop()
            return True

    def _refusal(self) -> dict[str, Any]:
        answer = dict(self.knobs.refusal)
        if "engineId" in answer:
            answer["engineId"] = new_id()
            self.half_made.add(answer["engineId"])
        return answer

    def _session(self, engine: str) -> Workload | None:
        known = (*self._sessions, *self.masters())
        return next((each for each in known if each.id == engine), None)

    def _run(self) -> None:
        while not self._closed.wait(TICK_SECONDS):
            with self._lock:
                for worker in list(self.workers.values()):
                    self._go_on(worker)

    def _go_on(self, worker: Worker) -> None:
        now, knobs, workload = time.time(), self.knobs, worker.workload
        master = workload.master
        assert master is not None
        if self._ended(worker):
            worker.finished = worker.finished or now
        elif master.status != "running":
            # The platform's reconciler: workers end with what launched them.
            worker.stopped = True
            workload.stop()
        elif not worker.scheduled:
            if now - worker.created >= knobs.schedule + worker.late and self._room(worker):
                worker.scheduled = now
        elif not worker.running:
            if now - worker.scheduled >= knobs.image_pull:
                workload.start()
                worker.running = now
        elif knobs.dies_after and now - worker.running > knobs.dies_after:
            workload.kill()

    def _room(self, worker: Worker) -> bool:
        if self.knobs.gpus is None:
            return True
        used = sum(each.workload.wanted.gpu for each in self.live() if each.scheduled)
        return used + worker.workload.wanted.gpu <= self.knobs.gpus

    @staticmethod
    def _ended(worker: Worker) -> bool:
        return worker.workload.status in ("succeeded", "failed", "stopped")

    def _status(self, worker: Worker) -> str:
        status = str(worker.workload.status)
        if status == "created":
            status = "starting" if worker.scheduled else "scheduling"
        return self.knobs.status_words.get(status, status)

    def _row(self, worker: Worker) -> dict[str, Any]:
        """Keys are absent before they have a value."""
        has_address = worker.running and time.time() - worker.running >= self.knobs.late_ip
        row: dict[str, Any] = {
            "id": worker.workload.id,
            "app_url": f"https://{worker.workload.id}.{self.project.domain}/",
            "status": self._status(worker),
            "created_at": _stamp(worker.created),
            "ip_address": worker.workload.ip if has_address else "unknown",
        }
        if worker.running:
            row["running_at"] = _stamp(worker.running)
        if worker.finished:
            row["finished_at"] = _stamp(worker.finished)
            row["duration"] = worker.finished - worker.created
        if not worker.scheduled and not self._room(worker):
            row["message"] = GPU_REASON
        return row


def _stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
