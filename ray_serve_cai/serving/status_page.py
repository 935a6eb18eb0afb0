"""The status server behind the front door: `/` for people, `/status.json` for programs.

`python -m ray_serve_cai.serving.status_page CLUSTER_FOLDER NAME SOCKET [--public]`. It reads the
cluster's state folder, never Ray, so it answers in every state of the cluster.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from ray_serve_cai.serving.snapshot import snapshot

PAGE = Path(__file__).with_name("status_page.html")
# However many look at the page, the folder is read so often at most.
FRESH_SECONDS = 1.0
NONCE = "@NONCE@"
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="ray_serve_cai.serving.status_page")
    parser.add_argument("folder", type=Path)
    parser.add_argument("name")
    parser.add_argument("socket")
    parser.add_argument("--public", action="store_true")
    options = parser.parse_args()
    served = application(lambda: snapshot(options.folder, options.name, public=options.public))
    uvicorn.run(served, uds=options.socket, log_level="warning", access_log=False)


def application(look: Callable[[], dict[str, Any]]) -> Starlette:
    """The two pages; `look` makes a snapshot."""
    cached = _Cached(look)
    text = PAGE.read_text(encoding="utf-8")

    async def status(_: Request) -> Response:
        return JSONResponse(await cached.get(), headers=_HEADERS)

    async def page(_: Request) -> Response:
        nonce = secrets.token_urlsafe(16)
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; "
            "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'"
        )
        headers = _HEADERS | {"Content-Security-Policy": policy}
        return HTMLResponse(text.replace(NONCE, nonce), headers=headers)

    return Starlette(routes=[Route("/", page), Route("/status.json", status)])


class _Cached:
    def __init__(self, look: Callable[[], dict[str, Any]]) -> None:
        self._look = look
        self._lock = asyncio.Lock()
        self._data: dict[str, Any] = {}
        self._due = 0.0

    async def get(self) -> dict[str, Any]:
        async with self._lock:
            if time.monotonic() >= self._due:
                self._data = await asyncio.to_thread(self._look)
                self._due = time.monotonic() + FRESH_SECONDS
        return self._data


if __name__ == "__main__":
    main()
