"""Which process does what: the groups under which CPU and memory are reported.

A process belongs to the first group whose pattern its title matches, else to its parent's. The
titles are those that vLLM, SGLang, SMG and Ray give themselves.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil

from ray_serve_cai.bench.load import Processes
from ray_serve_cai.providers.processes import marked

ENGINE_CORE = "engine core"
FRONT = "engine front"
HOST = "engine host"
OTHERS = "other models"
RAY = "ray"
LOAD_GENERATOR = "load generator"

# What neither carries nor supervises the measured model's tokens, and the engine itself.
OUT_OF_PATH = frozenset({ENGINE_CORE, OTHERS, RAY, LOAD_GENERATOR})

_THREADS = "OMP_NUM_THREADS"
_PATTERNS = {
    ENGINE_CORE: r"^(VLLM::|sglang::scheduler)",
    "gateway": r"^smg|ray_serve_cai\.serving\.gateway_process",
    "proxy": r"^ray::(ProxyActor|HAProxy)|haproxy",
    HOST: r"ray_serve_cai\.serving\.host",
    "replica": r"^ray::ServeReplica:",
}


def of_cluster(folder: Path, cluster: str, model: str) -> Processes:
    """Those of a cluster that run on this machine; replicas of other models are set apart."""
    # `serving.applications` names them so; importing it would bring Ray into the load generator.
    own = re.escape(f"cai.{cluster}.{model}.r")
    others = {OTHERS: rf"^ray::ServeReplica:(?!{own}\d)"}
    return partial(_found, lambda: marked(folder), others | _PATTERNS, RAY)


def of_ray(folder: Path) -> Processes:
    """Those of a Ray whose processes carry the mark of `folder`."""
    return partial(_found, lambda: marked(folder), _PATTERNS, RAY)


def of_server(pid: int) -> Processes:
    """A server's process and all that descend from it."""
    return partial(_found, lambda: _family(pid), {ENGINE_CORE: _PATTERNS[ENGINE_CORE]}, FRONT)


def threads_of_host(processes: Processes) -> dict[str, str]:
    """How many threads the engine host's environment allows, as an environment: Ray sets it."""
    for process, group in processes().items():
        with suppress(psutil.Error):
            if group == HOST and (threads := process.environ().get(_THREADS)):
                return {_THREADS: threads}
    return {}


def grouped(
    titles: Mapping[psutil.Process, tuple[int, str]], patterns: Mapping[str, str], default: str
) -> dict[psutil.Process, str]:
    """Each process's group, from its parent's id and its title."""
    by_pid = {process.pid: process for process in titles}

    def group(process: psutil.Process) -> str:
        parent, title = titles[process]
        inherited = group(by_pid[parent]) if parent in by_pid else default
        if inherited == OTHERS:
            return OTHERS
        matching = (name for name, pattern in patterns.items() if re.search(pattern, title))
        return next(matching, inherited)

    return {process: group(process) for process in titles}


def _found(
    processes: Callable[[], Iterable[psutil.Process]], patterns: Mapping[str, str], default: str
) -> dict[psutil.Process, str]:
    titles = {}
    for process in processes():
        with suppress(psutil.NoSuchProcess):
            titles[process] = (process.ppid(), " ".join(process.cmdline()))
    return grouped(titles, patterns, default)


def _family(pid: int) -> list[psutil.Process]:
    try:
        server = psutil.Process(pid)
        return [server, *server.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
