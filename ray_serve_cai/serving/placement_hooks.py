"""The process in which `on_pre_placement_group` runs: on the deploying side, beside `cai`.

A hook may make Ray placement groups; Ray is joined when it does. Their bundles and strategy are
read, and they go with this process: Serve makes one of its own for each replica.
"""

from __future__ import annotations

import copy
import json
import math
import socket
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group_table

from ray_serve_cai.callbacks.build import CallbackSpec
from ray_serve_cai.callbacks.check import importable
from ray_serve_cai.callbacks.context import CallbackCtx
from ray_serve_cai.callbacks.hooks import Point
from ray_serve_cai.callbacks.runner import Runner, load
from ray_serve_cai.errors import HookError
from ray_serve_cai.serving.child import Answers, serve
from ray_serve_cai.serving.hooks import llm_config_of
from ray_serve_cai.serving.placement import HOOK

STRATEGIES = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")


async def _decide(order: dict[str, Any], answers: Answers) -> dict[str, Any]:
    specs = [CallbackSpec.from_json(each) for each in order["callbacks"]]
    model, default = order["model"], order["default"]
    config = llm_config_of(model, order["source"], order["engine_args"])
    ctx = CallbackCtx(llm_config=config, placement_group=copy.deepcopy(default))
    node = socket.gethostname()
    runner = Runner(load(specs), ctx, model=model, node=node, announce=answers.hook)
    with importable(order["project"]):
        go_on = await runner.run(Point.BEFORE_PLACEMENT)
    named = ", ".join(each.name for each in specs)
    found = _as_data(ctx.placement_group, f"{HOOK} of {named}")
    nothing = {"bundles": [], "strategy": "PACK"}
    placement = (None if go_on else nothing) if found == default else found
    # Takes every group along that a hook has made.
    ray.shutdown()
    return {
        "placement": placement,
        "custom_data": _plain(ctx.custom_data, f"{HOOK} of {named}"),
    }


def _as_data(value: Any, who: str) -> dict[str, Any]:
    if isinstance(value, PlacementGroup):
        strategy = placement_group_table(value)["strategy"]
        value = {"bundles": value.bundle_specs, "strategy": strategy}
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


if __name__ == "__main__":
    serve(_decide)
