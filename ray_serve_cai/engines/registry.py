"""Which engines there are: built-in rows, entry points, and names registered by code."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from typing import Any, Literal, cast, get_args

from ray_serve_cai.dotted import resolve
from ray_serve_cai.engines.base import LLMEngine
from ray_serve_cai.engines.protocols import ConfigBuilderProtocol, DeploymentFactoryProtocol
from ray_serve_cai.engines.signatures import signature_faults
from ray_serve_cai.errors import EngineError

Transport = Literal["grpc", "http"]

ENTRY_POINT_GROUP = "ray_serve_cai.engines"


@dataclass(frozen=True)
class EngineInfo:
    """One registered engine. `path` is the dotted path of its class, `needs` the import name of
    the package it runs on (None for none), `extra` what to install for it, `transports` how the
    gateway can talk to it, the best one first; empty for what the class declares. `builder` and
    `factory` are the dotted paths of the classes that make a configuration and a deployment."""

    name: str
    path: str
    summary: str
    needs: str | None = None
    extra: str | None = None
    transports: tuple[Transport, ...] = ()
    builder: str = "ray_serve_cai.engines.config:ConfigBuilder"
    factory: str = "ray_serve_cai.engines.config:DeploymentFactory"

    @property
    def installed(self) -> bool:
        return self.needs is None or find_spec(self.needs) is not None

    def load(self) -> type[LLMEngine]:
        """Import the engine's class; raises `EngineError` (CAI-ENGINE-002) when it is missing."""
        if not self.installed:
            raise EngineError(
                "CAI-ENGINE-002",
                f'the engine "{self.name}" needs the package "{self.needs}"',
                hint=f'pip install "ray-serve-cai[{self.extra}]"' if self.extra else None,
            )
        return _engine_class(self.path)

    def reached_by(self) -> tuple[Transport, ...]:
        """How the gateway can talk to it, the best one first. Imports a class whose row does not
        say; raises as `load`."""
        return self.transports or declared_transports(self.load())

    def config_builder(self) -> ConfigBuilderProtocol:
        """What checks and completes a configuration of this engine.

        Raises `SpecError` for a path that leads nowhere, `EngineError` (CAI-ENGINE-004) for a
        class that is no builder.
        """
        made = _made(self.builder, ConfigBuilderProtocol, self.name)
        return cast(ConfigBuilderProtocol, made)

    def deployment_factory(self, name: str = "") -> DeploymentFactoryProtocol:
        """What makes the Model document, whose `engine.type` is `name`, by default the row's.
        Raises as `config_builder`."""
        made = _made(self.factory, DeploymentFactoryProtocol, name or self.name)
        return cast(DeploymentFactoryProtocol, made)


BUILT_IN = (
    EngineInfo(
        "vllm",
        "ray_serve_cai.engines.vllm_engine.VLLMEngine",
        "vLLM, on GPUs (extra vllm) or CPUs (extra cpu)",
        needs="vllm",
        extra="vllm",
        transports=("grpc", "http"),
        builder="ray_serve_cai.engines.vllm_config:VLLMConfigBuilder",
        factory="ray_serve_cai.engines.vllm_config:VLLMDeploymentFactory",
    ),
    EngineInfo(
        "sglang",
        "ray_serve_cai.engines.sglang_engine.SGLangEngine",
        "SGLang's own server, on GPUs",
        needs="sglang",
        extra="sglang",
        transports=("grpc", "http"),
        builder="ray_serve_cai.engines.sglang_config:SGLangConfigBuilder",
        factory="ray_serve_cai.engines.sglang_config:SGLangDeploymentFactory",
    ),
    EngineInfo(
        "command",
        "ray_serve_cai.engines.command.CommandEngine",
        "any program with an OpenAI-compatible server",
        transports=("http",),
    ),
    EngineInfo(
        "echo",
        "ray_serve_cai.engines.echo.EchoEngine",
        "answers with the prompt's own tokens; for tests and for authors of engines",
        transports=("grpc",),
    ),
)


class EngineRegistry:
    """Names to engines. `default` is used where neither caller nor spec names one."""

    def __init__(self, default: str = "vllm") -> None:
        self.default = default
        self._rows: dict[str, EngineInfo] = {}

    def register(self, info: EngineInfo | type[LLMEngine], name: str = "") -> None:
        """Make an engine known: a row, or a class under `name` (by default the class's own).

        Raises `EngineError` (CAI-ENGINE-004) for a class whose methods do not fit; that of a row
        is looked at when it is loaded.
        """
        if not isinstance(info, EngineInfo):
            path = f"{info.__module__}:{info.__qualname__}"
            check_class(info, path)
            summary = (info.__doc__ or "").strip().split("\n")[0]
            info = EngineInfo(name or info.__name__, path, summary)
        self._rows[info.name] = info

    def pick(self, *names: str | None) -> EngineInfo:
        """The row of the first name that is given, from the most explicit one on; else that of
        the default. Raises as `get`."""
        return self.get(next((name for name in names if name), self.default))

    def unregister(self, name: str) -> None:
        self._rows.pop(name, None)

    def is_registered(self, name: str) -> bool:
        return name in self._rows

    def list_engines(self) -> list[EngineInfo]:
        return list(self._rows.values())

    def get(self, name: str) -> EngineInfo:
        """The row of `name`, which may also be a dotted path to a class; that of a built-in
        engine means the engine itself.

        Raises `EngineError` (CAI-ENGINE-001) that lists what exists.
        """
        if name in self._rows:
            return self._rows[name]
        if "." in name or ":" in name:
            for row in BUILT_IN:
                if row.path == name.replace(":", "."):
                    return row
            return EngineInfo(name, name, "named by dotted path")
        near = difflib.get_close_matches(name, self._rows, n=1)
        did_you_mean = f'; did you mean "{near[0]}"?' if near else ""
        known = ", ".join(sorted(self._rows))
        raise EngineError(
            "CAI-ENGINE-001", f'there is no engine "{name}" (known: {known}){did_you_mean}'
        )


@cache
def get_registry() -> EngineRegistry:
    """The process's registry: built-in engines, then those of installed packages."""
    registry = EngineRegistry()
    for info in BUILT_IN:
        registry.register(info)
    for point in _entry_points():
        if not registry.is_registered(point.name):
            registry.register(EngineInfo(point.name, point.value, f"from {point.module}"))
    return registry


def name_in_spec(info: EngineInfo) -> str:
    """What `engine.type` must say so that every process finds the engine: a name that only this
    process's code has registered means nothing in a replica, its dotted path does."""
    known = {*(row.name for row in BUILT_IN), *(point.name for point in _entry_points())}
    return info.name if info.name in known else info.path


def declared_transports(kind: type[LLMEngine]) -> tuple[Transport, ...]:
    """`transports` of an engine's class, the best one first. Without that attribute an engine is
    reached by the gRPC of cai's own servicer, or, with a server of its own, by HTTP.

    Raises `EngineError` (CAI-ENGINE-004) for anything but names of transports.
    """
    declared = getattr(kind, "transports", None) or (("http",) if kind.own_server else ("grpc",))
    if not isinstance(declared, tuple) or not set(declared) <= set(get_args(Transport)):
        known = ", ".join(get_args(Transport))
        raise EngineError(
            "CAI-ENGINE-004", f"{kind.__name__}.transports must be a tuple of {known}"
        )
    return declared


def register_engine(info: EngineInfo | type[LLMEngine], name: str = "") -> None:
    """`EngineRegistry.register` of the process's registry."""
    get_registry().register(info, name)


def check_class(kind: object, path: str) -> None:
    """Raise `EngineError` (CAI-ENGINE-004) unless `kind` can be driven as an engine."""
    faults = signature_faults(kind)
    if faults:
        raise EngineError("CAI-ENGINE-004", f'"{path}" is no engine: {"; ".join(faults)}')


@cache
def _entry_points() -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=ENTRY_POINT_GROUP))


def _made(path: str, protocol: type[Any], engine: str) -> object:
    kind = cast(Any, resolve(path))
    made = kind(engine)
    if not isinstance(made, protocol):
        wanted = ", ".join(sorted(name for name in vars(protocol) if name[0] != "_"))
        raise EngineError("CAI-ENGINE-004", f'"{path}" must have the methods {wanted}')
    return cast(object, made)


def _engine_class(path: str) -> type[LLMEngine]:
    found = resolve(path)
    check_class(found, path)
    return cast(type[LLMEngine], found)
