"""Where the processes of a replica work: temporary folder, environment, log."""

from __future__ import annotations

import asyncio
import getpass
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ray_serve_cai.cluster.node import TEMP_VARIABLE
from ray_serve_cai.serving.code import unpack
from ray_serve_cai.serving.job import ReplicaJob, log_name
from ray_serve_cai.serving.lifeline import WORKSPACE_VARIABLE


@dataclass(frozen=True)
class Workspace:
    """A folder of its own with the project's code in it, and the log that all write to."""

    folder: Path
    environment: dict[str, str]
    log_path: str

    @classmethod
    async def make(cls, job: ReplicaJob, replica: str) -> Workspace:
        return await asyncio.to_thread(_make, job, replica)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def _make(job: ReplicaJob, replica: str) -> Workspace:
    # In the node's own temporary folder, which goes with the node whatever happens.
    base = os.environ.get(TEMP_VARIABLE) or None
    folder = Path(tempfile.mkdtemp(prefix="h-", dir=base))
    try:
        unpack(job.code, folder / "code")
        _link_kernel_cache(folder)
        logs = Path(job.log_folder)
        logs.mkdir(parents=True, exist_ok=True)
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    log_path = logs / log_name(job.model, job.revision, replica)
    return Workspace(folder, _environment(job, folder), str(log_path))


def _environment(job: ReplicaJob, folder: Path) -> dict[str, str]:
    environment = {**os.environ, WORKSPACE_VARIABLE: str(folder)}
    for name in ("TMPDIR", "VLLM_RPC_BASE_PATH", "SMG_ZMQ_SOCKET_DIR"):
        environment[name] = str(folder)
    # vLLM shows its process titles and logs as if on a terminal unless told otherwise.
    environment.setdefault("NO_COLOR", "1")
    environment["PYTHONUNBUFFERED"] = "1"
    if not job.gpu:
        # Ray leaves the variable as it is for an actor without GPUs.
        environment["CUDA_VISIBLE_DEVICES"] = ""
    # The code as it was at the deploy comes before the project, which may have changed since.
    paths = [str(folder / "code"), job.project, environment.get("PYTHONPATH")]
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    return environment


def _link_kernel_cache(folder: Path) -> None:
    """Let torch's compiled kernels and headers outlive the process, where torch itself keeps them.

    Torch looks below its temporary folder (`torch._inductor.runtime.cache_dir_utils`), for headers
    even where TORCHINDUCTOR_CACHE_DIR names another place; in a fresh folder each start would
    compile for some 15 s before its first token.
    """
    try:
        name = f"torchinductor_{getpass.getuser()}"
    except (KeyError, OSError):
        name = f"torchinductor_uid_{os.getuid()}"
    cache = Path(tempfile.gettempdir()) / name
    cache.mkdir(mode=0o700, exist_ok=True)
    (folder / name).symlink_to(cache)
