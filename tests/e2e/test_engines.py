"""Engines other than the built-in path of vLLM, and the kit on a real engine."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import Cai, Cluster, ask, short_folder, until

pytestmark = pytest.mark.vllm

QUESTION = "What is cai?"
COMMAND = [
    *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
    *("--model", "{model}", "--served-model-name", "{name}", "--host", "{host}"),
    *("--port", "{port}", "--max-model-len", "1024", "--enforce-eager"),
]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with short_folder() as made:
        yield made


def test_vllm_keeps_the_contract(folder: Path) -> None:
    args = '{"max_model_len": 512, "enforce_eager": true}'
    found = Cai(folder).json("engines", "check", "vllm", "--args", args, timeout=500)
    assert [row["rule"] for row in found["rules"] if not row["ok"]] == []
    assert len(found["rules"]) > 15


def test_bare_vllm_as_a_command(folder: Path) -> None:
    cai = Cai(folder)
    try:
        cluster = Cluster.up(cai, "commands", head={"cpu": 2})
        gauges = ["vllm:num_requests_running", "vllm:num_requests_waiting"]
        args = {"command": COMMAND, "gauges": gauges, "env": {"VLLM_CPU_KVCACHE_SPACE": "1"}}
        cluster.deploy_ok("bare", engine={"type": "command", "args": args})
        assert "cai" in ask(cluster.client(), "bare", QUESTION, max_tokens=64)
        model = cluster.model("bare")
        assert (model["engine"], model["transport"]) == ("command", "http")
        assert model["engine_config"]["context_length"] == 1024
        programs = cluster.commands("vllm.entrypoints.openai.api_server")
        assert programs
        cluster.delete("bare")
        until(lambda: not any(p.is_running() for p in programs), 30, "the end of the program")
        args["command"] = [*COMMAND, "--max-model-lenn", "8"]
        refused = cluster.deploy("bare", engine={"type": "command", "args": args})
        assert refused.returncode == 1
        assert 'CAI-ENGINE-005: model "bare": the command ended with status 2' in refused.stderr
        cluster.down_without_trace()
    finally:
        cai.end_everything()
