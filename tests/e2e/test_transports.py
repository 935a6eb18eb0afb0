"""The same requests over both transports: the same answers but for the known differences."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from requests_of_clients import ANSWERED, REFUSED, SECONDS, Ask, send
from support import Cluster, ask

pytestmark = pytest.mark.vllm

# What docs/engines.md has in its table: statuses over gRPC and over HTTP.
KNOWN: dict[str, tuple[int, int]] = {
    "chat with its stop word": (200, 200),
    "chat with unicode forced": (200, 200),
    "chat with a regex": (200, 200),
    "chat with a choice": (200, 200),
    "chat with tools": (200, 400),
    "chat with a tool required": (200, 400),
    "chat with a tool named": (200, 400),
    "text with logprobs": (200, 200),
    "text with a regex": (200, 200),
    "text with a suffix": (200, 400),
    "an empty prompt": (200, 400),
    "an empty prompt streamed": (200, 400),
    "max_tokens beyond the context": (200, 400),
    "a logit_bias out of the vocabulary": (200, 400),
    "a stop token out of the vocabulary": (200, 400),
    "an allowed token out of the vocabulary": (200, 400),
    "an invalid regex": (200, 400),
    "an invalid JSON schema": (200, 400),
    "an invalid grammar": (200, 400),
}
ENGINES_PAGE = Path(__file__).parents[2] / "docs" / "engines.md"


@pytest.fixture(scope="module")
def http(real: Cluster) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {real.key}"}
    with httpx.Client(
        base_url=real.url, headers=headers, timeout=SECONDS, trust_env=False
    ) as made:
        yield made


@pytest.fixture(scope="module")
def same_engines(real: Cluster) -> Iterator[None]:
    """No replica was replaced meanwhile."""

    def replicas() -> dict[str, int]:
        return {model: real.model(model)["instances"][0]["pid"] for model in ("grpc", "http")}

    before = replicas()
    yield
    assert replicas() == before


@pytest.mark.parametrize("name", ANSWERED)
def test_answered_the_same(http: httpx.Client, name: str) -> None:
    found = _both(http, name, ANSWERED[name])
    if name not in KNOWN:
        assert found["grpc"]["status"] == 200


@pytest.mark.parametrize("name", REFUSED)
def test_refused_the_same_and_the_engine_lives(
    same_engines: None, client: Any, http: httpx.Client, name: str
) -> None:
    assert _both(http, name, REFUSED[name])["http"]["status"] == 400
    for model in ("grpc", "http"):
        assert ask(client, model)


def test_the_known_differences_stand_in_the_docs() -> None:
    row = re.compile(r"^\| ([^|]+) \| (\d+)[^|]* \| (\d+)[^|]* \|$", re.MULTILINE)
    found = row.findall(ENGINES_PAGE.read_text())
    assert {name: (int(grpc), int(own)) for name, grpc, own in found} == KNOWN


def _both(http: httpx.Client, name: str, request: Ask) -> dict[str, dict[str, Any]]:
    """Both answers, after a check that they differ exactly where that is known."""
    found = {model: send(http, model, request) for model in ("grpc", "http")}
    statuses = (found["grpc"]["status"], found["http"]["status"])
    if name in KNOWN:
        assert statuses == KNOWN[name]
        assert found["grpc"] != found["http"], "this difference is gone: strike it off"
    else:
        assert found["grpc"] == found["http"]
    for answer in found.values():
        assert answer["status"] == 200 or answer["says"], "the error has no message"
    return found
