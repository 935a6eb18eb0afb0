"""One download from S3, one way, in a process of its own; what it took goes to standard output.

`python -m ray_serve_cai.bench.storage_ways WAY URL FOLDER`, for `storage`, with the store named by
the `AWS_*` variables. What a way imports is loaded before its clock starts.
"""

from __future__ import annotations

import http.client
import json
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

PIECE_BYTES = 8 * 2**20
THREADS = 16
_BUFFER_BYTES = 2**20

# Seconds of the download, and bytes that it moved where it counts them.
Taken = tuple[float, int | None]


def main() -> None:
    way, url, folder = sys.argv[1:4]
    seconds, moved = WAYS[way](url, Path(folder))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"call_seconds": seconds, "moved": moved, "peak_bytes": peak}))


def _fill(_: str, source: Path) -> Taken:
    """Not a way to read: puts the folder's folders into a new bucket, each object in one part."""
    s3 = _client()
    s3.create_bucket(Bucket="bench")
    began = time.perf_counter()
    paths = [path for path in source.rglob("*") if path.is_file()]

    def put(path: Path) -> None:
        with path.open("rb") as body:
            s3.put_object(Bucket="bench", Key=str(path.relative_to(source)), Body=body)

    _in_threads(put, paths)
    return time.perf_counter() - began, sum(path.stat().st_size for path in paths)


def _mirror(url: str, folder: Path) -> Taken:
    import s3fs  # type: ignore[import-untyped]  # noqa: F401

    import ray_serve_cai.storage.signed  # noqa: F401
    from ray_serve_cai.storage.mirror import mirror
    from ray_serve_cai.storage.watch import Watch

    watch = Watch()
    seconds = _timed(lambda: mirror(url, folder, watch=watch))
    return seconds, watch.moved


def _killed_mirror(url: str, folder: Path) -> Taken:
    """Ends with SIGKILL when half of the bytes have come; the count is printed just before."""
    from ray_serve_cai.storage.mirror import mirror
    from ray_serve_cai.storage.watch import Watch

    watch = Watch()

    def end() -> None:
        while not watch.size or watch.moved < watch.size / 2:
            time.sleep(0.001)
        print(json.dumps({"moved": watch.moved}), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=end, daemon=True).start()
    mirror(url, folder, watch=watch)
    raise RuntimeError("the download was at its end before it could be killed")


def _fsspec(url: str, folder: Path) -> Taken:
    import fsspec
    import s3fs  # noqa: F401

    def get() -> None:
        fsspec.filesystem("s3").get(f"{url}/", f"{folder}/", recursive=True)

    return _timed(get), None


def _ray(url: str, folder: Path) -> Taken:
    """Ray calls the hook of a callback so; the imports are those that the hook makes."""
    import ray.llm._internal.common.utils.cloud_utils  # noqa: F401
    from ray.llm._internal.common.callbacks.cloud_downloader import CloudDownloader

    callback = CloudDownloader(paths=[(url, str(folder))], llm_config=None)
    hook = "on_before_download_model_files_distributed"
    return _timed(lambda: callback.run_callback_sync(hook)), None


def _bare(url: str, _: Path) -> Taken:
    """Only reads, into a buffer: signed and listed before the clock starts, nothing is written."""
    s3 = _client()
    parts = urlsplit(url)
    pieces = []
    pages = s3.get_paginator("list_objects_v2")
    for page in pages.paginate(Bucket=parts.netloc, Prefix=parts.path.strip("/") + "/"):
        for each in page["Contents"]:
            what = {"Bucket": parts.netloc, "Key": each["Key"]}
            signed = s3.generate_presigned_url("get_object", Params=what)
            for start in range(0, each["Size"], PIECE_BYTES):
                pieces.append((signed, start, min(start + PIECE_BYTES, each["Size"])))
    own = threading.local()

    def read(piece: tuple[str, int, int]) -> None:
        at, start, stop = urlsplit(piece[0]), piece[1], piece[2]
        if not hasattr(own, "connection"):
            own.connection = http.client.HTTPConnection(at.netloc)
            own.buffer = bytearray(_BUFFER_BYTES)
        wanted = {"Range": f"bytes={start}-{stop - 1}"}
        own.connection.request("GET", f"{at.path}?{at.query}", headers=wanted)
        answer = own.connection.getresponse()
        read = 0
        while count := answer.readinto(own.buffer):
            read += count
        if read != stop - start:
            raise RuntimeError(f"{read} bytes came instead of {stop - start}")

    moved = sum(stop - start for _, start, stop in pieces)
    return _timed(lambda: _in_threads(read, pieces)), moved


WAYS: dict[str, Callable[[str, Path], Taken]] = {
    "fill": _fill,
    "mirror": _mirror,
    "killed mirror": _killed_mirror,
    "fsspec": _fsspec,
    "ray": _ray,
    "bare": _bare,
}


def _client() -> Any:
    import botocore.config
    import botocore.session

    config = botocore.config.Config(signature_version="s3v4", s3={"addressing_style": "path"})
    return botocore.session.get_session().create_client("s3", config=config)


def _in_threads(step: Callable[[Any], None], jobs: list[Any]) -> None:
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in pool.map(step, jobs):
            pass


def _timed(step: Callable[[], object]) -> float:
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
