"""SGLang as an engine that brings its own server: gRPC for the gateway, or OpenAI over HTTP."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from ray_serve_cai.engines.base import (
    EngineConfig,
    EngineLoad,
    GenerateContext,
    Listen,
    LLMEngine,
    LLMEngineOutput,
    PreprocessedRequest,
)
from ray_serve_cai.engines.http_front import HttpFront
from ray_serve_cai.engines.server_process import ServerProcess
from ray_serve_cai.engines.sglang_client import SchedulerFront
from ray_serve_cai.engines.sglang_config import check_args, command_line, known_args
from ray_serve_cai.errors import EngineError

GAUGES = ("sglang:num_running_reqs", "sglang:num_queue_reqs")
DEFAULT_ENV = {
    # The health of each second would otherwise be a request; the probe makes the token.
    "SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION": "0",
    # As for vLLM: a publisher at one fixed port, where a second replica could not start.
    "SMG_SGLANG_SERVICER_KV_EVENTS": "0",
    "SMG_SGLANG_SERVICER_DRAIN_SECS": "0",
}


class SGLangEngine(LLMEngine):
    """Runs `sglang.launch_server` as a process of the engine host's group; `args` are SGLang's
    server arguments. Over HTTP it asks for no key, and so listens on loopback only while the
    gateway has keys: SGLang knows one key, the gateway hands on those of all clients."""

    own_server: ClassVar[bool] = True
    transports: ClassVar[tuple[str, ...]] = ("grpc", "http")

    def __init__(self, args: Mapping[str, Any], model_path: Path) -> None:
        self._args, self._model_path = dict(args), model_path
        self._program = ServerProcess("SGLang")
        self._where: Listen | None = None
        self._front: SchedulerFront | HttpFront | None = None

    @classmethod
    def from_args(cls, args: Mapping[str, Any], model_path: Path) -> SGLangEngine:
        check_args({name: args[name] for name in args if name != "served_model_name"})
        return cls(args, model_path)

    def listen(self, where: Listen) -> None:
        self._where = where

    async def start(self, worker_id: int) -> EngineConfig:
        where = self._where
        if where is None:
            raise EngineError("CAI-ENGINE-002", "the SGLang engine was given no address")
        _refuse_open(where)
        if where.transport == "grpc":
            self._front = SchedulerFront(where.host, where.port)
        else:
            self._front = HttpFront(where.host, where.port, gauges=GAUGES)
        await self._program.start(self._command(where), {**DEFAULT_ENV, **os.environ})
        await self._program.ready(self._front)
        return await self._front.config(f"{where.transport}://{where.host}:{where.port}")

    def generate(
        self, request: PreprocessedRequest, ctx: GenerateContext
    ) -> AsyncIterator[LLMEngineOutput]:
        if not isinstance(self._front, SchedulerFront):
            raise EngineError("CAI-ENGINE-003", "token ids are taken on the grpc transport only")
        return self._front.generate(request, ctx)

    async def health(self) -> None:
        self._program.check()
        if self._front is not None:
            await self._front.health()

    async def probe(self) -> None:
        if self._front is not None:
            await self._front.probe()

    async def load(self) -> EngineLoad | None:
        return await self._front.load() if self._front is not None else None

    async def cleanup(self) -> None:
        await self._program.stop()
        front, self._front = self._front, None
        if front is not None:
            await front.close()

    def _command(self, where: Listen) -> list[str]:
        address = {"model_path": str(self._model_path), "host": where.host, "port": where.port}
        own = _grpc_args(where) if where.transport == "grpc" else {"enable_metrics": True}
        line = command_line({**address, **own, **self._args})
        return [sys.executable, "-m", "sglang.launch_server", *line]


def _grpc_args(where: Listen) -> dict[str, Any]:
    known = known_args()
    mode = "smg_grpc_mode" if "smg_grpc_mode" in known else "grpc_mode"
    args: dict[str, Any] = {mode: True}
    if "smg_grpc_mode" in known:
        # By default ports above this one, which may be taken or beyond the last (seen in 0.5.23).
        args["grpc_port"] = where.port
        args["smg_http_sidecar_port"] = _free_port(where.host)
    return args


def _free_port(host: str) -> int:
    with socket.socket() as free:
        free.bind((host, 0))
        port: int = free.getsockname()[1]
        return port


def _refuse_open(where: Listen) -> None:
    open_to_all = not ipaddress.ip_address(where.host).is_loopback
    if where.transport == "http" and where.api_keys and open_to_all:
        raise EngineError(
            "CAI-ENGINE-003",
            "the gateway asks for keys, and SGLang's HTTP server would listen without them on "
            f"{where.host}",
            hint="Use `transport: grpc`.",
        )
