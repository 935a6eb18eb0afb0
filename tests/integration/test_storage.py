"""Models and files from a store, on live replicas of the echo engine."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
from support import Cai, Cluster, ask, echo_spec, short_folder, until

from ray_serve_cai.cluster.ports import free_port
from ray_serve_cai.demo import model_dir

pytestmark = pytest.mark.ray

SPREAD = """
from pathlib import Path


class Spread:
    def __init__(self, path):
        self.path = Path(path)

    def on_pre_placement_group(self, ctx):
        ctx.placement_group.update(bundles=[{"CPU": 1}, {"CPU": 1}], strategy="STRICT_SPREAD")

    def on_post_download(self, ctx):
        self.path.write_text(str(ctx.download_result))
"""

REGION = "eu-west-1"
SECRET = "the-secret-of-the-store"


class Store:
    """An S3 in a process of its own, with the demo model in it."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "moto.log"
        port = free_port("127.0.0.1")
        self.endpoint = f"http://127.0.0.1:{port}"
        self.options = {
            "key": "AKIAEXAMPLE",
            "secret": "${STORE_SECRET}",
            "endpoint_url": self.endpoint,
            "client_kwargs": {"region_name": REGION},
        }
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "moto.server", "-p", str(port)],
                stdout=log,
                stderr=log,
                env={"PYTHONUNBUFFERED": "1"},
            )
        until(self._answers, 60, "the S3 server")
        self._fill()

    def gets(self, name: str) -> int:
        """How often the object was read."""
        lines = self.log.read_text().splitlines()
        return sum(f"GET /models/chat/{name}?" in line for line in lines)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()

    def _answers(self) -> bool:
        try:
            return httpx.get(self.endpoint, timeout=5).is_success
        except httpx.HTTPError:
            return False

    def _fill(self) -> None:
        keys = {"aws_access_key_id": "AKIAEXAMPLE", "aws_secret_access_key": SECRET}
        client = boto3.client("s3", endpoint_url=self.endpoint, region_name=REGION, **keys)
        place = {"LocationConstraint": REGION}
        client.create_bucket(Bucket="models", CreateBucketConfiguration=place)
        for path in model_dir().iterdir():
            client.upload_file(str(path), "models", f"chat/{path.name}")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    made = Store(tmp_path_factory.mktemp("s3"))
    yield made
    made.end()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with short_folder() as folder:
        made = Cluster.up(Cai(folder, {"STORE_SECRET": SECRET}), "stored")
        yield made
        made.down_without_trace()


def spec(store: Store, **keys: Any) -> dict[str, Any]:
    return {"source": "s3://models/chat", "storage_options": store.options} | keys


def test_model_from_a_store(cluster: Cluster, store: Store) -> None:
    cluster.deploy_ok("chat", **spec(store, replicas=2))
    assert ask(cluster.client(), "chat") == "What is cai?"
    assert store.gets("model.safetensors") == 1, "one copy for both replicas"
    shown = cluster.cai.ok("model", "status", "chat", "--cluster", cluster.name, "--json").stdout
    logs = cluster.cai.ok("model", "logs", "chat", "--cluster", cluster.name).stdout
    plan = cluster.cai.ok(
        "model", "plan", cluster.cai.folder / "model-chat.yaml", "--cluster", cluster.name
    )
    said = [shown, logs, plan.stdout, plan.stderr, *cluster.cai.said]
    records = (cluster.folder / "models" / "chat").glob("*.json")
    assert not any(SECRET in text for text in [*said, *(r.read_text() for r in records)])
    assert "X-Amz-Signature" not in logs

    assert cluster.cai.json("storage", "prune")["removed"] == [], "a model names it"
    cluster.delete("chat")
    (gone,) = cluster.cai.json("storage", "prune", "--yes")["removed"]
    assert gone["source"] == "s3://models/chat"


def test_files_beside_the_model(cluster: Cluster, store: Store, tmp_path: Path) -> None:
    paths = [
        ["s3://models/chat/tokenizer.json", str(tmp_path / "tokenizer.json")],
        ["s3://models/chat", str(tmp_path / "all")],
    ]
    kwargs = {"paths": paths, "storage_options": store.options}
    downloader = {"class": "ray_serve_cai.callbacks.CloudDownloader", "kwargs": kwargs}
    cluster.deploy_ok("beside", callbacks=[downloader])
    wanted = (model_dir() / "tokenizer.json").read_bytes()
    assert (tmp_path / "tokenizer.json").read_bytes() == wanted
    assert (tmp_path / "all" / "tokenizer.json").read_bytes() == wanted
    cluster.delete("beside")


def test_both_nodes_of_a_replica_ask_the_store(store: Store, tmp_path: Path) -> None:
    """Here they share a disk, so that one of them brings the copy of both."""
    before = store.gets("model.safetensors")
    with short_folder() as folder:
        (folder / "callbacks").mkdir()
        (folder / "callbacks" / "spread.py").write_text(SPREAD)
        cai = Cai(folder, {"STORE_SECRET": SECRET})
        workers = [{"name": "side", "count": 1, "cpu": 2, "memory": "1Gi"}]
        made = Cluster.up(cai, "spread", head={"cpu": 2, "memory": "1Gi"}, workers=workers)
        try:
            result = tmp_path / "result"
            spread = {"class": "callbacks.spread.Spread", "kwargs": {"path": str(result)}}
            made.deploy_ok("wide", **spec(store, callbacks=[spread]))
            assert ask(made.client(), "wide") == "What is cai?"
            assert all(node in result.read_text() for node in ("'head'", "'side-0'"))
            assert store.gets("model.safetensors") == before + 1
        finally:
            cai.ok("cluster", "down", "spread", "--yes")


def test_what_is_not_there(cluster: Cluster, store: Store) -> None:
    done = cluster.deploy("none", **spec(store, source="s3://models/nothing"))
    assert done.returncode == 1
    assert "CAI-STORAGE-002" in done.stderr
    assert "s3://models/nothing: there is nothing" in done.stderr
    assert SECRET not in done.stderr


def test_a_missing_package_is_found_before_anything_is_held(cluster: Cluster) -> None:
    hide = (
        "import sys; sys.modules['gcsfs'] = None; from ray_serve_cai.cli.app import main; main()"
    )
    path = cluster.cai.write("gs.yaml", echo_spec("gs", source="gs://bucket/model"))
    done = subprocess.run(
        [sys.executable, "-c", hide, "model", "plan", str(path), "--cluster", cluster.name],
        env=cluster.cai.environment(),
        cwd=cluster.cai.folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert 'pip install "ray-serve-cai[gcs]"' in done.stderr
