"""The main job: real vLLM on the CPU, the demo model, a real client, over both transports."""

from __future__ import annotations

from typing import Any

import openai
import psutil
import pytest
from support import Cluster, ask, until

from ray_serve_cai.demo.text import load_text

pytestmark = pytest.mark.vllm

# The most tokens of one request, as tests/e2e/conftest.py starts the models.
CONTEXT = 1024


def questions() -> list[tuple[str, str]]:
    return [(pair.questions[0], pair.answer) for pair in load_text()]


def test_answers_are_word_for_word(client: Any, model: str) -> None:
    wrong = {
        question: said
        for question, answer in questions()
        if (said := ask(client, model, question, temperature=0, max_tokens=64)) != answer
    }
    assert not wrong


def test_streaming_gives_the_same_in_pieces(client: Any, model: str) -> None:
    question, answer = questions()[0]
    stream = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": question}],
        temperature=0,
        max_tokens=64,
        stream=True,
    )
    pieces = [event.choices[0].delta.content or "" for event in stream if event.choices]
    assert "".join(pieces) == answer
    assert sum(bool(piece) for piece in pieces) > 3


def test_stop_in_mid_stream_frees_the_engine(real: Cluster, client: Any, model: str) -> None:
    stream = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "What is cai?"}],
        max_tokens=900,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    next(iter(stream))
    stream.close()

    def idle() -> bool:
        return all(row["running"] == 0 for row in real.model(model)["instances"])

    until(idle, 20, "the engine to be idle")


def test_stop_words(client: Any, model: str) -> None:
    _, answer = questions()[0]
    said = ask(client, model, questions()[0][0], temperature=0, stop=[answer.split()[3]])
    assert said.split() == answer.split()[:3]


def test_unknown_model(client: Any) -> None:
    with pytest.raises(openai.NotFoundError):
        ask(client, "nobody")


def test_wrong_key(real: Cluster) -> None:
    with pytest.raises(openai.AuthenticationError):
        ask(real.client("sk-wrong"), "grpc")


def test_engine_config_is_shown(real: Cluster, model: str) -> None:
    row = real.model(model)
    assert row["transport"] == model
    assert row["engine_config"]["context_length"] == CONTEXT


def test_unknown_engine_argument_is_refused_at_once(real: Cluster) -> None:
    engine = {"type": "vllm", "args": {"max_modl_len": 1}}
    done = real.deploy("wrong", engine=engine)
    assert done.returncode == 2
    assert 'did you mean "max_model_len"' in done.stderr


def test_killed_replica_takes_its_engine_along(real: Cluster, client: Any) -> None:
    (row,) = real.model("grpc")["instances"]
    replica = psutil.Process(row["pid"])
    family = replica.children(recursive=True)
    assert any("VLLM" in process.name() or "VLLM" in _title(process) for process in family)
    replica.kill()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive
    until(lambda: _answers(client), 240, "a new replica")


def _answers(client: Any) -> bool:
    try:
        return bool(ask(client, "grpc"))
    except openai.APIStatusError:
        return False


def _title(process: psutil.Process) -> str:
    return " ".join(process.cmdline())
