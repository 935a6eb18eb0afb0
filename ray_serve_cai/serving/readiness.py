"""Whether the gateway and a model answer: for a model one real token, not an open port."""

from __future__ import annotations

import time

import httpx

from ray_serve_cai.errors import ModelError

ATTEMPT_SECONDS = 120.0
PAUSE_SECONDS = 0.1
PROBE_SECONDS = 2.0
# The gateway's word while it registers a worker, or for a model whose last worker just left.
RETRIED = (httpx.codes.NOT_FOUND, httpx.codes.BAD_GATEWAY, httpx.codes.SERVICE_UNAVAILABLE)


def first_token(url: str, key: str | None, model: str, deadline: float) -> None:
    """Return once `model` has generated a token (or embedded a word) through the gateway.

    `deadline` is monotonic. Raises `ModelError`: CAI-MODEL-003 when the model refuses,
    CAI-CLUSTER-006 when it is not reachable in time.
    """
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with httpx.Client(
        base_url=url, headers=headers, timeout=ATTEMPT_SECONDS, trust_env=False
    ) as client:
        while True:
            reply = _ask(client, model)
            if reply is not None and reply.is_success:
                return
            if reply is not None and reply.status_code not in RETRIED:
                raise ModelError("CAI-MODEL-003", f'model "{model}" refused: {reply.text[:500]}')
            if time.monotonic() > deadline:
                said = reply.text[:500] if reply is not None else "no connection"
                raise ModelError("CAI-CLUSTER-006", f'model "{model}" does not answer: {said}')
            time.sleep(PAUSE_SECONDS)


def gateway_answers(url: str) -> bool:
    """Whether something that is a gateway answers at `url`."""
    if not url:
        return False
    try:
        reply = httpx.get(f"{url}/liveness", timeout=PROBE_SECONDS, trust_env=False)
    except httpx.HTTPError:
        return False
    return reply.status_code == httpx.codes.OK


def _ask(client: httpx.Client, model: str) -> httpx.Response | None:
    try:
        reply = client.post(
            "/v1/completions", json={"model": model, "prompt": "Hello", "max_tokens": 1}
        )
        if reply.status_code in (httpx.codes.BAD_REQUEST, httpx.codes.NOT_FOUND):
            # An embedding model has no completions; its own server not even the route.
            embedded = client.post("/v1/embeddings", json={"model": model, "input": "Hello"})
            return embedded if embedded.is_success else reply
    except httpx.TransportError:
        return None
    return reply
