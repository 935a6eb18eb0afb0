"""A Ray that somebody else started: used by `existing`, and never touched by anything of ours."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from support import Cai, Cluster, ask, cluster_spec, short_folder, until

from ray_serve_cai.cluster.node import own_address
from ray_serve_cai.cluster.ports import free_port

pytestmark = pytest.mark.ray

TOKEN = "the-token-of-somebody-else-0123456789"


@dataclass
class Foreign:
    """A head of its own user; `processes` are all that it consists of."""

    cai: Cai
    address: str
    processes: list[psutil.Process]

    def assert_untouched(self) -> None:
        assert [it for it in self.processes if not it.is_running()] == []


@pytest.fixture(scope="module")
def foreign() -> Iterator[Foreign]:
    with short_folder() as folder:
        # `auto` looks into this folder first, so other Rays of the machine are not met.
        cai = Cai(folder, {"RAY_TMPDIR": str(folder)})
        (folder / "u" / ".ray").mkdir(parents=True)
        (folder / "u" / ".ray" / "auth_token").write_text(TOKEN)
        address = f"{own_address()}:{free_port('')}"
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
        command += [f"--port={address.split(':')[1]}", "--num-cpus=2", "--disable-usage-stats"]
        command += ["--include-dashboard=false", "--object-store-memory=100000000"]
        log = (folder / "ray.log").open("wb")
        started = subprocess.Popen(
            command,
            env=cai.environment({"RAY_AUTH_MODE": "token"}),
            start_new_session=True,
            stdout=log,
            stderr=log,
        )
        try:
            until(lambda: b"block forever" in (folder / "ray.log").read_bytes(), 60, "Ray's start")
            head = psutil.Process(started.pid)
            daemons = [p for p in head.children() if p.name() in ("gcs_server", "raylet")]
            assert len(daemons) == 2
            yield Foreign(cai, address, [head, *daemons])
        finally:
            ours = [psutil.Process(started.pid)]
            ours += ours[0].children(recursive=True)
            for process in ours:
                process.kill()
            psutil.wait_procs(ours, timeout=10)
            cai.end_everything()


def up(foreign: Foreign, name: str, address: str) -> Cluster:
    return Cluster.up(foreign.cai, name, provider={"type": "existing", "address": address})


def test_local_cluster_beside_it(foreign: Foreign) -> None:
    cluster = Cluster.up(foreign.cai, "own")
    cluster.down_without_trace()
    foreign.assert_untouched()


@pytest.mark.parametrize("address", ["given", "auto"])
def test_existing(foreign: Foreign, address: str) -> None:
    name = f"on-{address}"
    cluster = up(foreign, name, foreign.address if address == "given" else "auto")
    status = foreign.cai.json("cluster", "status", name)
    assert (status["state"], status["provider"]) == ("ready", "existing")
    assert status["ray_address"] == foreign.address
    assert len(status["nodes"]) == 1
    if address == "given":
        cluster.deploy_ok("guest", resources={"cpu": 0.5})
        assert ask(cluster.client(), "guest")
    assert foreign.cai.json("cluster", "up", cluster.spec)["actions"] == []
    actor_names = {process.name() for process in workers(foreign)}
    assert any("Gateway" in each for each in actor_names)
    foreign.cai.ok("cluster", "down", name, "--yes")
    assert {path.name for path in cluster.folder.iterdir()} == {"logs"}
    until(
        lambda: not any("Gateway" in it.name() for it in workers(foreign)), 15, "the actor's end"
    )
    until(lambda: not any("Replica" in it.name() for it in workers(foreign)), 15, "the replicas'")
    foreign.assert_untouched()


def workers(foreign: Foreign) -> list[psutil.Process]:
    return [p for p in foreign.processes[0].children(recursive=True) if p.is_running()]


class TestRefused:
    def refused(self, foreign: Foreign, code: str, **how: Any) -> str:
        env, provider = how.pop("env", {}), {"type": "existing", "address": foreign.address}
        spec = cluster_spec("refused", provider=provider | how)
        done = foreign.cai("cluster", "up", foreign.cai.write("refused.yaml", spec), env=env)
        assert done.returncode == 1
        assert code in done.stderr
        assert "Traceback" not in done.stderr
        left = foreign.cai.state("refused")
        assert not left.exists() or {it.name for it in left.iterdir()} <= {"logs"}
        foreign.assert_untouched()
        return done.stderr

    def test_wrong_token(self, foreign: Foreign) -> None:
        said = self.refused(foreign, "CAI-CLUSTER-007", token="not-the-token-of-this-ray")
        assert "refuses the token" in said
        assert "not-the-token" not in said

    def test_another_version(self, foreign: Foreign, tmp_path: Path) -> None:
        """A `cai` whose Ray takes itself for an older one."""
        (tmp_path / "sitecustomize.py").write_text("import ray; ray.__version__ = '2.59.9'\n")
        path = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        # Ray reads its mode on import, which comes before ours here.
        said = self.refused(
            foreign, "CAI-CLUSTER-008", env={"PYTHONPATH": path, "RAY_AUTH_MODE": "token"}
        )
        assert "here is 2.59.9" in said

    def test_nothing_at_the_address(self, foreign: Foreign) -> None:
        said = self.refused(foreign, "CAI-CLUSTER-007", address=f"127.0.0.1:{free_port('')}")
        assert "nothing listens there" in said
