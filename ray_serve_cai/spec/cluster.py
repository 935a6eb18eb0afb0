"""`kind: Cluster`: where nodes run, how large they are, and what the gateway listens on."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from ray_serve_cai.spec.base import (
    ByteSize,
    Duration,
    Environment,
    Fault,
    Name,
    Port,
    Secret,
    SpecModel,
    quoted,
)

_ADDRESS = re.compile(r"(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):(?P<port>[0-9]{1,5})")


def _check_address(value: object) -> object:
    if not isinstance(value, str) or value == "auto":
        return value
    if "://" in value:
        raise Fault("must be auto or host:port; ray:// and http:// addresses cannot be used")
    match = _ADDRESS.fullmatch(value)
    if match is None or not 1 <= int(match["port"]) <= 65535:
        raise Fault(f"must be auto or host:port, not {quoted(value)}")
    return value


def _check_host(value: object) -> object:
    if isinstance(value, str) and not re.fullmatch(r"[A-Za-z0-9._:%-]+", value):
        raise Fault(f"must be a host name or an IP address, not {quoted(value)}")
    return value


def _check_subdomain(value: object) -> object:
    # The platform answers anything else with "Problem with field Subdomain".
    if isinstance(value, str) and not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", value):
        raise Fault(
            f"must be lower-case letters and digits, joined by single hyphens, not {quoted(value)}"
        )
    return value


def _drop_empty(value: object) -> object:
    # "${CAI_API_KEY:-}" is empty where no key is wanted.
    if isinstance(value, (list, tuple)):
        return tuple(item for item in value if item not in ("", None))
    return value


def _none_if_empty(value: object) -> object:
    return None if value == "" else value


def _unique(groups: tuple[WorkerGroup, ...]) -> tuple[WorkerGroup, ...]:
    seen: set[str] = set()
    for index, group in enumerate(groups):
        if group.name == "head":
            raise Fault('a worker group cannot be called "head"', at=(index, "name"))
        if group.name in seen:
            message = f"there is another worker group {quoted(group.name)}"
            raise Fault(message, at=(index, "name"), code="CAI-SPEC-006")
        seen.add(group.name)
    return groups


Host = Annotated[str, BeforeValidator(_check_host)]
Cpus = Annotated[float, Field(ge=0)]
Gpus = Annotated[int, Field(ge=0)]


class LocalProvider(SpecModel):
    """Nodes are processes on this machine; other machines join with `cai cluster join`."""

    type: Literal["local"] = Field(
        default="local", description="Nodes are processes on this machine."
    )


class ExistingProvider(SpecModel):
    """A Ray that runs already; its nodes are never started or stopped."""

    type: Literal["existing"] = Field(
        default="existing", description="Use a Ray that runs already."
    )
    address: Annotated[str, BeforeValidator(_check_address)] = Field(
        default="auto",
        description="`host:port` of the Ray head, or `auto` for one that runs on this machine.",
    )
    token: Annotated[Secret | None, BeforeValidator(_none_if_empty)] = Field(
        default=None,
        repr=False,
        description="Ray's auth token; without it the one of this user's Ray is taken.",
    )


class CaiWorkersProvider(SpecModel):
    """Cloudera AI workers; they end with the workload that runs `cai cluster up`."""

    type: Literal["cai-workers"] = Field(
        default="cai-workers", description="Nodes are workers of this Cloudera AI workload."
    )
    head_in: Literal["launcher", "worker"] = Field(
        default="launcher",
        description="Whether head and gateway run in the workload that runs `up` or in a worker.",
    )
    accelerator_label_id: str | None = Field(
        default=None,
        description="Node label id for groups with GPUs; without it `accelerator` is looked up.",
    )
    resource_profile_id: str | None = Field(
        default=None,
        description="Resource profile id of the workers, where the workbench has profiles.",
    )
    resource_group_id: str | None = Field(
        default=None,
        description="Resource group id of the workers, where the workbench has groups.",
    )
    launch_timeout: Duration = Field(
        default=1200.0,
        description="How long `up` waits without `--timeout`; a new GPU node takes minutes.",
    )


class CaiApplicationsProvider(SpecModel):
    """Every node is a Cloudera AI Application, so that the cluster outlives its launcher."""

    type: Literal["cai-applications"] = Field(
        default="cai-applications", description="Every node is a Cloudera AI Application."
    )
    runtime_identifier: str | None = Field(
        default=None,
        description="Image of the nodes; without it that of the workload that runs `up`.",
    )
    subdomain_prefix: Annotated[str | None, BeforeValidator(_check_subdomain)] = Field(
        default=None,
        description="First part of every node's subdomain; without it the cluster's name.",
    )
    bypass_authentication: bool = Field(
        default=False,
        description="Let the head's address answer without Cloudera's login; needs an API key.",
    )
    accelerator_label_id: str | None = Field(
        default=None,
        description="Node label id for groups with GPUs; without it `accelerator` is looked up.",
    )
    resource_profile_id: str | None = Field(
        default=None,
        description="Resource profile id of the nodes, where the workbench has profiles.",
    )
    resource_group_id: str | None = Field(
        default=None, description="Resource group id of the nodes, where the workbench has groups."
    )
    launch_timeout: Duration = Field(
        default=1200.0,
        description="How long `up` waits without `--timeout`; a new GPU node takes minutes.",
    )


Provider = Annotated[
    LocalProvider | ExistingProvider | CaiWorkersProvider | CaiApplicationsProvider,
    Field(discriminator="type"),
]


class Head(SpecModel):
    """The node that holds Ray's control process and the gateway."""

    cpu: Cpus = Field(default=1.0, description="CPUs that Ray may use on the head.")
    memory: ByteSize | None = Field(
        default=None, description="Memory that Ray may use on the head; without it what Ray finds."
    )
    gpu: Gpus = Field(default=0, description="GPUs of the head.")


class WorkerGroup(SpecModel):
    """Equal nodes beside the head."""

    name: Name = Field(description="Name of the group, unique in the cluster and not `head`.")
    count: Annotated[int, Field(ge=0)] = Field(default=1, description="Number of nodes.")
    cpu: Cpus = Field(default=1.0, description="CPUs of each node.")
    memory: ByteSize | None = Field(
        default=None, description="Memory of each node; without it what Ray finds."
    )
    gpu: Gpus = Field(default=0, description="GPUs of each node.")
    accelerator: str | None = Field(
        default=None, description="Kind of GPU as the platform labels it, such as `NVIDIA-L4`."
    )


class Ray(SpecModel):
    """Settings of Ray itself."""

    port: Port = Field(default=6379, description="Port of the head, or `auto` for a free one.")
    dashboard: bool = Field(default=False, description="Start Ray's dashboard.")
    object_store_memory: ByteSize | None = Field(
        default=None, description="Shared memory of each node; without it Ray decides."
    )
    env: Environment = Field(
        default_factory=dict,
        repr=False,
        description="Environment variables of every node.",
    )


class Metrics(SpecModel):
    """Where the gateway's Prometheus numbers are."""

    host: Host = Field(default="127.0.0.1", description="Address that the metrics listen on.")
    port: Port = Field(
        default="auto", description="Port of the metrics, or `auto` for a free one."
    )


class Gateway(SpecModel):
    """The one endpoint in front of all models."""

    host: Host = Field(
        default="127.0.0.1",
        description="Address to listen on; one that is not loopback needs a key.",
    )
    port: Port = Field(default=8000, description="Port to listen on, or `auto` for a free one.")
    api_keys: Annotated[tuple[Secret, ...], BeforeValidator(_drop_empty)] = Field(
        default=(),
        repr=False,
        strict=False,
        description="Keys that clients may use; empty entries are dropped.",
    )
    metrics: Metrics = Field(default_factory=Metrics, description="Where the metrics listen.")
    max_request_bytes: ByteSize = Field(
        default=64 * 1024**2, description="Largest request body that is accepted."
    )
    max_concurrent: Annotated[int, Field(ge=1)] = Field(
        default=512, description="Requests in flight before further ones wait."
    )
    queue: Annotated[int, Field(ge=1)] = Field(
        default=100, description="Requests that wait at most; further ones get status 429."
    )
    queue_timeout: Duration = Field(
        default=60.0, description="How long a request waits before it gets status 503."
    )


class ClusterSpec(SpecModel):
    """A Ray cluster and the gateway in front of it."""

    kind: Literal["Cluster"] = Field(default="Cluster", description="`Cluster`.")
    name: Name = Field(description="Name of the cluster, and of its state folder.")
    provider: Provider = Field(
        default_factory=LocalProvider, description="Where nodes run; `type` decides on the rest."
    )
    head: Head = Field(default_factory=Head, description="The head node.")
    workers: Annotated[tuple[WorkerGroup, ...], AfterValidator(_unique)] = Field(
        default=(), strict=False, description="Named groups of further nodes."
    )
    ray: Ray = Field(default_factory=Ray, description="Settings of Ray.")
    gateway: Gateway = Field(default_factory=Gateway, description="The public endpoint.")
