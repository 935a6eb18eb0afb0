"""CPU by group of processes, on real small ones that bear the names of those that serve."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from support import until

from ray_serve_cai.bench.groups import of_cluster, of_server, threads_of_host
from ray_serve_cai.bench.meter import cpu_between, memory, read
from ray_serve_cai.providers.processes import marks

# Does as told on stdin: `burn` uses 0.3 s of CPU; `child` does so in a child that then ends.
# Under another title it does not find its own interpreter.
WORKER = f"""
import subprocess, sys, time
python = {sys.executable!r}
def burn():
    while time.process_time() < 0.3 + began:
        pass
for line in sys.stdin:
    began = time.process_time()
    if line == "burn\\n":
        burn()
    elif line == "child\\n":
        code = "import time\\nwhile time.process_time() < 0.3: pass"
        subprocess.run([python, "-c", code])
    print("done", flush=True)
"""
BURNT = pytest.approx(0.3, abs=0.15)


@contextmanager
def process(title: str, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """A worker under the title `title`."""
    made = subprocess.Popen(
        [title, "-c", WORKER],
        executable=sys.executable,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **(env or {})},
    )
    try:
        until(lambda: psutil.Process(made.pid).cmdline()[:1] == [title], 10, title)
        yield made
    finally:
        made.kill()
        made.communicate()


def tell(worker: subprocess.Popen[str], word: str) -> None:
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write(f"{word}\n")
    worker.stdin.flush()
    assert worker.stdout.readline() == "done\n"


def test_cpu_is_counted_by_group(tmp_path: Path) -> None:
    mark = marks(tmp_path, "head")
    processes = of_cluster(tmp_path, "demo", "org/tiny")
    ours, other = "cai.demo.org/tiny.r3", "cai.demo.org/tiny-2.r1"
    with (
        process("smg::router", mark) as gateway,
        process("VLLM::EngineCore", mark) as core,
        process(f"ray::ServeReplica:{ours}:Replica", mark),
        process(f"ray::ServeReplica:{other}:Replica", mark) as elsewhere,
        process("raylet", mark) as raylet,
        process("smg::router") as foreign,
    ):
        workers = (gateway, core, elsewhere, raylet, foreign)
        for worker in workers:
            tell(worker, "hello")
        before = read(processes)
        for worker in workers:
            tell(worker, "burn")
        tell(gateway, "child")
        after = read(processes)
    used = cpu_between(before, after)
    assert used["gateway"] == pytest.approx(0.6, abs=0.3), "its own and that of its ended child"
    assert [used[group] for group in ("engine core", "other models", "ray")] == [BURNT] * 3
    assert used["replica"] < 0.1
    assert set(used) == {"gateway", "engine core", "replica", "other models", "ray"}
    held = memory(after)
    assert all(size > 1 for size in held.values()), held


def test_processes_that_come_and_go_in_between() -> None:
    with process("server") as server:
        processes = of_server(server.pid)
        before = read(processes)
        tell(server, "child")
        after = read(processes)
        assert cpu_between(before, after)["engine front"] == BURNT
    gone = read(processes)
    assert gone == {}
    assert cpu_between(after, gone) == {}


def test_a_process_that_ended_does_not_count_twice() -> None:
    """What it had used before `before` is in its parent's count by then."""
    program = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {WORKER!r}], stdin=0, stdout=1)
child.wait()
print("reaped", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            processes = of_server(server.pid)
            tell(server, "burn")
            before = read(processes)
            (child,) = psutil.Process(server.pid).children()
            child.kill()
            assert server.stdout is not None
            assert server.stdout.readline() == "reaped\n"
            after = read(processes)
        finally:
            server.kill()
    assert len(before) == 2
    assert len(after) == 1
    assert cpu_between(before, after)["engine front"] == pytest.approx(0, abs=0.1)


def test_engine_core_below_a_server_and_the_hosts_threads(tmp_path: Path) -> None:
    mark = marks(tmp_path, "head") | {"OMP_NUM_THREADS": "3"}
    host = "python -P -m ray_serve_cai.serving.host"
    with process(host, mark), process("raylet", mark | {"OMP_NUM_THREADS": "7"}):
        assert threads_of_host(of_cluster(tmp_path, "demo", "tiny")) == {"OMP_NUM_THREADS": "3"}
    assert threads_of_host(of_cluster(tmp_path, "demo", "tiny")) == {}
