"""Flat configurations, as code writes them, to arguments of an engine and to a Model document.

    {"model": "Qwen/Qwen3-8B", "max_model_len": 8192, "replicas": 2}

`model` (or `source`) says where the files are. The keys of `kind: Model` mean what they mean in a
spec, `transport` is that of `engine`, and every other key is an argument of the engine. `engine`
is a name, or the section of a spec, whose `args` come first.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution
from math import prod
from typing import Any, ClassVar, Literal, cast

from ray_serve_cai.errors import SpecError
from ray_serve_cai.spec import ModelSpec

_SPEC_KEYS = frozenset(ModelSpec.model_fields)
# Keys of a configuration that are no argument of any engine.
_OWN_KEYS = _SPEC_KEYS | {"model", "transport", "served_model_name"}


class ConfigBuilder:
    """Any engine's: its arguments are taken as they are."""

    def __init__(self, engine: str = "") -> None:
        self.engine = engine

    def build_config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The engine's arguments; raises as `validate_config`."""
        self.validate_config(config)
        return engine_args(config)

    def validate_config(self, config: Mapping[str, Any]) -> None:
        """Raise `SpecError` (CAI-SPEC-004) when the model is missing or given twice."""
        if not isinstance(config, Mapping):
            raise SpecError("CAI-SPEC-004", "the configuration must be a mapping")
        given = [name for name in ("model", "source") if config.get(name)]
        if len(given) != 1:
            said = 'has both "model" and "source"' if given else 'has no "model"'
            raise SpecError("CAI-SPEC-004", f"the configuration {said}")

    def get_default_config(self) -> dict[str, Any]:
        """What holds where a configuration says nothing."""
        return {"replicas": 1, "transport": "auto"}


class DeploymentFactory:
    """Any engine's: one replica takes what `resources` says."""

    def __init__(self, engine: str = "") -> None:
        self.engine = engine

    def create_deployment(
        self, config: Mapping[str, Any], engine_config: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The `kind: Model` document."""
        kept = {key: config[key] for key in config if key in _SPEC_KEYS}
        engine = {
            "type": self.engine,
            "transport": transport_of(config),
            "args": dict(engine_config),
        }
        document = {
            **kept,
            "kind": "Model",
            "name": model_name(config),
            "source": config.get("source") or config.get("model"),
            "engine": engine,
        }
        if resources := self.resources(config, engine_config):
            document["resources"] = resources
        return document

    def resources(
        self, config: Mapping[str, Any], engine_config: Mapping[str, Any]
    ) -> dict[str, Any]:
        """What one replica reserves, as far as the configuration tells."""
        return dict(config.get("resources") or {})


class ParallelDeploymentFactory(DeploymentFactory):
    """Of an engine that spreads one replica over GPUs: without a word on GPUs in `resources` it
    reserves as many as the sizes multiply to, and none where the engine's CPU build is installed.

    `sizes` are the names of the engine's arguments, several where one has aliases.
    """

    sizes: ClassVar[tuple[tuple[str, ...], ...]] = ()
    cpu_build: ClassVar[str] = ""

    def resources(
        self, config: Mapping[str, Any], engine_config: Mapping[str, Any]
    ) -> dict[str, Any]:
        """What one replica reserves."""
        given = super().resources(config, engine_config)
        if "gpu" in given or (self.cpu_build and _is_installed(self.cpu_build)):
            return given
        return {**given, "gpu": self.width(engine_config)}

    def width(self, engine_config: Mapping[str, Any]) -> int:
        """GPUs of one replica. Raises `SpecError` (CAI-SPEC-004) for a size that is no number."""
        args = {name.replace("-", "_"): value for name, value in engine_config.items()}
        return prod(_size(args, names) for names in self.sizes)


def engine_args(config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments among the keys of a configuration."""
    flat = {key: value for key, value in config.items() if key not in _OWN_KEYS}
    return {**(section(config).get("args") or {}), **flat}


def section(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The `engine` section of a configuration; empty when `engine` is a name or is not there."""
    engine = config.get("engine")
    return engine if isinstance(engine, Mapping) else {}


def engine_name(config: Mapping[str, Any]) -> str | None:
    """The engine that a configuration names, if it does."""
    engine = config.get("engine")
    return section(config).get("type") if isinstance(engine, Mapping) else engine


def transport_of(config: Mapping[str, Any]) -> Literal["auto", "grpc", "http"]:
    """The transport that a configuration asks for; the spec's check refuses other words."""
    wanted = config.get("transport") or section(config).get("transport") or "auto"
    return cast(Literal["auto", "grpc", "http"], wanted)


def model_name(config: Mapping[str, Any]) -> str:
    """The name that clients use: the given one, else the last part of the source's."""
    given = config.get("name") or config.get("served_model_name")
    source = str(config.get("source") or config.get("model") or "")
    last = source.rstrip("/").replace(":", "/").rsplit("/", 1)[-1]
    return str(given or last.partition("@")[0])


def _size(args: Mapping[str, Any], names: tuple[str, ...]) -> int:
    for name in names:
        value = args.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise SpecError("CAI-SPEC-004", f"engine.args.{name}: must be a number from 1 on")
        return value
    return 1


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True
