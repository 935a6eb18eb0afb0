"""`kind: Model`: what is served under which name, with which engine and on how much hardware."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, WithJsonSchema

from ray_serve_cai.spec.base import (
    ByteSize,
    ClassPath,
    Duration,
    Environment,
    Fault,
    ModelName,
    SpecModel,
)
from ray_serve_cai.spec.source import SOURCE_PATTERN, check_source


class Engine(SpecModel):
    """The program that runs the model."""

    type: Annotated[str, Field(min_length=1)] = Field(
        default="vllm",
        description="Name of an engine (`cai engines list`) or dotted path of a class.",
    )
    transport: Literal["auto", "grpc", "http"] = Field(
        default="auto",
        description="How the gateway talks to the engine: `grpc` is fastest, `http` has every "
        "route and parser of the engine; `auto` picks.",
    )
    args: dict[str, Any] = Field(
        default_factory=dict,
        repr=False,
        description="Arguments of the engine under the engine's own names.",
    )


class Resources(SpecModel):
    """What one replica reserves, on one node where one has it all."""

    cpu: Annotated[float, Field(ge=0)] = Field(default=1.0, description="CPUs of each replica.")
    gpu: Annotated[int, Field(ge=0)] = Field(default=0, description="GPUs of each replica.")
    memory: ByteSize | None = Field(
        default=None, description="Memory reserved for each replica; without it none is."
    )


class ReplicaRange(SpecModel):
    """Replicas that follow the load."""

    min: Annotated[int, Field(ge=0)] = Field(
        description="Fewest replicas; 0 frees the hardware of an idle model."
    )
    max: Annotated[int, Field(ge=1)] = Field(description="Most replicas.")
    target_ongoing_requests: Annotated[float, Field(gt=0)] = Field(
        default=16.0, description="Running and waiting requests that each replica should have."
    )
    cool_down: Duration = Field(
        default=60.0,
        description="How long fewer replicas must have been enough before some go.",
    )
    idle_after: Duration = Field(
        default=600.0,
        description="Time without a request before the last replica goes, where `min` is 0.",
    )
    when_empty: Literal["hold", "refuse"] = Field(
        default="hold",
        description="What happens to a request while no replica runs: it waits, or is refused "
        "with `Retry-After`.",
    )
    hold_timeout: Duration = Field(default=300.0, description="How long a request waits at most.")
    queue: Annotated[int, Field(ge=0)] = Field(
        default=100, description="How many requests wait at most."
    )


def _ordered(replicas: int | ReplicaRange) -> int | ReplicaRange:
    if isinstance(replicas, ReplicaRange) and replicas.max < replicas.min:
        raise Fault(f"must not be less than min, {replicas.min}", at=("max",))
    return replicas


def _form_of_replicas(value: object) -> str:
    return "range" if isinstance(value, (dict, ReplicaRange)) else "number"


Replicas = Annotated[
    Annotated[int, Field(ge=0), Tag("number")] | Annotated[ReplicaRange, Tag("range")],
    Discriminator(_form_of_replicas),
    AfterValidator(_ordered),
]


class Callback(SpecModel):
    """A class whose hooks run while a replica starts and stops."""

    class_path: ClassPath = Field(
        alias="class", description="Dotted path of the class, such as `callbacks.metrics.Startup`."
    )
    kwargs: dict[str, Any] = Field(
        default_factory=dict, repr=False, description="Arguments of the constructor."
    )
    on_error: Literal["fail", "log"] = Field(
        default="fail", description="Whether a failing hook fails the replica or is only logged."
    )
    timeout: Duration | None = Field(
        default=300.0, description="Time that one hook may take; null for no limit."
    )


class Health(SpecModel):
    """How an engine that is alive but answers nothing is found. It is then replaced."""

    probe_every: Duration = Field(
        default=15.0, description="Time without any token after which the engine is asked for one."
    )
    probe_timeout: Duration = Field(
        default=60.0,
        description="Time that it may take for it, while no other token comes; longer than the "
        "longest prompt takes.",
    )


class ModelSpec(SpecModel):
    """A model behind the gateway."""

    kind: Literal["Model"] = Field(default="Model", description="`Model`.")
    name: ModelName = Field(
        description='The name that clients send as "model": letters, digits and `. _ / -`.'
    )
    source: Annotated[
        str,
        BeforeValidator(check_source),
        WithJsonSchema({"type": "string", "pattern": SOURCE_PATTERN}),
    ] = Field(
        description="Where the files are: hub id `org/name[@revision]`, a path (`./x` is relative "
        "to this file), `s3://`, `gs://`, `abfss://`, `azure://`, `hf://`, `file://` or "
        "`builtin:demo`."
    )
    storage_options: dict[str, Any] = Field(
        default_factory=dict,
        repr=False,
        description="Options of the store that `source` is in, under the names of its fsspec "
        "package: `key`, `secret`, `endpoint_url`, `anon`, … What they leave out comes from the "
        "environment, profiles and instance roles of the node.",
    )
    engine: Engine = Field(default_factory=Engine, description="The engine and its arguments.")
    resources: Resources = Field(
        default_factory=Resources, description="What each replica reserves."
    )
    replicas: Replicas = Field(
        default=1,
        description="A fixed number, or a range to follow the load; 0 keeps the model idle.",
    )
    env: Environment = Field(
        default_factory=dict,
        repr=False,
        description="Environment variables of the replica, set before its engine starts.",
    )
    health: Health = Field(default_factory=Health, description="When a replica is replaced.")
    shutdown_timeout: Duration = Field(
        default=90.0,
        description="Time that a replica has to end its requests and to clean up, its hooks "
        "included; requests that run on are cut off.",
    )
    callbacks: tuple[Callback, ...] = Field(
        default=(), strict=False, description="Callbacks, in the order in which they run."
    )
