"""Clusters and models from asynchronous Python: `RayBackend`, and functions over one of them.

    from ray_serve_cai import ray_backend

    await ray_backend.initialize_ray()
    await ray_backend.start_model({"model": "builtin:demo"}, engine="echo")
    print((await ray_backend.get_status())["endpoint"])

Each step is a `cai` command in a process of its own: a process can be a driver of one Ray only,
and the caller's may have one already; connecting also changes environment variables and signal
handlers, which are the caller's. Every expected failure is the `CaiError` that the command met.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from ray_serve_cai.cai_process import run_cai
from ray_serve_cai.engines.config import engine_name
from ray_serve_cai.engines.registry import EngineInfo, get_registry, name_in_spec
from ray_serve_cai.errors import ClusterError, ModelError, SpecError
from ray_serve_cai.providers.local import LocalProvider

Config = Mapping[str, Any]

CLUSTER_SECONDS = 600.0
MODEL_SECONDS = 1800.0
DEFAULT_NAME = "backend"


class RayBackend:
    """One cluster and the models on it. `default_engine` is taken where neither the call nor the
    configuration names an engine; without it, the registry's default.

    Calls may be cancelled: what such a call has begun is undone first.
    """

    def __init__(self, default_engine: str | None = None) -> None:
        self.default_engine = default_engine
        self._cluster: str | None = None
        self._url = ""

    @property
    def cluster(self) -> str:
        """The cluster's name; CAI-CLUSTER-002 before `initialize_ray`."""
        if self._cluster is None:
            raise ClusterError(
                "CAI-CLUSTER-002",
                "no cluster was chosen",
                hint="Await `initialize_ray()` first.",
            )
        return self._cluster

    async def initialize_ray(
        self,
        cluster: str | os.PathLike[str] | Config | None = None,
        *,
        address: str | None = None,
        timeout: float = CLUSTER_SECONDS,
    ) -> str:
        """Choose the cluster, bring it up where it is not, and return its gateway's URL.

        `cluster` is the name of one that is up, the path of a Cluster spec, or such a spec as a
        mapping; by default it is $CAI_CLUSTER. Without any, the cluster `backend` is made: on the
        Ray at `address` (`host:port`, or `auto` for the one on this machine), else on the Ray that
        this program is connected to, else on a node of its own here. `timeout` is in seconds.
        """
        if cluster is None and address is None:
            cluster = os.environ.get("CAI_CLUSTER") or None
        if isinstance(cluster, str) and not _is_path(cluster):
            done = await run_cai("cluster", "wait", cluster, "--timeout", f"{timeout:g}s")
        else:
            if cluster is None:
                cluster = _default_cluster(address or _own_ray())
            elif isinstance(cluster, Mapping):
                cluster = {"kind": "Cluster", **cluster}
            path, given = _spec(cluster)
            done = await run_cai("cluster", "up", path, "--timeout", f"{timeout:g}s", given=given)
        self._cluster, self._url = done["name"], done["gateway_url"]
        return self._url

    async def start_model(
        self,
        config: Config | str | os.PathLike[str],
        engine: str | None = None,
        *,
        wait: bool = True,
        timeout: float = MODEL_SECONDS,
    ) -> dict[str, Any]:
        """Deploy a model and return its row, as `get_status` shows it.

        `config` is a flat configuration (`engines.config`), or the path of a Model spec. The
        engine is `engine`, else the configuration's, else `default_engine`, else the registry's
        default. With `wait` the model answers when this returns; after a failure or `timeout`
        (seconds) the revision before it serves.
        """
        waiting = ["--timeout", f"{timeout:g}s", *([] if wait else ["--no-wait"])]
        if isinstance(config, Mapping):
            config, named = self.document(config, engine), []
        else:
            info = get_registry().get(engine) if engine else None
            named = ["--set", f"engine.type={name_in_spec(info)}"] if info else []
        path, given = _spec(config)
        done = await self._model("deploy", path, *waiting, *named, given=given)
        if "name" not in done:
            raise SpecError("CAI-SPEC-007", f"{path}: one model at a time")
        return await self.model_status(done["name"])

    def document(self, config: Config, engine: str | None = None) -> dict[str, Any]:
        """The `kind: Model` document of a configuration, checked by the engine's own builder.

        Raises `EngineError` for an unknown engine, and what the builder raises.
        """
        info = self.pick_engine(config, engine)
        builder = info.config_builder()
        builder.validate_config(config)
        factory = info.deployment_factory(name_in_spec(info))
        return factory.create_deployment(config, builder.build_config(config))

    def pick_engine(self, config: Config, engine: str | None = None) -> EngineInfo:
        """The engine of a call: explicit, of the configuration, the backend's, the registry's."""
        return get_registry().pick(engine, engine_name(config), self.default_engine)

    async def wait_for_ready(
        self, model: str | None = None, timeout: float = MODEL_SECONDS
    ) -> str:
        """Return the endpoint when the model answers, or every model when none is named.

        Raises `ModelError`: CAI-CLUSTER-006 after `timeout` seconds, CAI-MODEL-002 when it failed,
        CAI-MODEL-001 when there is none.
        """
        names = [model] if model else [row["name"] for row in await self._rows()]
        if not names:
            raise ModelError("CAI-MODEL-001", f'cluster "{self.cluster}" has no model')
        deadline = time.monotonic() + timeout
        for name in names:
            left = max(1.0, deadline - time.monotonic())
            await self._model("wait", name, "--timeout", f"{left:g}s")
        return f"{self._url}/v1"

    async def stop_model(self, model: str | None = None) -> bool:
        """Remove the model, or the only one there is; False when there was nothing to remove.

        Raises `ModelError` (CAI-MODEL-001) when there are several and none is named.
        """
        if model is None:
            names = [row["name"] for row in await self._rows()]
            if len(names) > 1:
                raise ModelError(
                    "CAI-MODEL-001",
                    f"there are several models: {', '.join(names)}",
                    hint="Name one of them.",
                )
            if not names:
                return False
            (model,) = names
        return bool((await self._model("delete", model, "--yes"))["actions"])

    async def get_status(self) -> dict[str, Any]:
        """The row of `cai cluster status`, with `models`, the rows of `cai model list`, and
        `endpoint`, which ends in `/v1`."""
        found = await run_cai("cluster", "status", self.cluster)
        found.pop("schema")
        return {
            **found,
            "endpoint": f"{found['gateway_url']}/v1" if found["gateway_url"] else None,
            "models": await self._rows(),
        }

    async def model_status(self, model: str) -> dict[str, Any]:
        """The row of one model; CAI-MODEL-001 when there is none of that name."""
        row: dict[str, Any] = (await self._model("status", model))["models"][0]
        return row

    async def shutdown(self) -> None:
        """Take the cluster down with its models; on an existing Ray only what is ours."""
        await run_cai("cluster", "down", self.cluster, "--yes")
        self._cluster, self._url = None, ""

    async def _rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = (await self._model("list"))["models"]
        return rows

    async def _model(self, *words: str, given: str | None = None) -> dict[str, Any]:
        return await run_cai("model", *words, "--cluster", self.cluster, given=given)


@cache
def default_backend() -> RayBackend:
    """The one that the functions of this module use."""
    return RayBackend()


async def initialize_ray(*args: Any, **options: Any) -> str:
    """`RayBackend.initialize_ray` of the default backend."""
    return await default_backend().initialize_ray(*args, **options)


async def start_model(
    config: Config | str | os.PathLike[str], engine: str | None = None, **options: Any
) -> dict[str, Any]:
    """`RayBackend.start_model` of the default backend; `initialize_ray()` where no cluster was
    chosen."""
    backend = default_backend()
    if backend._cluster is None:
        await backend.initialize_ray()
    return await backend.start_model(config, engine, **options)


async def wait_for_ready(model: str | None = None, timeout: float = MODEL_SECONDS) -> str:
    """`RayBackend.wait_for_ready` of the default backend."""
    return await default_backend().wait_for_ready(model, timeout)


async def stop_model(model: str | None = None) -> bool:
    """`RayBackend.stop_model` of the default backend."""
    return await default_backend().stop_model(model)


async def get_status() -> dict[str, Any]:
    """`RayBackend.get_status` of the default backend."""
    return await default_backend().get_status()


async def shutdown() -> None:
    """`RayBackend.shutdown` of the default backend."""
    await default_backend().shutdown()


def _spec(spec: Config | str | os.PathLike[str]) -> tuple[str, str | None]:
    """What names the spec on a command line, and what to give the command on stdin."""
    if not isinstance(spec, Mapping):
        return os.fspath(spec), None
    try:
        return "-", yaml.safe_dump(dict(spec), sort_keys=False)
    except yaml.YAMLError as error:
        raise SpecError(
            "CAI-SPEC-004", f"not all of it is plain data: {error.args[-1]!r}"
        ) from error


def _default_cluster(address: str | None) -> dict[str, Any]:
    spec = {"kind": "Cluster", "name": DEFAULT_NAME, "gateway": {"port": "auto"}}
    if address:
        return {**spec, "provider": {"type": "existing", "address": address}}
    machine = LocalProvider().machine()
    return {
        **spec,
        "provider": {"type": "local"},
        "head": {"cpu": machine.cpus, "gpu": machine.gpus},
        "ray": {"port": "auto"},
    }


def _own_ray() -> str | None:
    """Where the Ray is that the caller has connected to, if it has; Ray is not imported for it."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return None
    return str(ray.get_runtime_context().gcs_address)


def _is_path(text: str) -> bool:
    return os.sep in text or Path(text).suffix in (".yaml", ".yml")
