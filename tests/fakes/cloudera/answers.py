"""What the stand-in's REST v2 answers with: errors, pages, filters, and which fields it knows."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

Row = dict[str, Any]

DEFAULT_PAGE = 10
SUBDOMAIN = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")

# The code of an error body is gRPC's, not HTTP's.
GRPC = {400: 3, 401: 16, 403: 7, 404: 5, 409: 6, 429: 8, 500: 13, 501: 12, 503: 14}

COMMON = {
    "name": str,
    "script": str,
    "cpu": float,
    "memory": float,
    "nvidia_gpu": int,
    "environment": dict,
    "kernel": str,
    "runtime_identifier": str,
    "runtime_addon_identifiers": list,
    "run_as": int,
    "accelerator_label_id": str,
    "resource_profile_id": str,
    "resource_group_id": str,
}
APPLICATION = COMMON | {
    "subdomain": str,
    "description": str,
    "bypass_authentication": bool,
    "cdv_app": bool,
}
JOB = COMMON | {
    "arguments": str,
    "timeout": int,
    "kill_on_timeout": bool,
    "schedule": str,
    "timezone": str,
    "paused": bool,
    "parent_job_id": str,
}
RUN = {"environment": dict, "arguments": str}


class RefusedError(Exception):
    """An error answer of the platform."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status

    def body(self) -> Row:
        text = str(self)
        return {"error": text, "code": GRPC.get(self.status, 2), "message": text, "details": []}


def known(body: Mapping[str, Any], fields: Mapping[str, type]) -> Row:
    """The fields that the platform knows; others it drops without a word. A wrong type is 400."""
    kept = {}
    for name, kind in fields.items():
        if name not in body:
            continue
        value = body[name]
        good = isinstance(value, (int, float)) if kind is float else isinstance(value, kind)
        if kind is dict and good:
            good = all(isinstance(text, str) for text in value.values())
        if not good:
            raise RefusedError(400, f"proto: invalid value for {name} field: {json.dumps(value)}")
        kept[name] = value
    return kept


def page_of(rows: Sequence[Row], key: str, query: Mapping[str, str], most: int) -> Row:
    """One page of a listing, in the order and by the filter of the query; `most` on a page."""
    found = sorted_by([row for row in rows if fits(row, query)], query.get("sort", ""))
    size = int(query.get("page_size") or DEFAULT_PAGE)
    first = 0
    if token := query.get("page_token"):
        first, of_size = json.loads(base64.urlsafe_b64decode(token))
        if of_size != size:
            raise RefusedError(400, "page_size differs from that of the first page")
    after = first + min(size, most)
    mark = json.dumps([after, size]).encode()
    more = base64.urlsafe_b64encode(mark).decode() if after < len(found) else ""
    return {key: found[first:after], "next_page_token": more}


def fits(row: Row, query: Mapping[str, str]) -> bool:
    """Whether `search_filter`, JSON with short lower-case statuses, lets the row through."""
    wanted = json.loads(query.get("search_filter") or "{}")
    for name, value in wanted.items():
        have = str(row.get(name, ""))
        if name == "status":
            have = have.rpartition("_")[2].lower()
            if have != value:
                return False
        elif str(value) not in have:
            return False
    return True


def sorted_by(rows: list[Row], order: str) -> list[Row]:
    for word in reversed([word for word in order.split(",") if word]):
        name = word.lstrip("+-")
        rows = sorted(rows, key=lambda row: str(row.get(name)), reverse=word.startswith("-"))
    return rows


def shown(fields: Mapping[str, Any]) -> Row:
    """Fields as an answer has them: the environment is text, and so are 64-bit numbers."""
    row = dict(fields)
    row["environment"] = json.dumps(row.get("environment", {}))
    for name in ("timeout", "run_as"):
        if name in row:
            row[name] = str(row[name])
    return row


def now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")
