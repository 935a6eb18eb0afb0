"""Any program with an OpenAI-compatible server as an engine.

engine:
  type: command
  args:
    command: [my-server, --model, "{model}", --host, "{host}", --port, "{port}"]
    health: /health
"""

from __future__ import annotations

import ipaddress
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
from ray_serve_cai.errors import EngineError, PlanError

KNOWN_ARGS = frozenset({"command", "health", "gauges", "env", "open", "served_model_name"})
PLACEHOLDERS = ("model", "name", "host", "port")


class CommandEngine(LLMEngine):
    """`args`: `command` (words, in which `{model}`, `{name}`, `{host}` and `{port}` are filled
    in), `health` (the path that answers 200 when the server can be used), `gauges` (the names of
    the running and the waiting requests in its `/metrics`), `env`, and `open: true` to let a
    server without keys listen where other machines reach it."""

    own_server: ClassVar[bool] = True

    def __init__(self, args: Mapping[str, Any], model_path: Path) -> None:
        self._args, self._model_path = args, model_path
        self._name = str(args.get("served_model_name") or model_path.name)
        self._program = ServerProcess("the command")
        self._where: Listen | None = None
        self._front: HttpFront | None = None

    @classmethod
    def from_args(cls, args: Mapping[str, Any], model_path: Path) -> CommandEngine:
        check_args(args)
        return cls(args, model_path)

    def listen(self, where: Listen) -> None:
        self._where = where

    async def start(self, worker_id: int) -> EngineConfig:
        where = self._where
        if where is None:
            raise EngineError("CAI-ENGINE-002", "the command was given no address")
        self._refuse_open(where)
        gauges = self._args.get("gauges")
        self._front = HttpFront(
            where.host,
            where.port,
            health_path=self._args.get("health", "/health"),
            gauges=(gauges[0], gauges[1]) if gauges else None,
        )
        await self._program.start(self._command(where), self._args.get("env") or {})
        await self._program.ready(self._front)
        return await self._front.config(f"http://{where.host}:{where.port}")

    def generate(
        self, request: PreprocessedRequest, ctx: GenerateContext
    ) -> AsyncIterator[LLMEngineOutput]:
        raise EngineError("CAI-ENGINE-003", "a command takes requests at its own endpoint only")

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
        values = {
            "model": self._model_path,
            "name": self._name,
            "host": where.host,
            "port": where.port,
        }
        return [_filled(word, values) for word in self._args["command"]]

    def _refuse_open(self, where: Listen) -> None:
        reachable = not ipaddress.ip_address(where.host).is_loopback
        if where.api_keys and reachable and not self._args.get("open"):
            raise EngineError(
                "CAI-ENGINE-003",
                f"the gateway asks for keys, the command does not, and it would listen on "
                f"{where.host}",
                hint="Set `open: true` in engine.args if the network between the nodes is closed.",
            )


def check_args(args: Mapping[str, Any]) -> None:
    """Raise `PlanError` (CAI-PLAN-002) for arguments that are not those of the class."""
    unknown = sorted(set(args) - KNOWN_ARGS)
    if unknown:
        known = ", ".join(sorted(KNOWN_ARGS - {"served_model_name"}))
        raise PlanError("CAI-PLAN-002", f"engine.args.{unknown[0]}: a command takes {known}")
    command = args.get("command")
    if not (isinstance(command, list) and command and all(isinstance(w, str) for w in command)):
        raise PlanError("CAI-PLAN-002", "engine.args.command: must be a list of words")
    if not any("{port}" in word for word in command):
        raise PlanError("CAI-PLAN-002", "engine.args.command: no word has {port}")


def _filled(word: str, values: Mapping[str, object]) -> str:
    """Only these placeholders: a word may hold braces of its own, such as JSON."""
    for name in PLACEHOLDERS:
        word = word.replace(f"{{{name}}}", str(values[name]))
    return word
