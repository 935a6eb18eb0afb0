"""URLs of S3 objects that can be read without further credentials, for an hour.

s3fs signs a first one, which shows the form of the bucket's URLs. botocore signs the others
directly: through s3fs and its event loop each takes half a millisecond, in one thread for all.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials

SIGNED_SECONDS = 3600
# Credentials of a role are replaced from time to time.
_FRESH_SECONDS = 300.0


class Signer:
    """Signs for one filesystem of s3fs, from any thread."""

    def __init__(self, system: Any) -> None:
        self._system = system
        self._lock = threading.Lock()
        self._form: _Form | None = None
        self._made = 0.0

    def url(self, path: str) -> str:
        """To read the object at `path`, bucket included. Raises what s3fs raises."""
        with self._lock:
            if not self._made or time.monotonic() - self._made > _FRESH_SECONDS:
                self._form, self._made = _form(self._system, path), time.monotonic()
        if self._form is None:
            return str(self._system.sign(path, expiration=SIGNED_SECONDS))
        return self._form.url(path)


@dataclass(frozen=True)
class _Form:
    """What the URLs of a bucket have in common. Without credentials they are not signed."""

    prefix: str
    bucket: str
    region: str
    credentials: ReadOnlyCredentials | None

    def url(self, path: str) -> str:
        plain = self.prefix + _quoted(path.removeprefix(f"{self.bucket}/"))
        if self.credentials is None:
            return plain
        request = AWSRequest(method="GET", url=plain)
        S3SigV4QueryAuth(self.credentials, "s3", self.region, expires=SIGNED_SECONDS).add_auth(
            request
        )
        return str(request.url)


def _form(system: Any, path: str) -> _Form | None:
    """None when s3fs signs in another way than this module would."""
    bucket, name = path.split("/", 1)
    example = urlsplit(system.sign(path, expiration=SIGNED_SECONDS))
    if not example.path.endswith(_quoted(name)):
        return None
    prefix = f"{example.scheme}://{example.netloc}{example.path.removesuffix(_quoted(name))}"
    if not example.query:
        return _Form(prefix, bucket, "", None)
    query = parse_qs(example.query)
    if query.get("X-Amz-Algorithm") != ["AWS4-HMAC-SHA256"]:
        return None
    who, _, region, *_ = query["X-Amz-Credential"][0].split("/")
    credentials = _credentials(system)
    if credentials is None or credentials.access_key != who:
        return None
    return _Form(prefix, bucket, region, credentials)


def _credentials(system: Any) -> ReadOnlyCredentials | None:
    if system.key and system.secret:
        return ReadOnlyCredentials(system.key, system.secret, system.token)
    from fsspec.asyn import sync

    async def frozen() -> Any:
        found = await system.session.get_credentials()
        return await found.get_frozen_credentials() if found is not None else None

    it = sync(system.loop, frozen)
    return ReadOnlyCredentials(it.access_key, it.secret_key, it.token) if it else None


def _quoted(name: str) -> str:
    return quote(name, safe="/~")
