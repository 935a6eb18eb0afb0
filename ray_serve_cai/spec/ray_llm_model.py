"""One `llm_config` of a Ray Serve LLM file, put together as a model spec."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from ray_serve_cai.spec.base import Fault, KeyPath, quoted
from ray_serve_cai.spec.origin import Origin
from ray_serve_cai.spec.ray_llm_table import Row
from ray_serve_cai.spec.trees import copy, get
from ray_serve_cai.spec.yaml_tree import RawDocument

_REFUSED = "CAI-SPEC-009"
_SCALING = (
    ("min_replicas", "min"),
    ("max_replicas", "max"),
    ("target_ongoing_requests", "target_ongoing_requests"),
    ("downscale_to_zero_delay_s", "idle_after"),
)
_BUNDLE = {"CPU": "cpu", "GPU": "gpu", "memory": "memory"}
_ACTOR = {"num_cpus": "cpu", "num_gpus": "gpu", "memory": "memory"}


class ModelDraft:
    """A model spec in the making, which remembers where each part stood in the file."""

    def __init__(self, origin: Origin, path: KeyPath) -> None:
        self._source = origin
        self._raw = RawDocument(origin.place(path), {"kind": "Model"})
        self._written: dict[KeyPath, KeyPath] = {(): path}

    def put(self, target: KeyPath, value: Any, at: KeyPath) -> None:
        """Write a value that follows from what stands at `at`."""
        tree = self._raw.tree
        for part, following in pairwise(target):
            if isinstance(part, int) and part == len(tree):
                tree.append({})
            elif isinstance(part, str):
                tree.setdefault(part, [] if isinstance(following, int) else {})
            tree = tree[part]
        tree[target[-1]] = value
        self._written[target] = at
        self._raw.values[target] = self._source.place(at)

    def move(self, target: KeyPath, at: KeyPath) -> None:
        """Take over what stands at `at`, with its variables, places and marks."""
        raw = self._source.raw
        self.put(target, copy(get(raw.tree, at)), at)

        def there(place: KeyPath) -> KeyPath:
            return target + place[len(at) :] if place[: len(at)] == at else ()

        self._raw.keys |= {new: it for old, it in raw.keys.items() if (new := there(old))}
        self._raw.values |= {new: it for old, it in raw.values.items() if (new := there(old))}
        self._raw.plain |= {new: it for old, it in raw.plain.items() if (new := there(old))}
        self._raw.secrets |= {new for old in raw.secrets if (new := there(old))}

    def expect(self, target: KeyPath, at: KeyPath) -> None:
        """Say where a part belongs that may be missing."""
        self._written[target] = at

    def has(self, target: KeyPath) -> bool:
        return get(self._raw.tree, target) is not None

    def origin(self) -> Origin:
        return Origin(self._source.shown, self._raw, written=self._written)


def move(model: ModelDraft, row: Row, at: KeyPath, value: Any) -> None:
    """Carry one mapped setting over; raises `Fault` for a value that has no counterpart."""
    if row.key == "llm_engine":
        if str(value).lower() != "vllm":
            raise Fault(f"only vLLM can be used, not {quoted(str(value))}", code=_REFUSED)
        model.put(("engine", "type"), "vllm", at)
    elif row.key == "callback_config.raise_error_on_callback":
        if not isinstance(value, bool):
            raise Fault("must be true or false")
        model.put(("callbacks", 0, "on_error"), "fail" if value else "log", at)
    elif row.key == "accelerator_config.kind":
        if value not in ("gpu", "cpu"):
            raise Fault("only gpu and cpu can be used", code=_REFUSED)
    elif row.target.startswith("callbacks[0]."):
        model.move(("callbacks", 0, row.target.rpartition(".")[2]), at)
    elif row.target and not row.target.startswith(("replicas", "resources")):
        model.move(tuple(row.target.split(".")), at)


def complete(model: ModelDraft, config: dict[str, Any], path: KeyPath) -> None:
    """Add what depends on more than one setting."""
    if not model.has(("source",)):
        model.move(("source",), (*path, "model_loading_config", "model_id"))
    model.expect(("callbacks", 0, "class"), (*path, "callback_config", "callback_class"))
    _replicas(model, config, path)
    for name, amount in _resources(config, path).items():
        model.put(("resources", name), amount, path)


def _replicas(model: ModelDraft, config: dict[str, Any], path: KeyPath) -> None:
    options = _mapping(config, "deployment_config")
    count, scaling = options.get("num_replicas"), options.get("autoscaling_config")
    at = (*path, "deployment_config", "num_replicas")
    if scaling and count not in (None, "auto"):
        raise Fault("cannot stand beside autoscaling_config", at=at, code=_REFUSED)
    if not scaling and count != "auto":
        if count is not None:
            model.move(("replicas",), at)
        return
    at = (*path, "deployment_config", "autoscaling_config") if scaling else at
    model.put(("replicas", "min"), 1, at)
    model.put(("replicas", "max"), 100 if count == "auto" else 1, at)
    for key, target in _SCALING:
        if get(scaling, (key,)) is not None:
            model.move(("replicas", target), (*at, key))


def _resources(config: dict[str, Any], path: KeyPath) -> dict[str, Any]:
    actor = (*path, "deployment_config", "ray_actor_options")
    options = _mapping(config, "deployment_config", "ray_actor_options")
    known = {name: options[name] for name in _ACTOR if name in options}
    totals = _amounts(known, _ACTOR, actor)
    devices = _devices(config)
    for bundle, at in _bundles(config, devices, path):
        for name, amount in _amounts(bundle, _BUNDLE, at).items():
            totals[name] = totals.get(name, 0) + amount
    if _wants_gpus(config):
        totals.setdefault("gpu", devices)
    gpus = totals.get("gpu", 0)
    if gpus != int(gpus):
        raise Fault(f"a replica reserves whole GPUs, not {gpus:g}", at=path, code=_REFUSED)
    return {name: amount if name == "cpu" else int(amount) for name, amount in totals.items()}


def _mapping(config: dict[str, Any], *path: str) -> dict[str, Any]:
    """An empty one for anything else, which has been refused already."""
    found = get(config, path)
    return found if isinstance(found, dict) else {}


def _wants_gpus(config: dict[str, Any]) -> bool:
    kind = get(config, ("accelerator_config", "kind"))
    return kind == "gpu" or (kind is None and config.get("accelerator_type") is not None)


def _devices(config: dict[str, Any]) -> int:
    """GPUs of one engine. Anything but a number is left for the engine to refuse."""
    count = 1
    for key in ("tensor_parallel_size", "pipeline_parallel_size"):
        size = get(config, ("engine_kwargs", key))
        count *= size if isinstance(size, int) and 1 <= size <= 1024 else 1
    return count


def _bundles(
    config: dict[str, Any], devices: int, path: KeyPath
) -> Iterator[tuple[dict[str, Any], KeyPath]]:
    base = (*path, "placement_group_config")
    placement = _mapping(config, "placement_group_config")
    if placement.get("strategy") not in (None, "PACK", "STRICT_PACK"):
        message = "only PACK and STRICT_PACK can be used; a replica lies on one node"
        raise Fault(message, at=(*base, "strategy"), code=_REFUSED)
    each, listed = placement.get("bundle_per_worker"), placement.get("bundles")
    found = [(each, (*base, "bundle_per_worker"))] * devices if each else []
    if listed is not None and not isinstance(listed, list):
        raise Fault("must be a list", at=(*base, "bundles"))
    found += [(bundle, (*base, "bundles", index)) for index, bundle in enumerate(listed or ())]
    for bundle, at in found:
        if not isinstance(bundle, dict):
            raise Fault("must be a mapping", at=at)
        yield bundle, at


def _amounts(options: dict[str, Any], names: dict[str, str], at: KeyPath) -> dict[str, float]:
    amounts: dict[str, float] = {}
    for key, value in options.items():
        if key.startswith("accelerator_type") or value is None:
            continue
        if key not in names:
            raise Fault("this resource has no counterpart", at=(*at, key), code=_REFUSED)
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise Fault("must be a number, 0 or more", at=(*at, key))
        amounts[names[key]] = value
    return amounts
