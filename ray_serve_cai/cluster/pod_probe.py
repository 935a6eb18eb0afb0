"""A pod that tells what it is like: `python -m ray_serve_cai.cluster.pod_probe FOLDER`.

For `cai doctor --cloudera --start`. Writes `FOLDER/probe.json`, greets whoever connects to its
port, and ends with `PROBE_STATUS` once `FOLDER/end` is there, or by itself after `LIFE_SECONDS`.
"""

from __future__ import annotations

import json
import os
import shutil
import socketserver
import sys
import threading
import time
from pathlib import Path

from ray_serve_cai.cluster.node import own_address
from ray_serve_cai.cluster.pod import shared_memory
from ray_serve_cai.files import replace_text
from ray_serve_cai.plan.nodes import ENGINE_VARIABLE

PROBE_STATUS = 3
LIFE_SECONDS = 300.0
POLL_SECONDS = 0.2
GREETING = b"cai\n"
ROW = "probe.json"
END = "end"


def main() -> None:
    folder = Path(sys.argv[1])
    with socketserver.ThreadingTCPServer(("", 0), _Greeter) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        _write(folder, server.server_address[1])
        deadline = time.monotonic() + LIFE_SECONDS
        while not (folder / END).exists() and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
    sys.exit(PROBE_STATUS)


def _write(folder: Path, port: int) -> None:
    row = {
        "engine": os.environ.get(ENGINE_VARIABLE, ""),
        "address": own_address(),
        "port": port,
        # Names alone: values can be keys.
        "variables": sorted(os.environ),
        "type": os.environ.get("CDSW_ENGINE_TYPE", ""),
        "millicores": os.environ.get("CDSW_CPU_MILLICORES", ""),
        "cpus": os.cpu_count(),
        "shared_memory": shared_memory(),
        "python": f"{sys.executable} {sys.version.split()[0]}",
        "ray": shutil.which("ray") or "",
    }
    replace_text(folder / ROW, json.dumps(row))


class _Greeter(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        """The server speaks first, as NCCL's and torch's rendezvous do."""
        self.request.sendall(GREETING)


if __name__ == "__main__":
    main()
