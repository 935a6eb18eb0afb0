"""vLLM's workers over two nodes by Ray, on stand-in GPUs that compute on the CPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import Cai, Cluster, ask, deploy_together, marks_of, short_folder, until

pytestmark = pytest.mark.vllm

PLATFORM = Path(__file__).parents[1] / "fakes" / "gpu_platform"
QUESTION = "What is cai?"
MODEL = {
    "source": "builtin:demo",
    "engine": {
        "type": "vllm",
        "args": {"max_model_len": 1024, "enforce_eager": True, "tensor_parallel_size": 2},
    },
    "resources": {"cpu": 1, "gpu": 2},
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with short_folder() as folder:
        path = os.pathsep.join([str(PLATFORM / "bin"), os.environ["PATH"]])
        cai = Cai(folder, {"PYTHONPATH": str(PLATFORM), "PATH": path})
        workers = [{"name": "gpu", "count": 1, "cpu": 1, "gpu": 1}]
        try:
            made = Cluster.up(cai, "wide", head={"cpu": 2, "gpu": 1}, workers=workers)
            yield made
            made.down_without_trace()
        finally:
            cai.end_everything()


def test_one_replica_on_two_nodes(cluster: Cluster) -> None:
    spec = {"kind": "Model", "name": "wide", **MODEL}
    path = cluster.cai.write("wide.yaml", spec)
    planned = cluster.cai.json("model", "deploy", path, "--cluster", cluster.name, "--dry-run")
    parallel = planned["parallel"]
    assert (parallel["executor"], parallel["workers"]) == ("ray", 2)

    deploy_together(cluster, path, ["wide"])
    answer = ask(cluster.client(), "wide", QUESTION, temperature=0, max_tokens=64)
    assert "launcher" in answer
    nodes = {marks_of(process)[1] for process in cluster.commands("ray::RayWorkerProc")}
    assert nodes == {"head", "gpu-0"}
    refused = cluster.deploy("more", **MODEL)
    assert "beside the models that run they are not free" in refused.stderr, refused.stderr

    cluster.delete("wide")
    until(lambda: not cluster.commands("ray::RayWorkerProc"), 60, "the end of the workers")
