"""A node as planned: what a provider launches and what the node agent starts Ray with."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

HEAD = "head"
# How providers launch a node: this module, with the plan's JSON in this environment variable.
AGENT_MODULE = "ray_serve_cai.cluster.node"
PLAN_VARIABLE = "CAI_NODE_PLAN"
# Where no argument can say it: the cluster's folder.
FOLDER_VARIABLE = "CAI_NODE_FOLDER"
# Set where the platform asks each node for HTTP 200: "plain", or "front-door" for the head, whose
# port belongs to the front door.
HEALTH_VARIABLE = "CAI_NODE_HEALTH"
# Not empty where the platform's login does not stand in front of the pod's web port.
PUBLIC_VARIABLE = "CAI_PUBLIC"
# Where one call starts several nodes with one environment, each finds its plan in this folder of
# the cluster's, in a file with the platform's name of the pod.
ASSIGNMENTS = "assignments"
# Set by Cloudera AI in every workload: the platform's name of the pod.
ENGINE_VARIABLE = "CDSW_ENGINE_ID"
# Seconds between the signs of life of a node's agent, and without one until it counts as dead: NFS
# clients may show a file's time up to a minute late.
BEAT_SECONDS = 10.0
SILENT_SECONDS = 90.0
# Seconds that the launcher waits for its nodes, and so a node for its head.
PATIENCE_VARIABLE = "CAI_NODE_PATIENCE"


@dataclass(frozen=True)
class NodePlan:
    """One node. `memory` and `object_store_memory` are bytes, None for "what the machine has".

    `gpu_ids` are this machine's GPUs that belong to the node; None lets it see what it sees.
    `port` is the head's Ray port (0 for a free one). Carries no secret.
    """

    id: str
    role: Literal["head", "worker", "visitor"]
    group: str
    cpu: float
    memory: int | None = None
    gpu: int = 0
    gpu_ids: tuple[str, ...] | None = None
    accelerator: str | None = None
    object_store_memory: int | None = None
    port: int = 0
    dashboard: bool = False

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> NodePlan:
        data: dict[str, Any] = json.loads(text)
        ids = data.pop("gpu_ids")
        return cls(**data, gpu_ids=None if ids is None else tuple(ids))
