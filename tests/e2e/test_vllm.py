"""The main job: real vLLM on the CPU, the demo model, a real client, over both transports."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import psutil
import pytest
from support import Cai, Cluster, ask, short_folder, until

from ray_serve_cai.demo.text import load_text

pytestmark = pytest.mark.vllm

KEY = "sk-e2e-0123456789abcdef"
ARGS = {"max_model_len": 1024, "enforce_eager": True}
TRANSPORTS = ("grpc", "http")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with short_folder() as folder:
        cai = Cai(folder, {"CAI_API_KEY": KEY})
        gateway = {"port": "auto", "api_keys": ["${CAI_API_KEY}"]}
        try:
            made = Cluster.up(cai, "real", KEY, head={"cpu": 2}, gateway=gateway)
            for transport in TRANSPORTS:
                engine = {"type": "vllm", "transport": transport, "args": ARGS}
                made.deploy_ok(transport, engine=engine, resources={"cpu": 1})
            yield made
            made.down_without_trace()
        finally:
            cai.end_everything()


@pytest.fixture(scope="module")
def client(cluster: Cluster) -> Any:
    return cluster.client()


@pytest.fixture(params=TRANSPORTS)
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


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


def test_stop_in_mid_stream_frees_the_engine(cluster: Cluster, client: Any, model: str) -> None:
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
        return all(row["running"] == 0 for row in cluster.model(model)["instances"])

    until(idle, 20, "the engine to be idle")


def test_stop_words(client: Any, model: str) -> None:
    _, answer = questions()[0]
    said = ask(client, model, questions()[0][0], temperature=0, stop=[answer.split()[3]])
    assert said.split() == answer.split()[:3]


def test_unknown_model(client: Any) -> None:
    with pytest.raises(openai.NotFoundError):
        ask(client, "nobody")


def test_wrong_key(cluster: Cluster) -> None:
    with pytest.raises(openai.AuthenticationError):
        ask(cluster.client("sk-wrong"), "grpc")


def test_engine_config_is_shown(cluster: Cluster, model: str) -> None:
    row = cluster.model(model)
    assert row["transport"] == model
    assert row["engine_config"]["context_length"] == ARGS["max_model_len"]


def test_unknown_engine_argument_is_refused_at_once(cluster: Cluster) -> None:
    engine = {"type": "vllm", "args": {"max_modl_len": 1}}
    done = cluster.deploy("wrong", engine=engine)
    assert done.returncode == 2
    assert 'did you mean "max_model_len"' in done.stderr


def test_killed_replica_takes_its_engine_along(cluster: Cluster, client: Any) -> None:
    (row,) = cluster.model("grpc")["instances"]
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
