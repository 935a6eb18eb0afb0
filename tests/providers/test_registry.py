from __future__ import annotations

from pathlib import Path

import pytest

from ray_serve_cai.errors import ClusterError
from ray_serve_cai.plan.nodes import NodePlan
from ray_serve_cai.providers.base import LaunchContext
from ray_serve_cai.providers.registry import PROVIDERS, get_provider


@pytest.mark.parametrize(("name", "owns"), [("local", True), ("existing", False)])
def test_loads_what_there_is(name: str, owns: bool) -> None:
    assert get_provider(name).owns_nodes is owns


@pytest.mark.parametrize("name", [name for name, row in PROVIDERS.items() if row.path is None])
def test_says_what_is_not_there_yet(name: str) -> None:
    with pytest.raises(ClusterError, match=rf'the provider "{name}" .* not in this version') as e:
        get_provider(name)
    assert e.value.code == "CAI-CLUSTER-010"
    assert e.value.exit == 2


def test_existing_starts_nothing(tmp_path: Path) -> None:
    provider = get_provider("existing")
    node = NodePlan("head", "head", "head", 1)
    with pytest.raises(ClusterError):
        provider.launch(node, LaunchContext(tmp_path, tmp_path, {}))
    assert provider.list(tmp_path) == ()
    provider.terminate(tmp_path, ["head"])
