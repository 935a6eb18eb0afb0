"""Built-in callback: files from elsewhere, on every node, before the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from ray_serve_cai.callbacks.base import CallbackBase
from ray_serve_cai.errors import SpecError
from ray_serve_cai.storage.place import place

PARALLEL = 4


class CloudDownloader(CallbackBase):
    """Copies each `(remote, local)` of `paths` to every node of the replica, in parallel.

    `remote` is a path or a URL that `cai storage` reads (`s3://`, `gs://`, `abfss://`, …), a file
    or a folder; `local` is what it becomes. What is there already is not brought again.
    `storage_options` are those of the remote's store. Raises `StorageError` that names the object.
    """

    def __init__(
        self,
        *,
        paths: Sequence[Sequence[str]],
        storage_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.paths = [_pair(pair) for pair in paths]
        locals_ = [local for _, local in self.paths]
        if len(set(locals_)) < len(locals_):
            raise SpecError("CAI-SPEC-004", "paths: two of them have the same local path")
        self.storage_options = storage_options

    def on_before_download_model_files_distributed(self) -> None:
        bring = partial(place, options=self.storage_options)
        with ThreadPoolExecutor(PARALLEL, thread_name_prefix="cloud") as pool:
            jobs = [pool.submit(bring, remote, local) for remote, local in self.paths]
            self.ctx.custom_data["cloud_downloader"] = [str(job.result()) for job in jobs]


def _pair(pair: Sequence[str]) -> tuple[str, Path]:
    if isinstance(pair, str) or len(pair) != 2 or not all(isinstance(it, str) for it in pair):
        raise SpecError("CAI-SPEC-004", f"paths: each is a pair of remote and local, not {pair!r}")
    return pair[0], Path(pair[1]).expanduser()
