"""Talking to an engine's own OpenAI server: readiness, health, load."""

from __future__ import annotations

import re

import httpx

from ray_serve_cai.engines.base import EngineConfig, EngineLoad

CALL_SECONDS = 5.0
PROBE_SECONDS = 120.0


class HttpFront:
    """A program's OpenAI server. `health_path` answers 200 when it can be used; `gauges` are the
    names of running and waiting requests in its Prometheus metrics."""

    def __init__(
        self,
        host: str,
        port: int,
        api_keys: tuple[str, ...] = (),
        *,
        health_path: str = "/health",
        gauges: tuple[str, str] | None = None,
    ) -> None:
        self._health_path, self._gauges = health_path, gauges
        headers = {"Authorization": f"Bearer {api_keys[0]}"} if api_keys else {}
        # Replicas talk to addresses of the cluster; a proxy from the environment is not for them.
        self._client = httpx.AsyncClient(
            base_url=f"http://{host}:{port}",
            headers=headers,
            timeout=CALL_SECONDS,
            trust_env=False,
        )

    async def answers(self) -> bool:
        try:
            return (await self._client.get(self._health_path)).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    async def health(self) -> None:
        (await self._client.get(self._health_path)).raise_for_status()

    async def probe(self) -> None:
        """One token, or one embedding; raises what the server says."""
        model = (await self._client.get("/v1/models")).raise_for_status().json()["data"][0]["id"]
        body = {"model": model, "prompt": "Hello", "max_tokens": 1}
        reply = await self._client.post("/v1/completions", json=body, timeout=PROBE_SECONDS)
        if reply.status_code in (httpx.codes.NOT_FOUND, httpx.codes.BAD_REQUEST):
            # There is no completions route for a model that does not generate.
            body = {"model": model, "input": "Hello"}
            reply = await self._client.post("/v1/embeddings", json=body, timeout=PROBE_SECONDS)
        reply.raise_for_status()

    async def config(self, endpoint: str) -> EngineConfig:
        card = (await self._client.get("/v1/models")).raise_for_status().json()["data"][0]
        return EngineConfig(
            model=card.get("root") or card["id"],
            served_model_name=card["id"],
            context_length=card.get("max_model_len"),
            endpoint=endpoint,
        )

    async def load(self) -> EngineLoad | None:
        if self._gauges is None:
            return None
        text = (await self._client.get("/metrics")).text
        running, waiting = (_gauge(text, name) for name in self._gauges)
        return None if running is None or waiting is None else EngineLoad(running, waiting)

    async def close(self) -> None:
        await self._client.aclose()


def _gauge(text: str, name: str) -> int | None:
    """The sum over all label sets; None when the metric is not there."""
    pattern = rf"^{re.escape(name)}(?:\{{[^}}]*\}})? ([0-9.e+]+)$"
    values = re.findall(pattern, text, re.MULTILINE)
    return sum(int(float(value)) for value in values) if values else None
