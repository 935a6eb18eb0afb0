"""A dialogue with a model through the gateway."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import httpx

from ray_serve_cai.cluster.launcher import public_address
from ray_serve_cai.cluster.state import ClusterRecord, ClusterState
from ray_serve_cai.errors import ClusterError, ModelError
from ray_serve_cai.providers.cai_http import tls_context

ANSWER_SECONDS = 600.0
PLATFORM_KEY = "CDSW_APIV2_KEY"
LOGIN = "{}: the login in front of the endpoint did not let the key in"
HINT = f"Set {PLATFORM_KEY} to a v2 key of the workbench with audience Application."


class Dialogue:
    """Keeps the turns. `key` may be None."""

    def __init__(
        self, url: str, key: str | None, model: str, *, max_tokens: int, temperature: float
    ) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        # Only an address of the platform's own has TLS, and its certificate may be private.
        verify = tls_context() if url.startswith("https://") else True
        self._client = httpx.Client(
            base_url=url, headers=headers, timeout=ANSWER_SECONDS, trust_env=False, verify=verify
        )
        self._body: dict[str, Any] = {
            "model": model,
            "max_tokens": max_tokens,
            "temperature": temperature,
            "stream": True,
        }
        self._turns: list[dict[str, str]] = []

    def ask(self, question: str) -> Iterator[str]:
        """The answer, piece by piece; raises `ModelError` (CAI-MODEL-003)."""
        self._turns.append({"role": "user", "content": question})
        pieces = []
        for piece in self._stream({**self._body, "messages": self._turns}):
            pieces.append(piece)
            yield piece
        self._turns.append({"role": "assistant", "content": "".join(pieces)})

    def _stream(self, body: dict[str, Any]) -> Iterator[str]:
        try:
            with self._client.stream("POST", "/v1/chat/completions", json=body) as reply:
                if reply.is_redirect:
                    raise ModelError("CAI-MODEL-003", LOGIN.format(reply.status_code), hint=HINT)
                if not reply.is_success:
                    reply.read()
                    raise ModelError("CAI-MODEL-003", _said(reply))
                for line in reply.iter_lines():
                    data = line.removeprefix("data: ")
                    if line.startswith("data: ") and data != "[DONE]":
                        yield from _pieces(json.loads(data))
        except httpx.TransportError as error:
            raise ModelError("CAI-MODEL-003", f"the endpoint broke off: {error}") from error


def gateway_of(state: ClusterState) -> tuple[str, str | None]:
    """The gateway's URL and a key for it; raises `ClusterError` (CAI-CLUSTER-009)."""
    record = state.existing_record()
    if not record.gateway_url:
        raise ClusterError("CAI-CLUSTER-009", f'cluster "{state.name}" has no gateway yet')
    return record.gateway_url, client_key(state, record)


def client_key(state: ClusterState, record: ClusterRecord) -> str | None:
    """A key for the gateway's URL; None where none is asked for.

    In front of the platform's own address stands its login, which takes a key of the platform.
    """
    if key := next(iter(state.document(record).cluster.gateway.api_keys), None):
        return key
    if record.gateway_url and record.gateway_url == public_address(state, record):
        return os.environ.get(PLATFORM_KEY)
    return None


def _pieces(event: dict[str, Any]) -> Iterator[str]:
    if "error" in event:
        raise ModelError("CAI-MODEL-003", str(event["error"].get("message", event["error"])))
    for choice in event.get("choices", ()):
        if text := choice.get("delta", {}).get("content"):
            yield text


def _said(reply: httpx.Response) -> str:
    try:
        return f"{reply.status_code}: {reply.json()['error']['message']}"
    except (ValueError, KeyError, TypeError):
        return f"{reply.status_code}: {reply.text[:300]}"
