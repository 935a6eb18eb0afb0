"""`python -m sglang.launch_server` without a GPU: takes SGLang's options (`srt/server_args.py`),
answers with the prompt, and speaks what the engine, the gateway and clients speak with SGLang."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from smg_grpc_proto import sglang_scheduler_pb2 as pb
from smg_grpc_proto import sglang_scheduler_pb2_grpc as pb_grpc
from smg_grpc_proto.generated import common_pb2

from ray_serve_cai.serving.servicer import SERVER_OPTIONS
from ray_serve_cai.serving.tokenizer_files import tokenizer_zip
from sglang.srt import server_args

SERVICE = "sglang.grpc.scheduler.SglangScheduler"
LENGTH = 512
# Where a test reads with which command line it was started, and with which environment.
RECORD = "SGLANG_STAND_IN_RECORD"


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="sglang serve", allow_abbrev=False)
    for name in server_args.FLAGS:
        parser.add_argument(name, action="store_true")
    for name in server_args.SWITCHES:
        if not name.startswith("--no-"):
            parser.add_argument(name, action=argparse.BooleanOptionalAction)
    for name in server_args.LISTS:
        parser.add_argument(name, nargs="*")
    for name in server_args.VALUES:
        parser.add_argument(name)
    return parser.parse_args(argv)


class Scheduler(pb_grpc.SglangSchedulerServicer):
    def __init__(self, options: argparse.Namespace) -> None:
        self._options, self._running = options, 0
        self._path = Path(options.model_path)
        self._known = json.loads((self._path / "config.json").read_text())

    async def Generate(self, request: Any, context: Any) -> AsyncIterator[Any]:
        self._running += 1
        try:
            prompt = list(request.tokenized.input_ids)
            limit = request.sampling_params.max_new_tokens or len(prompt)
            counts = {"prompt_tokens": len(prompt)}
            for done, token in enumerate(prompt[:limit], 1):
                await asyncio.sleep(0.005)
                chunk = pb.GenerateStreamChunk(token_ids=[token], completion_tokens=done, **counts)
                if request.stream:
                    yield pb.GenerateResponse(request_id=request.request_id, chunk=chunk)
            done = min(limit, len(prompt))
            yield pb.GenerateResponse(
                request_id=request.request_id,
                complete=pb.GenerateComplete(
                    output_ids=prompt[:limit],
                    finish_reason="length" if limit < len(prompt) else "stop",
                    completion_tokens=done,
                    **counts,
                ),
            )
        finally:
            self._running -= 1

    async def HealthCheck(self, request: Any, context: Any) -> Any:
        return pb.HealthCheckResponse(healthy=True, message="ok")

    async def GetModelInfo(self, request: Any, context: Any) -> Any:
        end = self._known.get("eos_token_id")
        return pb.GetModelInfoResponse(
            model_path=str(self._path),
            tokenizer_path=str(self._path),
            is_generation=True,
            served_model_name=self._options.served_model_name,
            max_context_length=LENGTH,
            max_req_input_len=LENGTH,
            vocab_size=self._known["vocab_size"],
            model_type=self._known["model_type"],
            architectures=self._known["architectures"],
            eos_token_ids=[end] if isinstance(end, int) else end,
        )

    async def GetServerInfo(self, request: Any, context: Any) -> Any:
        return pb.GetServerInfoResponse(server_type="grpc", active_requests=self._running)

    async def GetLoads(self, request: Any, context: Any) -> Any:
        load = pb.SchedulerLoad(num_running_reqs=self._running, num_total_reqs=self._running)
        return pb.GetLoadsResponse(dp_rank_count=1, loads=[load])

    async def GetTokenizer(self, request: Any, context: Any) -> AsyncIterator[Any]:
        import hashlib

        data = tokenizer_zip(self._path)
        yield common_pb2.GetTokenizerChunk(data=data, sha256=hashlib.sha256(data).hexdigest())


async def serve_grpc(options: argparse.Namespace) -> None:
    server = grpc.aio.server(futures.ThreadPoolExecutor(2), options=SERVER_OPTIONS)
    pb_grpc.add_SglangSchedulerServicer_to_server(Scheduler(options), server)
    checks = health.aio.HealthServicer()
    for name in ("", SERVICE):
        await checks.set(name, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    server.add_insecure_port(f"{options.host}:{options.port}")
    await server.start()
    await server.wait_for_termination()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    options: argparse.Namespace
    began = time.monotonic()

    def do_GET(self) -> None:
        name, path = self.options.served_model_name, self.path.split("?")[0]
        if path == "/health":
            self._send(b"", 503 if time.monotonic() - self.began < 0.5 else 200)
        elif path == "/v1/models":
            card = {"id": name, "object": "model", "owned_by": "sglang"}
            root = {"root": self.options.model_path, "max_model_len": LENGTH}
            self._json({"object": "list", "data": [card | root]})
        elif path in ("/get_server_info", "/server_info", "/get_model_info", "/model_info"):
            paths = {"model_path": self.options.model_path, "served_model_name": name}
            self._json(paths | {"tp_size": int(self.options.tp_size or 1), "is_generation": True})
        elif path == "/metrics" and self.options.enable_metrics:
            lines = ("num_running_reqs", 1), ("num_queue_reqs", 2)
            text = [f'sglang:{key}{{model_name="{name}"}} {value}.0' for key, value in lines]
            self._send("\n".join([*text, ""]).encode(), 200)
        else:
            self._json({"detail": "Not Found"}, 404)

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        chat = "chat" in self.path
        text = asked["messages"][-1]["content"] if chat else asked["prompt"]
        choice: dict[str, Any] = {"index": 0, "finish_reason": "stop"}
        choice |= {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        kind = "chat.completion" if chat else "text_completion"
        body = {"id": "1", "object": kind, "created": 0, "model": asked["model"]}
        counts = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        self._json(body | {"choices": [choice], "usage": counts})

    def log_message(self, *_: object) -> None:
        pass

    def _json(self, data: object, status: int = 200) -> None:
        self._send(json.dumps(data).encode(), status)

    def _send(self, data: bytes, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


if __name__ == "__main__":
    given = parse(sys.argv[1:])
    if record := os.environ.get(RECORD):
        Path(record).write_text(json.dumps({"argv": sys.argv[1:], "env": dict(os.environ)}))
    if given.smg_grpc_mode:
        asyncio.run(serve_grpc(given))
    else:
        Handler.options = given
        ThreadingHTTPServer((given.host, int(given.port)), Handler).serve_forever()
