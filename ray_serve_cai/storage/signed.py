"""Reading from S3 with signed URLs and a plain HTTP client.

For each object botocore costs more processor time than the transfer; signing costs a fraction.
"""

from __future__ import annotations

import email.utils
import http.client
import ssl
import time
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from botocore.httpsession import get_cert_path

from ray_serve_cai.errors import StorageError
from ray_serve_cai.storage.attempts import Broken, judged
from ray_serve_cai.storage.listing import Remote
from ray_serve_cai.storage.reading import Reader, Sink
from ray_serve_cai.storage.signing import Signer
from ray_serve_cai.storage.stores import Store
from ray_serve_cai.storage.wire import Wire

_TEMPORARY = frozenset({408, 425, 429, 500, 502, 503, 504})
_CHANGED = frozenset({412, 416})


class SignedReader:
    """`otherwise` reads what the store does not give for a signed URL, and says why."""

    def __init__(self, store: Store, otherwise: Reader) -> None:
        self._otherwise = otherwise
        self._signer = Signer(store.system)
        self._wire = Wire(_context(store))
        self._refused = False

    @staticmethod
    def suits(store: Store) -> bool:
        """Whether URLs and a direct connection can do all that this store's options ask for."""
        if store.scheme != "s3":
            return False
        system = store.system
        special = system.req_kw or system.version_aware or system.config_kwargs.get("proxies")
        return not (special or _has_proxy(system))

    def read(self, remote: Remote, start: int, stop: int, sink: Sink) -> None:
        if self._refused:
            self._otherwise.read(remote, start, stop, sink)
            return
        headers = {"If-Match": f'"{remote.version}"', "Accept-Encoding": "identity"}
        if (start, stop) != (0, remote.size):
            headers["Range"] = f"bytes={start}-{stop - 1}"
        try:
            url = self._signer.url(remote.path)
        except Exception as error:
            # botocore has exceptions of its own, such as for a role that cannot be renewed.
            raise judged(remote.path, error) from error
        with self._wire.get(url, headers) as answer:
            if _is_whole(answer, remote, start, stop):
                for block in self._wire.blocks(answer, stop - start):
                    sink(block)
                # An answer without a length ends here, or not at all.
                if answer.read(1):
                    raise Broken("more bytes came than were announced")
                return
        self._refused = True
        self._otherwise.read(remote, start, stop, sink)


def _context(store: Store) -> ssl.SSLContext:
    """With a private CA, as s3fs itself finds it."""
    given = (store.system.client_kwargs or {}).get("verify")
    if given is None:
        given = store.system.session.get_config_variable("ca_bundle")
    # Without one of the user's own, the authorities that s3fs trusts.
    bundle = given if isinstance(given, str) else get_cert_path(True)
    context = ssl.create_default_context(cafile=bundle)
    if given is False:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _has_proxy(system: Any) -> bool:
    """Whether the environment names a proxy for the store, which s3fs then uses."""
    parts = urlsplit(str(system.s3.meta.endpoint_url))
    has_one = parts.scheme in urllib.request.getproxies()
    return has_one and not urllib.request.proxy_bypass(parts.hostname or "")


def _is_whole(answer: http.client.HTTPResponse, remote: Remote, start: int, stop: int) -> bool:
    """Whether the bytes asked for will follow; False when somebody else should ask.

    Raises `Broken` and `StorageError` for answers that another reader would get as well.
    """
    status, headers = answer.status, answer.headers
    if status in _CHANGED:
        raise StorageError("CAI-STORAGE-002", f"{remote.path}: it changed while it was read")
    if status in _TEMPORARY:
        raise Broken(f"the store answers {status}", _retry_after(headers.get("Retry-After", "")))
    if status not in (200, 206):
        return False
    if status == 206:
        wanted = f"bytes {start}-{stop - 1}/{remote.size}"
        if headers.get("Content-Range") != wanted:
            raise Broken(f"the store sent {headers.get('Content-Range')} instead of {wanted}")
    elif (start, stop) != (0, remote.size):
        return False
    length = headers.get("Content-Length")
    if length is not None and length != str(stop - start):
        raise Broken(f"{length} bytes are announced instead of {stop - start}")
    return True


def _retry_after(given: str) -> float:
    """Seconds, from a number or a date."""
    if given.isdecimal():
        return float(given)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(given).timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0
