"""Built-in callback: files from elsewhere, on every node, before the model."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ray_serve_cai.callbacks.base import CallbackBase
from ray_serve_cai.errors import SpecError
from ray_serve_cai.storage.mirror import mirror

PARALLEL = 8


class CloudDownloader(CallbackBase):
    """Copies each `(remote, local)` of `paths` to every node of the replica, in parallel.

    `remote` is a local path or a URL that fsspec reads (`s3://`, `gs://`, `abfss://`, …), a file
    or a folder; `local` is what it becomes. Raises `StorageError` that names the object.
    """

    def __init__(self, *, paths: Sequence[Sequence[str]], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.paths = [_pair(pair) for pair in paths]

    def on_before_download_model_files_distributed(self) -> None:
        with ThreadPoolExecutor(PARALLEL, thread_name_prefix="cloud") as pool:
            jobs = [pool.submit(mirror, remote, local) for remote, local in self.paths]
            self.ctx.custom_data["cloud_downloader"] = [str(job.result()) for job in jobs]


def _pair(pair: Sequence[str]) -> tuple[str, Path]:
    if isinstance(pair, str) or len(pair) != 2 or not all(isinstance(it, str) for it in pair):
        raise SpecError("CAI-SPEC-004", f"paths: each is a pair of remote and local, not {pair!r}")
    return pair[0], Path(pair[1]).expanduser()
