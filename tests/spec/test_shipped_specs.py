from __future__ import annotations

from pathlib import Path

import pytest

from ray_serve_cai.plan.cluster import ClusterFacts, Machine, plan_cluster
from ray_serve_cai.spec import check_exposure, load_files

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "cluster_configs").rglob("*.yaml"))
ENV = {"HF_TOKEN": "hf_for_tests", "CAI_API_KEY": "sk-for-tests"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_shipped_spec_loads(file: Path) -> None:
    kind = "Model" if file.parent.name == "models" else "Cluster"
    for document in load_files([file], env=ENV):
        assert document.kind == kind
        if kind == "Cluster":
            check_exposure(document.cluster, insecure=False)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_shipped_cluster_plans(file: Path) -> None:
    for document in load_files([file], env=ENV):
        if document.kind != "Cluster":
            continue
        spec = document.cluster
        own = Machine(16, 128 * 1024**3, ("0",)) if spec.provider.type == "local" else None
        plan = plan_cluster(spec, ClusterFacts(machine=own))
        wanted = 0 if spec.provider.type == "existing" else 1 + sum(g.count for g in spec.workers)
        assert len(plan.nodes) == wanted
        assert {action.verb for action in plan.actions} <= {"create", "start"}


def test_names_do_not_clash() -> None:
    assert len(load_files(FILES, env=ENV)) == len(FILES) == 11


def test_the_demo_needs_nothing() -> None:
    cluster, model = load_files(
        [ROOT / "cluster_configs/local.yaml", ROOT / "cluster_configs/models/demo.yaml"], env={}
    )
    assert cluster.name == "demo"
    assert cluster.cluster.ray.port == "auto"
    assert model.source.kind == "builtin"
    assert model.model.resources.gpu == 0
