"""URLs of S3 objects that can be read without further credentials, for an hour.

s3fs signs a first one, which shows the form of the bucket's URLs, and its query is that of all the
others but for the signature, which is made here: botocore takes 80 microseconds for it, as much as
the request, and through s3fs it is half a millisecond, in one thread for all.
"""

from __future__ import annotations

import hashlib
import hmac
import threading
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, parse_qsl, quote, urlsplit

from botocore.credentials import ReadOnlyCredentials

SIGNED_SECONDS = 3600
_ALGORITHM = "AWS4-HMAC-SHA256"
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
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
    """What the URLs of a bucket have in common. Without a key they are not signed."""

    server: str
    host: str
    # Of the URLs' paths, before an object's name.
    prefix: str
    bucket: str
    query: str
    scope: str
    key: bytes

    def url(self, path: str) -> str:
        name = self.prefix + _quoted(path.removeprefix(f"{self.bucket}/"))
        if not self.key:
            return self.server + name
        return f"{self.server}{name}?{self.query}&X-Amz-Signature={self.signature(name)}"

    def signature(self, name: str) -> str:
        """Signature version 4 of a GET of a path
        (https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html)."""
        asked = f"GET\n{name}\n{self.query}\nhost:{self.host}\n\nhost\nUNSIGNED-PAYLOAD"
        text = f"{self.scope}\n{hashlib.sha256(asked.encode()).hexdigest()}"
        return hmac.digest(self.key, text.encode(), "sha256").hex()


def _form(system: Any, path: str) -> _Form | None:
    """None when s3fs signs in another way than this module would."""
    bucket, name = path.split("/", 1)
    example = urlsplit(system.sign(path, expiration=SIGNED_SECONDS))
    if not example.path.endswith(_quoted(name)):
        return None
    prefix = example.path.removesuffix(_quoted(name))
    if not example.query:
        return _Form(_server(example), example.netloc, prefix, bucket, "", "", b"")
    credentials = _credentials(system)
    if credentials is None:
        return None
    return _signed_form(example, prefix, bucket, credentials)


def _signed_form(
    example: SplitResult, prefix: str, bucket: str, credentials: ReadOnlyCredentials
) -> _Form | None:
    query = dict(parse_qsl(example.query))
    signature = query.pop("X-Amz-Signature", "")
    if query.get("X-Amz-Algorithm") != _ALGORITHM:
        return None
    scope = query["X-Amz-Credential"].removeprefix(f"{credentials.access_key}/")
    key = f"AWS4{credentials.secret_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    words = "&".join(f"{name}={quote(query[name], safe='~')}" for name in sorted(query))
    form = _Form(
        server=_server(example),
        host=example.netloc.removesuffix(_DEFAULT_PORTS.get(example.scheme, "")),
        prefix=prefix,
        bucket=bucket,
        query=words,
        scope="\n".join((_ALGORITHM, query["X-Amz-Date"], scope)),
        key=key,
    )
    # Of the same example, or this is not how it is done.
    return form if form.signature(example.path) == signature else None


def _credentials(system: Any) -> ReadOnlyCredentials | None:
    if system.key and system.secret:
        return ReadOnlyCredentials(system.key, system.secret, system.token)
    from fsspec.asyn import sync

    async def frozen() -> Any:
        found = await system.session.get_credentials()
        return await found.get_frozen_credentials() if found is not None else None

    it = sync(system.loop, frozen)
    return ReadOnlyCredentials(it.access_key, it.secret_key, it.token) if it else None


def _server(url: SplitResult) -> str:
    return f"{url.scheme}://{url.netloc}"


def _quoted(name: str) -> str:
    return quote(name, safe="/~")
