"""vLLM as an engine that brings its own server: gRPC for the gateway, or OpenAI over HTTP."""

from __future__ import annotations

import argparse
import asyncio
import copy
import logging
import os
import signal
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
from ray_serve_cai.engines.vllm_args import parsed
from ray_serve_cai.engines.vllm_client import GrpcFront
from ray_serve_cai.engines.vllm_front import SERVICER, servicer
from ray_serve_cai.errors import EngineError

log = logging.getLogger(__name__)

POLL_SECONDS = 0.1
STOP_SECONDS = 20.0
DEFAULT_ENV = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    # The servicer would publish KV events on every interface at one fixed port, so that a second
    # replica on the machine could not start.
    "SMG_VLLM_SERVICER_KV_EVENTS": "0",
    "SMG_VLLM_SERVICER_DRAIN_SECS": "0",
    # In GiB, on CPUs only: vLLM would otherwise ask for most of the machine's memory.
    "VLLM_CPU_KVCACHE_SPACE": "1",
}
GAUGES = ("vllm:num_requests_running", "vllm:num_requests_waiting")


class VLLMEngine(LLMEngine):
    """Runs vLLM's server in this process's event loop; `args` are vLLM's engine arguments."""

    own_server: ClassVar[bool] = True

    def __init__(self, args: Mapping[str, Any], model_path: Path) -> None:
        self._args = dict(args)
        self._model_path = model_path
        self._where: Listen | None = None
        self._server: asyncio.Task[Any] | None = None
        self._front: GrpcFront | HttpFront | None = None

    @classmethod
    def from_args(cls, args: Mapping[str, Any], model_path: Path) -> VLLMEngine:
        return cls(args, model_path)

    def listen(self, where: Listen) -> None:
        self._where = where

    async def start(self, worker_id: int) -> EngineConfig:
        where = self._where
        if where is None:
            raise EngineError("CAI-ENGINE-002", "the vLLM engine was given no address")
        _set_environment(where)
        log.info("starting vLLM's %s server", where.transport)
        if where.transport == "grpc":
            self._front = GrpcFront(where.host, where.port)
            self._server = asyncio.create_task(_serve_grpc(self._parse_grpc(where)))
        else:
            self._front = HttpFront(where.host, where.port, where.api_keys, gauges=GAUGES)
            self._server = asyncio.create_task(_serve_http(self._parse_http(where)))
        await self._ready(self._front)
        return await self._front.config(f"{where.transport}://{where.host}:{where.port}")

    def generate(
        self, request: PreprocessedRequest, ctx: GenerateContext
    ) -> AsyncIterator[LLMEngineOutput]:
        if not isinstance(self._front, GrpcFront):
            raise EngineError("CAI-ENGINE-003", "token ids are taken on the grpc transport only")
        return self._front.generate(request, ctx)

    async def health(self) -> None:
        if self._server is None or self._server.done():
            raise EngineError("CAI-MODEL-002", "vLLM's server has ended")
        if self._front is not None:
            await self._front.health()

    async def probe(self) -> None:
        if self._front is not None:
            await self._front.probe()

    async def load(self) -> EngineLoad | None:
        return await self._front.load() if self._front is not None else None

    async def cleanup(self) -> None:
        server, self._server = self._server, None
        if server is not None and not server.done():
            # vLLM's servers stop on SIGTERM, for which they install handlers in this loop.
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.wait([server], timeout=STOP_SECONDS)
        if self._front is not None:
            await self._front.close()
            self._front = None

    async def _ready(self, front: GrpcFront | HttpFront) -> None:
        assert self._server is not None
        while not await front.answers():
            if self._server.done():
                error = self._server.exception() if not self._server.cancelled() else None
                raise EngineError("CAI-MODEL-002", str(error or "vLLM ended while starting"))
            await asyncio.sleep(POLL_SECONDS)

    def _parse_grpc(self, where: Listen) -> argparse.Namespace:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.utils.argparse_utils import FlexibleArgumentParser

        parser = FlexibleArgumentParser()
        parser.add_argument("--host", type=str)
        parser.add_argument("--port", type=int)
        return self._parse(AsyncEngineArgs.add_cli_args(parser), where)

    def _parse_http(self, where: Listen) -> argparse.Namespace:
        from vllm.entrypoints.launchers.cli_args import (
            make_arg_parser,
            validate_parsed_serve_args,
        )
        from vllm.utils.argparse_utils import FlexibleArgumentParser

        args = self._parse(make_arg_parser(FlexibleArgumentParser()), where)
        validate_parsed_serve_args(args)
        # Set here, so that no key passes through a command line; vLLM masks it where it logs.
        args.api_key = list(where.api_keys) or None
        return args

    def _parse(self, parser: argparse.ArgumentParser, where: Listen) -> argparse.Namespace:
        given = {"model": str(self._model_path), "host": where.host, "port": where.port}

        def refuse(message: str) -> None:
            raise EngineError("CAI-PLAN-002", f"vLLM refuses its arguments: {message}")

        parser.error = refuse  # type: ignore[assignment,method-assign]
        return parsed(parser, {**given, **self._args})


def _set_environment(where: Listen) -> None:
    for name, value in DEFAULT_ENV.items():
        os.environ.setdefault(name, value)
    # vLLM forks on GPUs by default, from a process that has threads by now: the child hangs.
    os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
    if where.transport == "grpc":
        choice = servicer()
        log.info("the gRPC front: %s", choice.reason)
        os.environ[SERVICER] = choice.front


async def _serve_grpc(args: argparse.Namespace) -> None:
    """Serve with the chosen servicer, or with the Python one where the Rust one does not fit."""
    # The order matters: importing the package first lets it take over the launcher's serve_grpc.
    from vllm.entrypoints.launchers import grpc_server

    again = copy.deepcopy(args)
    try:
        await grpc_server.serve_grpc(args)
    except (AttributeError, ImportError, TypeError) as error:
        # What versions that do not match raise before an engine is there.
        if os.environ.get(SERVICER) != "rust":
            raise
        log.warning("the Rust servicer does not start (%s); the Python one takes over", error)
        os.environ[SERVICER] = "python"
        await _serve_grpc(again)
    except SystemExit as done:
        if done.code:
            raise EngineError("CAI-MODEL-002", "vLLM's engine ended while starting") from done


async def _serve_http(args: argparse.Namespace) -> None:
    from vllm.entrypoints.launchers.api_server.entry import run_server

    await run_server(args)
