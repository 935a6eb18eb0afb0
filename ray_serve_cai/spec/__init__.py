"""Cluster and model specs: reading, checking, masking, and their JSON schema."""

from ray_serve_cai.spec.base import KeyPath, format_duration, format_path, format_size
from ray_serve_cai.spec.cluster import (
    CaiApplicationsProvider,
    CaiWorkersProvider,
    ClusterSpec,
    ExistingProvider,
    Gateway,
    Head,
    LocalProvider,
    Metrics,
    Ray,
    WorkerGroup,
)
from ray_serve_cai.spec.document import Document, document_from_raw
from ray_serve_cai.spec.exposure import check_exposure, is_loopback
from ray_serve_cai.spec.load import clusters, load_files, models, project_of, read_files, shown
from ray_serve_cai.spec.masking import MASK, is_secret_name, masked, scrub, secret_values
from ray_serve_cai.spec.model import Callback, Engine, ModelSpec, ReplicaRange, Resources
from ray_serve_cai.spec.ray_llm_table import MAPPING
from ray_serve_cai.spec.schema import json_schema
from ray_serve_cai.spec.source import Source, parse_source

__all__ = [
    "MAPPING",
    "MASK",
    "CaiApplicationsProvider",
    "CaiWorkersProvider",
    "Callback",
    "ClusterSpec",
    "Document",
    "Engine",
    "ExistingProvider",
    "Gateway",
    "Head",
    "KeyPath",
    "LocalProvider",
    "Metrics",
    "ModelSpec",
    "Ray",
    "ReplicaRange",
    "Resources",
    "Source",
    "WorkerGroup",
    "check_exposure",
    "clusters",
    "document_from_raw",
    "format_duration",
    "format_path",
    "format_size",
    "is_loopback",
    "is_secret_name",
    "json_schema",
    "load_files",
    "masked",
    "models",
    "parse_source",
    "project_of",
    "read_files",
    "scrub",
    "secret_values",
    "shown",
]
