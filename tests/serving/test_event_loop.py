from __future__ import annotations

import asyncio
import socket

import pytest

from ray_serve_cai.serving.event_loop import loop_factory


def test_other_engines_have_pythons() -> None:
    assert loop_factory("echo") is None


def test_vllms_sockets_do_not_wait_for_more_to_send() -> None:
    pytest.importorskip("uvloop")
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.bind(("127.0.0.1", 0))

    async def accepted() -> bool:
        found: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        async def take(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            taken = writer.get_extra_info("socket")
            found.set_result(bool(taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)))
            writer.close()

        async with await asyncio.start_server(take, sock=listening):
            _, writer = await asyncio.open_connection(*listening.getsockname())
            try:
                return await found
            finally:
                writer.close()

    with asyncio.Runner(loop_factory=loop_factory("vllm")) as runner:
        assert runner.run(accepted())
