"""The table of providers, loaded on use."""

from __future__ import annotations

from dataclasses import dataclass

from ray_serve_cai.dotted import resolve
from ray_serve_cai.providers.base import Provider


@dataclass(frozen=True)
class ProviderRow:
    """`path` is the dotted path of the class."""

    path: str
    summary: str


PROVIDERS = {
    "local": ProviderRow("ray_serve_cai.providers.local.LocalProvider", "nodes on this machine"),
    "existing": ProviderRow(
        "ray_serve_cai.providers.existing.ExistingProvider", "a Ray that runs already"
    ),
    "cai-workers": ProviderRow(
        "ray_serve_cai.providers.cai_workers.CaiWorkersProvider",
        "Cloudera AI workers of a session, job or application",
    ),
    "cai-applications": ProviderRow(
        "ray_serve_cai.providers.cai_applications.CaiApplicationsProvider",
        "Cloudera AI applications, one per node",
    ),
}


def get_provider(name: str) -> Provider:
    """The provider of that `provider.type`."""
    found = resolve(PROVIDERS[name].path)
    assert isinstance(found, type)
    assert issubclass(found, Provider)
    return found()
