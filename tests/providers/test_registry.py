from __future__ import annotations

from pathlib import Path

import pytest

from ray_serve_cai.errors import ClusterError
from ray_serve_cai.plan.nodes import NodePlan
from ray_serve_cai.providers.base import LaunchContext
from ray_serve_cai.providers.registry import PROVIDERS, get_provider
from ray_serve_cai.spec.cluster import ExistingProvider


@pytest.mark.parametrize("name", PROVIDERS)
def test_loads_what_there_is(name: str) -> None:
    assert get_provider(name).owns_nodes is (name != "existing")


def test_existing_starts_nothing(tmp_path: Path) -> None:
    provider = get_provider("existing")
    node = NodePlan("head", "head", "head", 1)
    with pytest.raises(ClusterError):
        provider.launch([node], LaunchContext("demo", ExistingProvider(), tmp_path, tmp_path, {}))
    assert provider.list(tmp_path) == ()
    provider.terminate(tmp_path, ["head"])
