"""Before resources are held: which hooks decide a replica's placement, and asking them."""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray_serve_cai.callbacks.build import CallbackSpec, resolve_class
from ray_serve_cai.callbacks.check import importable
from ray_serve_cai.callbacks.hooks import ROWS, Point, hooks_of
from ray_serve_cai.serving.child import answer_of, start_child
from ray_serve_cai.spec import Document, Resources

CHILD = "ray_serve_cai.serving.placement_hooks"
(HOOK,) = ROWS[Point.BEFORE_PLACEMENT].hooks


@dataclass(frozen=True)
class Decision:
    """What the hooks decided. `placement` of None leaves the spec's resources as they are."""

    placement: dict[str, Any] | None = None
    custom_data: dict[str, Any] = field(default_factory=dict)


def callbacks_of(document: Document) -> tuple[CallbackSpec, ...]:
    """A model's callbacks as data."""
    return tuple(
        CallbackSpec(
            each.class_path,
            each.kwargs,
            each.on_error,
            each.timeout,
            tuple(sorted(document.secret_values)),
        )
        for each in document.model.callbacks
    )


def placing(document: Document) -> tuple[CallbackSpec, ...]:
    """The callbacks that have a say in the placement."""
    with importable(document.project):
        return tuple(
            each
            for each in callbacks_of(document)
            if HOOK in hooks_of(resolve_class(str(each.target)))
        )


def decide(document: Document, address: str, log: Path) -> Decision:
    """Run `on_pre_placement_group` in a process of its own, its output appended to `log`.

    `address`: of the Ray whose placement groups it may make. Raises `HookError`.
    """
    specs = placing(document)
    if not specs:
        return Decision()
    spec = document.model
    order = {
        "callbacks": [each.to_json() for each in specs],
        "model": spec.name,
        "source": str(document.source),
        "engine_args": dict(spec.engine.args),
        "default": default_placement(spec.resources),
        "project": str(document.project),
    }
    return Decision(**asyncio.run(_ask(order, address, log)))


def default_placement(need: Resources) -> dict[str, Any]:
    """What the spec's `resources` come to: one bundle."""
    bundle = {"CPU": need.cpu, "GPU": float(need.gpu), "memory": float(need.memory or 0)}
    return {"bundles": [{k: v for k, v in bundle.items() if v}], "strategy": "PACK"}


async def _ask(order: dict[str, Any], address: str, log: Path) -> dict[str, Any]:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = await start_child(CHILD, {**os.environ, "RAY_ADDRESS": address}, output)
    where = f'on node {socket.gethostname()} for model "{order["model"]}"'
    return await answer_of(process, order, where=where)
