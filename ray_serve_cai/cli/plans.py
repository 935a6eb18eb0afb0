"""What `cluster` and `model` commands share: reading documents, showing plans."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ray_serve_cai.cli import output

if TYPE_CHECKING:
    from rich.console import Console

    from ray_serve_cai.cluster.state import ClusterRecord
    from ray_serve_cai.plan.model import ModelPlan
    from ray_serve_cai.plan.recovery import RecoveryPlan
    from ray_serve_cai.spec import Document


def documents(
    kind: Literal["Cluster", "Model"], files: Sequence[Path], overrides: Sequence[str] | None
) -> list[Document]:
    """The documents of one kind; what was left out on the way is said on stderr."""
    from ray_serve_cai.spec import clusters, load_files, models

    pick = clusters if kind == "Cluster" else models
    found = pick(load_files(files, overrides=overrides or ()))
    for document in found:
        for note in document.notes:
            output.say(f"note: {note}", style="yellow")
    return found


def show_plans(
    plans: list[dict[str, Any]],
    *,
    many: str,
    json: bool,
    talk: bool = False,
    more: Callable[[Console], None] | None = None,
) -> None:
    """Plans as one JSON object (several of them under the key `many`), or as tables.

    With `talk` the actions go to stderr, for commands whose stdout is a URL.
    """
    merged = dict(plans[0]) if len(plans) == 1 else {many: plans}
    merged["actions"] = [action for each in plans for action in each["actions"]]

    def show(console: Console) -> None:
        console.print(output.actions_table(merged["actions"]))
        if more is not None:
            more(console)

    if talk and not json:
        for action in merged["actions"]:
            output.say(f"{action['verb']} {action['kind']} {action['name']}  {action['detail']}")
        if not merged["actions"]:
            output.say("nothing to do")
    else:
        output.emit(merged, json=json, text=show)
    for each in plans:
        for note in each.get("notes", ()):
            output.say(f"note: {note}", style="yellow")


def show_recovery(plan: RecoveryPlan, *, json: bool) -> None:
    """What would be brought back, and what cannot."""
    show_plans([plan.data()], many="clusters", json=json)
    for each in plan.cannot:
        output.say(f"cannot bring back {each.kind} {each.name}: {each.reason}", style="yellow")


def show_deployed(plans: Sequence[ModelPlan], record: ClusterRecord, *, json: bool) -> None:
    """What was done, and the endpoint as the last line of stdout."""
    endpoint = f"{record.gateway_url}/v1"
    done = [{**each.data(), "endpoint": endpoint} for each in plans]
    show_plans(done, many="models", json=json, talk=True)
    output.last_line(endpoint, json=json)


def say_life(providers: Sequence[str]) -> None:
    """Workers end with the workload that launched them, and most workloads end by themselves."""
    kind = os.environ.get("CDSW_ENGINE_TYPE", "")
    if "cai-workers" in providers and kind != "application":
        output.say(
            f"note: the cluster ends with this {kind or 'workload'}; `cai cloudera application "
            "create` makes one that stays"
        )
