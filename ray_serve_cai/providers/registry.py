"""The table of providers, loaded on use."""

from __future__ import annotations

from dataclasses import dataclass

from ray_serve_cai.dotted import resolve
from ray_serve_cai.errors import ClusterError
from ray_serve_cai.providers.base import Provider


@dataclass(frozen=True)
class ProviderRow:
    """`path` is the dotted path of the class; None for one that a later version brings."""

    path: str | None
    summary: str


PROVIDERS = {
    "local": ProviderRow("ray_serve_cai.providers.local.LocalProvider", "nodes on this machine"),
    "existing": ProviderRow(
        "ray_serve_cai.providers.existing.ExistingProvider", "a Ray that runs already"
    ),
    "cai-workers": ProviderRow(None, "Cloudera AI workers of a session, job or application"),
    "cai-applications": ProviderRow(None, "Cloudera AI applications, one per node"),
}


def get_provider(name: str) -> Provider:
    """Raises `ClusterError` (CAI-CLUSTER-010) for a provider that is not there yet."""
    row = PROVIDERS[name]
    if row.path is None:
        raise ClusterError(
            "CAI-CLUSTER-010", f'the provider "{name}" ({row.summary}) is not in this version yet'
        )
    found = resolve(row.path)
    assert isinstance(found, type)
    assert issubclass(found, Provider)
    return found()
