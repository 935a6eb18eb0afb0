"""What a replica must run, as plain data: it crosses from launcher to Serve to host."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class ReplicaJob:
    """One model revision as every replica of it starts it.

    `env`, `api_keys` and `storage_options` hold resolved secrets: they travel as data, never on a
    command line.
    All times are in seconds. `placement` is what it reserves, as `bundles` and `strategy`, `gpu`
    what of that its own process takes. `code` holds the project's own packages, as `serving.code`
    packs them. With `debug`, each stream of the engine is held to the contract.
    """

    cluster: str
    model: str
    revision: int
    source: str
    engine: str
    engine_args: dict[str, Any]
    transport: Literal["grpc", "http"]
    env: dict[str, str] = field(repr=False)
    log_folder: str
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    gpu: float = 0
    start_timeout: float = 1800.0
    project: str | None = None
    callbacks: tuple[dict[str, Any], ...] = field(default=(), repr=False)
    placement: dict[str, Any] = field(default_factory=dict)
    custom_data: dict[str, Any] = field(default_factory=dict, repr=False)
    code: str = field(default="", repr=False)
    storage_options: dict[str, Any] = field(default_factory=dict, repr=False)
    shutdown_timeout: float = 90.0
    probe_every: float = 15.0
    probe_timeout: float = 60.0
    debug: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ReplicaJob:
        lists = {name: tuple(data.get(name, ())) for name in ("api_keys", "callbacks")}
        return cls(**{**data, **lists})


def merged(placement: dict[str, Any]) -> list[dict[str, float]]:
    """The bundles as they are reserved: those that lie on one node anyway as a single one, so
    that the replica's process sees all of its GPUs."""
    bundles: list[dict[str, float]] = placement.get("bundles", [])
    if placement.get("strategy") != "STRICT_PACK" or not bundles:
        return bundles
    names = {name for bundle in bundles for name in bundle}
    return [{name: sum(bundle.get(name, 0) for bundle in bundles) for name in sorted(names)}]


def log_name(model: str, revision: int | str, replica: str) -> str:
    """The log file of a replica; with `*` for the last two, a pattern for all of a model's."""
    number = "[0-9]*" if revision == "*" else revision
    return f"model-{model.replace('/', '%2F')}-r{number}-{replica}.log"


@dataclass(frozen=True)
class Pulse:
    """The host's word on its engine, about once a second."""

    healthy: bool
    running: int = 0
    waiting: int = 0
    message: str = ""


@dataclass
class ReplicaRow:
    """What the gateway actor knows of one replica."""

    replica_id: str
    model: str
    revision: int
    phase: str
    node_id: str
    endpoint: str | None = None
    message: str = ""
    code: str = ""
    engine_config: dict[str, Any] = field(default_factory=dict)
    running: int = 0
    waiting: int = 0
    log: str = ""
    pid: int = 0
    shutdown_timeout: float = 90.0
