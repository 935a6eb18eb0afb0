"""One deadline for all stages of a shutdown, in which each has its turn."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from ray_serve_cai.cluster.ports import free_port
from ray_serve_cai.engines.base import EngineLoad
from ray_serve_cai.engines.echo import EchoEngine
from ray_serve_cai.serving.in_flight import connections, in_flight
from ray_serve_cai.serving.shutdown import Shutdown, Stage


def test_stages() -> None:
    stages: list[Stage] = []
    turns: list[str] = []

    async def hangs() -> None:
        await asyncio.sleep(60)

    async def fails() -> None:
        raise RuntimeError("no luck")

    async def works(name: str) -> None:
        turns.append(name)

    async def run() -> None:
        shutdown = Shutdown(2.0, stages.append)
        await shutdown.stage("in-flight", hangs())
        await shutdown.stage("drain", fails())
        await shutdown.stage("cleanup", hangs())
        await shutdown.stage("shutdown hooks", works("hooks"))

    begun = time.monotonic()
    asyncio.run(run())
    assert time.monotonic() - begun < 2.5
    assert [stage.outcome for stage in stages] == ["cut off", "failed", "cut off", "done"]
    # What later stages keep is theirs.
    assert stages[0].seconds == pytest.approx(1.2, abs=0.3)
    assert stages[2].seconds >= 0.4
    assert str(stages[1]).endswith("RuntimeError: no luck")
    assert turns == ["hooks"]


def test_time_counts_from_the_begin() -> None:
    stages: list[Stage] = []
    shutdown = Shutdown(60, stages.append, begun=time.monotonic() - 41)
    asyncio.run(asyncio.wait_for(shutdown.stage("in-flight", asyncio.sleep(30)), 5))
    assert [stage.outcome for stage in stages] == ["cut off"]


def test_time_out_of_the_work_itself_is_a_failure() -> None:
    stages: list[Stage] = []

    async def gives_up() -> None:
        raise TimeoutError("the store does not answer")

    asyncio.run(Shutdown(10, stages.append).stage("drain", gives_up()))
    assert (stages[0].outcome, stages[0].message) == (
        "failed",
        "TimeoutError: the store does not answer",
    )


def test_work_that_meets_a_cancelled_task_has_failed() -> None:
    """Shutting down goes on."""
    stages: list[Stage] = []

    async def awaits_what_it_ended() -> None:
        task = asyncio.create_task(asyncio.sleep(60))
        task.cancel()
        await task

    asyncio.run(Shutdown(10, stages.append).stage("drain", awaits_what_it_ended()))
    assert [stage.outcome for stage in stages] == ["failed"]


class CannotTell(EchoEngine):
    async def load(self) -> EngineLoad | None:  # type: ignore[override]
        return None


def test_engine_that_cannot_tell_is_waited_for_while_somebody_is_connected() -> None:
    async def run() -> None:
        port = free_port("127.0.0.1")
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", port)
        engine = CannotTell({}, Path("/models/echo"))
        await asyncio.wait_for(in_flight(engine, None, port), 5)
        client = await asyncio.create_subprocess_exec(
            *("bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{port}; echo there; read"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert client.stdout is not None
        await client.stdout.readline()
        assert connections(port) == 1
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(in_flight(engine, None, port), 0.5)
        client.kill()
        await client.wait()
        server.close()

    asyncio.run(run())
