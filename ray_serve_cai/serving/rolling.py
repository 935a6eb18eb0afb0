"""One revision in another's place, in the steps of its plan, and back again where that fails."""

from __future__ import annotations

import time
from collections.abc import Callable

from ray_serve_cai.serving.gateway_control import wait_until
from ray_serve_cai.serving.revisions import RevisionRecord, Revisions
from ray_serve_cai.serving.running import Running

Report = Callable[..., None]

# The old replicas that a roll has ended load their model again.
BACK_SECONDS = 600.0
POLL_SECONDS = 0.5


def roll(
    running: Running,
    revisions: Revisions,
    new: RevisionRecord,
    old: RevisionRecord | None,
    report: Report,
    deadline: float,
) -> None:
    """Take the steps that are left, noting each on the new revision's record, until all of its
    replicas answer. The end of the old one's last replicas is left to the caller, who first makes
    the new one the active.

    What was begun by a command that died goes on from there. Raises `ModelError`.
    """
    for number, (come, stay) in enumerate(new.steps, 1):
        if number < new.done:
            continue
        if number == len(new.steps):
            # What `model scale` has made of it meanwhile.
            come = new.replicas
        running.run(new, come)
        running.wait(new, come, report, deadline)
        if number == len(new.steps) or old is None:
            continue
        new.done = number
        revisions.save(new)
        report("rolling", f"{come} new and {stay} old replicas")
        running.run(old, stay)


def roll_back(
    running: Running, new: RevisionRecord, old: RevisionRecord | None, report: Report
) -> None:
    """Remove the new revision. Where old replicas have left for it, they come back first, and the
    new ones go as these answer: what answers in all does not get less."""
    if old is not None and new.done:
        _change_back(running, new, old, report)
    running.end(new)
    if old is None:
        return
    # An interrupt may have come between its leaving the routing and its end.
    running.admit(old)
    if not running.serves(old) or len(running.rows(old)) < old.replicas:
        report("undoing", f"starting revision {old.revision} again")
        running.run(old, old.replicas)


def end_replaced(running: Running, revisions: Revisions, model: str) -> bool:
    """End what a newer revision has taken the place of; whether there was any."""
    replaced = revisions.replaced(model)
    for record in replaced:
        running.end(record)
        record.state = "superseded"
        revisions.save(record)
    return bool(replaced)


def _change_back(
    running: Running, new: RevisionRecord, old: RevisionRecord, report: Report
) -> None:
    # Those that do not answer hold the room that the old ones need.
    there = running.ready(new)
    running.run(new, there)
    running.run(old, old.replicas)

    def changed() -> bool:
        nonlocal there
        back = running.ready(old)
        report("undoing", f"{back} of {old.replicas} replicas of revision {old.revision}")
        if old.replicas - back < there:
            there = max(old.replicas - back, 0)
            running.run(new, there)
        return not there

    wait_until(changed, time.monotonic() + BACK_SECONDS, POLL_SECONDS)
