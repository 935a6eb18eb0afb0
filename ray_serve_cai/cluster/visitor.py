"""A node of Ray without resources, for as long as a command needs one.

Ray's drivers talk to a node manager on their own machine. A command in a pod that is no node of
the cluster (another session of the project, say) therefore brings one along. It runs in a process
of its own that ends, with everything it started, when its standard input does: also when the
command is killed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ray_serve_cai.cluster.node import own_address, ray_command
from ray_serve_cai.errors import ClusterError
from ray_serve_cai.plan.nodes import NodePlan
from ray_serve_cai.providers.processes import kill_marked, marks

START_SECONDS = 60.0
POLL_SECONDS = 0.05
# The least that Ray starts an object store with, in bytes.
STORE = 80 * 1024**2
TAIL_CHARACTERS = 2000


@contextmanager
def visiting(address: str) -> Iterator[str]:
    """Be beside a node of the Ray at `address` inside the block, which gets its address.

    Ray's token is taken from the environment. Raises `ClusterError` (CAI-CLUSTER-007) when the
    node does not come up.
    """
    visitor = f"visitor-{uuid.uuid4().hex[:8]}"
    with tempfile.TemporaryDirectory(prefix="cai-v-") as name:
        folder = Path(name)
        with (folder / "log").open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", __name__, address, visitor, name],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            _wait(address, visitor, process, folder / "log")
            yield own_address()
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait()


def main() -> int:
    """The visitor's own process: ADDRESS, its id, and a folder of its own as arguments."""
    address, visitor, name = sys.argv[1:]
    folder = Path(name)
    plan = NodePlan(visitor, "visitor", "visitor", 0, object_store_memory=STORE)
    command = ray_command(plan, address, own_address(), name)
    ray = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, env={**os.environ, **marks(folder, visitor)}
    )
    threading.Thread(target=_end_with_parent, args=(folder,), daemon=True).start()
    return ray.wait()


def _end_with_parent(folder: Path) -> None:
    sys.stdin.read()
    # At once: nothing runs there, and Ray's own way to end waits half a minute.
    kill_marked(folder)


def _wait(address: str, visitor: str, process: subprocess.Popen[bytes], log: Path) -> None:
    import ray
    from ray.exceptions import RpcError

    client = None
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        # A head that is busy, or held up by a mesh, does not answer in time.
        with suppress(RpcError):
            client = client or ray._raylet.GcsClient(address=address)
            nodes = client.get_all_node_info(timeout=5).values()
            if any(node.labels.get("cai-node") == visitor for node in nodes):
                return
        time.sleep(POLL_SECONDS)
    said = log.read_text(errors="replace")[-TAIL_CHARACTERS:].strip()
    raise ClusterError(
        "CAI-CLUSTER-007", f"this machine could not join the Ray at {address}:\n{said}"
    )


if __name__ == "__main__":
    sys.exit(main())
