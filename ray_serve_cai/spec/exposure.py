"""Who reaches the gateway of a cluster, and whether that is meant."""

from __future__ import annotations

import ipaddress

from ray_serve_cai.errors import SpecError
from ray_serve_cai.spec.cluster import CaiApplicationsProvider, CaiWorkersProvider, ClusterSpec


def head_is_elsewhere(spec: ClusterSpec) -> bool:
    """Whether head and gateway run in another pod than the command that makes the cluster."""
    provider = spec.provider
    if isinstance(provider, CaiWorkersProvider):
        return provider.head_in == "worker"
    return isinstance(provider, CaiApplicationsProvider)


def check_exposure(spec: ClusterSpec, insecure: bool) -> None:
    """Raise CAI-SPEC-008 for a gateway without keys that other machines can reach, CAI-SPEC-011
    for one that nobody can."""
    provider = spec.provider
    in_worker = isinstance(provider, CaiWorkersProvider) and provider.head_in == "worker"
    if in_worker and is_loopback(spec.gateway.host):
        raise SpecError(
            "CAI-SPEC-011",
            f'cluster "{spec.name}": the gateway listens on {spec.gateway.host} of a worker; no '
            "other pod reaches it there",
        )
    if spec.gateway.api_keys or insecure:
        return
    if isinstance(provider, CaiApplicationsProvider) and provider.bypass_authentication:
        raise SpecError(
            "CAI-SPEC-008",
            f'cluster "{spec.name}" sets provider.bypass_authentication and has no API key',
        )
    if not is_loopback(spec.gateway.host):
        raise SpecError(
            "CAI-SPEC-008",
            f'cluster "{spec.name}" listens on {spec.gateway.host} and has no API key',
        )


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
