"""The autoscaler in the gateway's actor: looks at the load, asks Serve for replicas, and keeps the
stand-in in the place of models that have none.

Serve's own autoscaler asks its policy only where its own handles or replicas see the requests,
and no request passes through them here. So Serve is told the count through what it has for
scalers outside of it (docs/decisions/0011-scaling-from-outside.md).
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import ray

from ray_serve_cai.files import replace_text
from ray_serve_cai.plan.scaling import Course, Load, step
from ray_serve_cai.serving.job import ReplicaRow
from ray_serve_cai.serving.rules import Rule, read_rules, rules_path
from ray_serve_cai.serving.smg import PARKED, Smg, Worker, WorkerLoad
from ray_serve_cai.serving.standin import Place, StandIn
from ray_serve_cai.spec import ReplicaRange

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
# SMG has taken up a worker by then, or does not.
ADD_SECONDS = 5.0


@dataclass
class _Followed:
    rule: Rule
    limits: ReplicaRange | None
    place: Place
    course: Course
    # What Serve was told last; None after a restart, when that is not known.
    told: int | None
    # The stand-in's place in SMG, and how many it had before.
    url: str = ""
    number: int = 0
    seen: tuple[int, int] = (0, 0)
    empty_since: float | None = None
    doubts: set[str] = field(default_factory=set)


class Autoscaler:
    """Follows the models that it is told of. `rows` gives the replicas that may get requests."""

    def __init__(
        self,
        smg: Smg,
        stand_in: StandIn,
        rows: Callable[[], Sequence[ReplicaRow]],
        folder: Path,
    ) -> None:
        self._smg, self._stand_in, self._rows = smg, stand_in, rows
        self._path = rules_path(folder)
        self._models: dict[str, _Followed] = {}
        # Addresses of the stand-in that SMG may know, and until when it may take them up.
        self._placed: dict[str, float] = {}

    def restore(self) -> None:
        """Follow what an earlier life of the actor followed, with the counts of then."""
        for rule in read_rules(self._path.parent).values():
            self._set(rule, told=None)

    def follow(self, rule: Rule, *, tell: bool = False) -> None:
        """From now on. Serve was asked for `rule.count` replicas, or with `tell` will be."""
        self._set(rule, told=None if tell else rule.count)
        self._save()

    def pause(self, model: str) -> int | None:
        """Leave the model's count as it is until it is followed anew; that count, None for a model
        that nobody follows."""
        followed = self._models.get(model)
        if followed is None:
            return None
        followed.rule = replace(followed.rule, paused=True)
        self._save()
        return followed.course.wanted

    def forget(self, model: str) -> None:
        self._models.pop(model, None)
        self._stand_in.forget(model)
        self._save()

    def counts(self) -> dict[str, int]:
        """How many replicas each model wants now."""
        return {name: it.course.wanted for name, it in self._models.items()}

    async def run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self._look()
            except Exception:
                # One bad look must not end all following ones.
                log.exception("a look at the load failed")

    async def _look(self) -> None:
        watched = [it for it in self._models.values() if it.limits or it.url or not it.rule.count]
        if not watched and not self._placed:
            return
        loads, workers = await self._smg.loads(), await self._smg.workers()
        if loads is None or workers is None:
            return
        for followed in watched:
            # Meanwhile it may have been deleted, or follow another rule.
            if self._models.get(followed.rule.model) is followed:
                self._decide(followed, loads)
                await self._place(followed, workers)
                await self._tell(followed, workers)
        await self._clear(workers)

    def _decide(self, followed: _Followed, loads: dict[str, WorkerLoad]) -> None:
        if followed.limits is None or followed.rule.paused:
            return
        load = self._load(followed, loads)
        before = followed.course.wanted
        followed.course = step(followed.limits, followed.course, load, time.monotonic())
        if followed.course.wanted != before:
            log.warning(
                "model %s: %d to %d replicas (%d requests)",
                followed.rule.model,
                before,
                followed.course.wanted,
                load.ongoing + load.held,
            )
            self._save()

    def _load(self, followed: _Followed, loads: dict[str, WorkerLoad]) -> Load:
        """The engines' own numbers and SMG's: the first come late, and some engines have none."""
        rule = followed.rule
        mine = [r for r in self._rows() if (r.model, r.revision) == (rule.model, rule.revision)]
        workers = [loads.get(row.endpoint or "", WorkerLoad()) for row in mine]
        seen = (sum(it.started for it in workers), followed.place.asked)
        arrived, followed.seen = seen != followed.seen, seen
        engines = sum(row.running + row.waiting for row in mine)
        ongoing = max(engines, sum(it.active for it in workers))
        return Load(ongoing, followed.place.held, arrived)

    async def _place(self, followed: _Followed, workers: dict[str, Worker]) -> None:
        """Put the stand-in where no replica is routed, and take it away where one is."""
        now = time.monotonic()
        # Of an idle model that is replaced, the new revision's are to answer.
        wanted = followed.course.wanted or followed.rule.paused
        replicas = bool(self._replicas(followed, workers))
        stands = self._stands(followed, workers)
        self._open(followed, replicas and not stands and bool(wanted))
        may_be_empty = followed.limits.min == 0 if followed.limits else not wanted
        if replicas and wanted:
            followed.url = ""
        elif may_be_empty and not stands and now > self._placed.get(followed.url, 0.0):
            followed.place.open.clear()
            followed.number += 1
            followed.url = self._stand_in.url(followed.rule.model, followed.number)
            self._placed[followed.url] = now + ADD_SECONDS
            await self._smg.add_stand_in(followed.url, followed.rule.model)

    def _open(self, followed: _Followed, way: bool) -> None:
        """Whether requests that wait may go on, and how long a replica took to come."""
        place, now = followed.place, time.monotonic()
        if way:
            if followed.empty_since is not None:
                place.seconds = now - followed.empty_since
            followed.empty_since = None
            place.open.set()
            return
        place.open.clear()
        if followed.course.wanted and followed.empty_since is None:
            followed.empty_since = now

    async def _tell(self, followed: _Followed, workers: dict[str, Worker]) -> None:
        wanted, place = followed.course.wanted, followed.place
        if followed.limits is None or followed.rule.paused or wanted == followed.told:
            return
        if not wanted:
            # What has come since the look counts: meanwhile other coroutines ran.
            came = place.held or place.asked != followed.seen[1]
            if came or not self._stands(followed, workers):
                return
        if not await self._told(followed, wanted):
            return
        followed.told = wanted
        for replica in self._replicas(followed, workers) if not wanted else ():
            await self._smg.park(replica)

    async def _told(self, followed: _Followed, count: int) -> bool:
        # Whoever only starts the actor need not import all of Serve.
        from ray_serve_cai.serving.applications import set_count

        try:
            await (await asyncio.to_thread(set_count, followed.rule.application, count))
        except (ray.exceptions.RayError, ValueError) as error:
            if str(error) not in followed.doubts:
                followed.doubts.add(str(error))
                log.warning("Serve did not take the count of %s: %s", followed.rule.model, error)
            return False
        followed.doubts.clear()
        return True

    def _replicas(self, followed: _Followed, workers: dict[str, Worker]) -> list[Worker]:
        """Those that are routed, of any revision: while one replaces another, either answers."""
        model = followed.rule.model
        endpoints = {row.endpoint for row in self._rows() if row.model == model}
        return [it for url, it in workers.items() if it.serves(model) and url in endpoints]

    def _stands(self, followed: _Followed, workers: dict[str, Worker]) -> bool:
        """Whether the stand-in gets requests for the model."""
        found = (workers.get(url) for url in self._placed)
        return any(worker is not None and worker.serves(followed.rule.model) for worker in found)

    async def _clear(self, workers: dict[str, Worker]) -> None:
        """Take away the stand-ins that stand for no model any more."""
        used = {followed.url for followed in self._models.values()}
        for url in set(self._placed) - used:
            worker = workers.get(url)
            if worker is None:
                if time.monotonic() > self._placed[url]:
                    del self._placed[url]
            elif worker.serves(PARKED):
                await self._smg.remove(worker)
            elif worker.routed:
                await self._smg.park(worker)

    def _set(self, rule: Rule, told: int | None) -> None:
        before = self._models.get(rule.model)
        place = self._stand_in.place(rule.model, rule.limits, starting=rule.count > 0)
        now = time.monotonic()
        made = _Followed(rule, rule.limits, place, Course(rule.count, now), told)
        if before is not None:
            made.url, made.number, made.seen = before.url, before.number, before.seen
            made.empty_since = before.empty_since
        self._models[rule.model] = made

    def _save(self) -> None:
        """For the next life of the actor, and for who looks without Ray."""
        rules = [asdict(it.rule) | {"count": it.course.wanted} for it in self._models.values()]
        try:
            replace_text(self._path, json.dumps({"rules": rules}))
        except OSError:
            log.exception("the counts of replicas could not be written")
