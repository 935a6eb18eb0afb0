"""Before resources are held: the hooks that decide a replica's placement."""

from __future__ import annotations

import asyncio
import copy
import json
import math
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group_table

from ray_serve_cai.callbacks.build import CallbackSpec, resolve_class
from ray_serve_cai.callbacks.check import importable
from ray_serve_cai.callbacks.context import CallbackCtx
from ray_serve_cai.callbacks.hooks import ROWS, Point, hooks_of
from ray_serve_cai.callbacks.runner import Runner, load
from ray_serve_cai.errors import HookError
from ray_serve_cai.serving.hooks import llm_config_of
from ray_serve_cai.spec import Document, Resources

STRATEGIES = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")
(_HOOK,) = ROWS[Point.BEFORE_PLACEMENT].hooks


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
            if _HOOK in hooks_of(resolve_class(str(each.target)))
        )


def decide(document: Document) -> Decision:
    """Run `on_pre_placement_group`; the caller is connected to Ray.

    A Ray placement group is read for its bundles and strategy and removed: Serve makes one of its
    own for each replica. Raises `HookError`.
    """
    specs = placing(document)
    if not specs:
        return Decision()
    spec = document.model
    default = default_placement(spec.resources)
    config = llm_config_of(spec.name, str(document.source), spec.engine.args)
    ctx = CallbackCtx(llm_config=config, placement_group=copy.deepcopy(default))
    runner = Runner(load(specs), ctx, model=spec.name, node=socket.gethostname())
    with importable(document.project):
        go_on = asyncio.run(runner.run(Point.BEFORE_PLACEMENT))
    named = ", ".join(each.name for each in specs)
    found = _as_data(ctx.placement_group, f"{_HOOK} of {named}")
    nothing = {"bundles": [], "strategy": "PACK"}
    placement = (None if go_on else nothing) if found == default else found
    return Decision(placement, _plain(ctx.custom_data, f"{_HOOK} of {named}"))


def default_placement(need: Resources) -> dict[str, Any]:
    """What the spec's `resources` come to: one bundle."""
    bundle = {"CPU": need.cpu, "GPU": float(need.gpu), "memory": float(need.memory or 0)}
    return {"bundles": [{k: v for k, v in bundle.items() if v}], "strategy": "PACK"}


def _as_data(value: Any, who: str) -> dict[str, Any]:
    if isinstance(value, PlacementGroup):
        strategy = placement_group_table(value)["strategy"]
        found = {"bundles": value.bundle_specs, "strategy": strategy}
        ray.util.remove_placement_group(value)
        value = found
    elif hasattr(value, "data"):
        value = value.data()
    value = {"bundles": []} if value is None else value
    bundles = value.get("bundles") if isinstance(value, Mapping) else None
    if not isinstance(bundles, Sequence) or not all(map(_is_bundle, bundles)):
        raise HookError(
            "CAI-CALLBACK-001",
            f"{who} set ctx.placement_group to {value!r}; it must be a Ray placement group, or "
            'a dict such as {"bundles": [{"CPU": 1, "GPU": 1}], "strategy": "PACK"}',
        )
    strategy = value.get("strategy", "PACK")
    if strategy not in STRATEGIES:
        raise HookError(
            "CAI-CALLBACK-001",
            f"{who}: no strategy {strategy!r}; there are {', '.join(STRATEGIES)}",
        )
    return {"bundles": [dict(bundle) for bundle in bundles], "strategy": strategy}


def _is_bundle(bundle: object) -> bool:
    return (
        isinstance(bundle, Mapping)
        and bool(bundle)
        and all(isinstance(name, str) and _is_amount(it) for name, it in bundle.items())
    )


def _is_amount(value: object) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and math.isfinite(value) and value > 0  # type: ignore[arg-type,operator]


def _plain(custom_data: dict[str, Any], who: str) -> dict[str, Any]:
    try:
        return dict(json.loads(json.dumps(custom_data)))
    except (TypeError, ValueError) as error:
        raise HookError(
            "CAI-CALLBACK-001",
            f"{who}: ctx.custom_data must be plain data to reach the replica: {error}",
        ) from error
