"""A second machine, stood in for by a network namespace, joins by hand and serves a replica."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from support import Cai, Cluster, ask, echo_spec, short_folder, until

pytestmark = [pytest.mark.ray, pytest.mark.root]

SPACE, OUTSIDE, INSIDE = "cai-test", "10.231.77.1", "10.231.77.2"


@pytest.fixture
def machine() -> Iterator[str]:
    """A namespace with an address of its own, and a link to this one."""
    steps = [
        f"ip netns add {SPACE}",
        f"ip link add cai-out type veth peer name cai-in netns {SPACE}",
        f"ip addr add {OUTSIDE}/24 dev cai-out",
        "ip link set cai-out up",
        f"ip -n {SPACE} addr add {INSIDE}/24 dev cai-in",
        f"ip -n {SPACE} link set cai-in up",
        f"ip -n {SPACE} link set lo up",
    ]
    subprocess.run(["ip", "netns", "del", SPACE], check=False, capture_output=True)
    try:
        for step in steps:
            subprocess.run(step.split(), check=True)
        yield SPACE
    finally:
        subprocess.run(["ip", "netns", "del", SPACE], check=False)


def test_joined_machine_serves(machine: str, tmp_path: Path) -> None:
    """Also a model whose callback lives in a project that the machine does not have."""
    project = tmp_path / "project"
    (project / "callbacks").mkdir(parents=True)
    with short_folder() as folder:
        cai = Cai(folder, {"CAI_NODE_IP": OUTSIDE})
        try:
            cluster = Cluster.up(cai, "joined", head={"cpu": 0, "memory": "1Gi"})
            address = cai.json("cluster", "status", "joined")["ray_address"]
            # Without the token a machine is refused; it is one file of the state folder.
            words = ["cluster", "join", address, "--cpu", "1", "--memory", "1Gi"]
            words += ["--token-file", str(cluster.folder / "token"), "--node-ip", INSIDE]
            # `ip netns exec` gives it mounts of its own; an empty one hides the project.
            hide = f'mount -t tmpfs none {project} && exec "$@"'
            inside = ["ip", "netns", "exec", machine, "sh", "-c", hide, "sh"]
            agent = subprocess.Popen(
                [*inside, sys.executable, "-m", "ray_serve_cai", *words],
                env=cai.environment({"CAI_NODE_IP": INSIDE}),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            try:
                until(lambda: _joined(cai) == {"ready"}, 60, "the joined node")
                cluster.deploy_ok("there")
                (row,) = cluster.model("there")["instances"]
                assert INSIDE in row["endpoint"]
                assert ask(cluster.client(), "there") == "What is cai?"
                cluster.delete("there")
                _deploy_from(project, cai)
                (where,) = (project.parent / "notes").read_text().splitlines()
                assert where == f"the project is not here: {project}"
            finally:
                agent.terminate()
                assert agent.wait(60) == 130
            until(lambda: not _joined(cai), 15, "the node to be gone from status")
            cluster.down_without_trace()
        finally:
            cai.end_everything()


CALLBACK = """
from pathlib import Path

class Travels:
    def __init__(self, project, notes):
        self.project, self.notes = Path(project), Path(notes)

    def on_before_init(self, ctx):
        there = "is here" if any(self.project.iterdir()) else "is not here"
        self.notes.write_text(f"the project {there}: {self.project}")
"""


def _deploy_from(project: Path, cai: Cai) -> None:
    (project / "callbacks" / "travels.py").write_text(CALLBACK)
    kwargs = {"project": str(project), "notes": str(project.parent / "notes")}
    callback = {"class": "callbacks.travels.Travels", "kwargs": kwargs}
    spec = project / "model.yaml"
    spec.write_text(yaml.safe_dump(echo_spec("travelled", callbacks=[callback])))
    cai.ok("model", "deploy", spec, "--cluster", "joined")


def _joined(cai: Cai) -> set[str]:
    nodes = cai.json("cluster", "status", "joined")["nodes"]
    return {node["state"] for node in nodes if node["role"] == "worker"}
