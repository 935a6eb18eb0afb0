"""What hooks see and change: the context of one replica's start."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

log = logging.getLogger(__name__)


class DownloadMode(StrEnum):
    """What the default download brings to a node."""

    NONE = "NONE"
    TOKENIZER_ONLY = "TOKENIZER_ONLY"
    EXCLUDE_SAFETENSORS = "EXCLUDE_SAFETENSORS"
    MODEL_AND_TOKENIZER = "MODEL_AND_TOKENIZER"


def download_mode(word: str | None) -> DownloadMode:
    """The mode that `word` names.

    None is the default, model and tokenizer. So is any other string, with a warning: hooks may
    keep words of their own there.
    """
    if word is None:
        return DownloadMode.MODEL_AND_TOKENIZER
    try:
        return DownloadMode(str(getattr(word, "name", word)).upper())
    except ValueError:
        log.warning('"%s" is no download mode; the model and its tokenizer are downloaded', word)
        return DownloadMode.MODEL_AND_TOKENIZER


@dataclass(frozen=True)
class Placement:
    """What one replica reserves: one bundle of resources for each node part, and how they lie.

    `strategy` is one of Ray's: PACK, SPREAD, STRICT_PACK, STRICT_SPREAD.
    """

    bundles: tuple[Mapping[str, float], ...]
    strategy: str = "PACK"

    def data(self) -> dict[str, Any]:
        return {"bundles": [dict(bundle) for bundle in self.bundles], "strategy": self.strategy}


@dataclass(frozen=True)
class NodeDownload:
    """What one node holds: the folder of the model there, and what hooks left in `custom_data`."""

    folder: str | None
    custom_data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DownloadResult:
    """The folder that the engine loads, and each node's own result by node id."""

    folder: str | None
    nodes: Mapping[str, NodeDownload] = field(default_factory=dict)


@dataclass
class CallbackCtx:
    """Passed to every hook of one replica, in order; hooks of all callbacks share it.

    `llm_config` is for reading. `placement_group` decides the replica's bundles when it is set
    before placement, and shows them afterwards; a `Placement`, a mapping with `bundles` and
    `strategy`, or a Ray placement group. `runtime_env["env_vars"]` is in the environment before
    the engine starts. `extra_init_kwargs` wins over `engine.args`. `run_init_node = False` skips
    the default download. `custom_data` is the hooks' own.
    """

    llm_config: Any = None
    local_node_download_model: str | None = None
    worker_node_download_model: str | None = None
    download_result: Any = None
    placement_group: Any = None
    runtime_env: dict[str, Any] | None = None
    extra_init_kwargs: dict[str, Any] = field(default_factory=dict)
    custom_data: dict[str, Any] = field(default_factory=dict)
    run_init_node: bool = True


# The name that one of the dialects gives the same class.
NodeInitializationContext = CallbackCtx


def adopt(ctx: CallbackCtx, own: object) -> None:
    """Take over what a constructor has set in a context of its own, which may be Ray's."""
    default = CallbackCtx()
    for name, usual in vars(default).items():
        value = getattr(own, name, usual)
        if name == "llm_config" or value == usual:
            continue
        if isinstance(usual, dict) and isinstance(value, dict):
            getattr(ctx, name).update(value)
        else:
            setattr(ctx, name, value)


def snapshot(ctx: CallbackCtx) -> dict[str, Any]:
    """The fields as they are, to be put back after a hook has left one that cannot be used."""
    return {name: _copy(value) for name, value in vars(ctx).items()}


def wrong_field(ctx: CallbackCtx) -> str | None:
    """What is wrong with a context that a hook has changed; None when nothing is."""
    if gone := [each.name for each in fields(ctx) if not hasattr(ctx, each.name)]:
        return f"ctx.{gone[0]} was deleted"
    checks: Sequence[tuple[str, bool, str]] = (
        ("extra_init_kwargs", _is_mapping(ctx.extra_init_kwargs), "a dict with text as keys"),
        ("custom_data", isinstance(ctx.custom_data, dict), "a dict"),
        ("run_init_node", isinstance(ctx.run_init_node, bool), "True or False"),
        ("runtime_env", ctx.runtime_env is None or _is_mapping(ctx.runtime_env), "a dict"),
        ("local_node_download_model", _is_mode(ctx.local_node_download_model), "text"),
        ("worker_node_download_model", _is_mode(ctx.worker_node_download_model), "text"),
    )
    for name, right, wanted in checks:
        if not right:
            kind = type(getattr(ctx, name)).__name__
            return f"ctx.{name} must be {wanted}, not {kind}"
    return _wrong_runtime_env(ctx.runtime_env or {})


def env_vars(ctx: CallbackCtx) -> dict[str, str]:
    """The environment variables that hooks ask for."""
    return dict((ctx.runtime_env or {}).get("env_vars") or {})


def _wrong_runtime_env(runtime_env: Mapping[str, Any]) -> str | None:
    others = sorted(set(runtime_env) - {"env_vars"})
    if others:
        return (
            f"ctx.runtime_env: {', '.join(others)} cannot be applied to a process that runs; "
            "only env_vars can"
        )
    given = runtime_env.get("env_vars")
    if given is None or (
        _is_mapping(given) and all(isinstance(value, str) for value in given.values())
    ):
        return None
    return 'ctx.runtime_env["env_vars"] must be a dict of text to text'


def _copy(value: Any) -> Any:
    # One level more than the field itself: `runtime_env["env_vars"]` is what hooks change.
    if not isinstance(value, dict):
        return value
    return {key: dict(it) if isinstance(it, dict) else it for key, it in value.items()}


def _is_mapping(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(key, str) for key in value)


def _is_mode(value: object) -> bool:
    # Ray has an enum of its own for these words.
    return value is None or isinstance(getattr(value, "name", value), str)
