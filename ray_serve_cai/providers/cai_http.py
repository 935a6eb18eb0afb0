"""One HTTP call to Cloudera AI's REST API v2, and what its answers mean.

Variables, error bodies and their pitfalls: docs/cloudera-ai.md.
"""

from __future__ import annotations

import email.utils
import os
import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_exponential, wait_random

from ray_serve_cai.errors import ClusterError

PREFIX = "/api/v2"
CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 30.0
ATTEMPTS = 4
FIRST_WAIT_SECONDS = 0.5
# The longest `Retry-After` that is obeyed; a longer one is cut.
LONGEST_WAIT_SECONDS = 60.0
LONGEST_MESSAGE = 500

# Where the site's own certificate authority is named, and where the platform puts it.
CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
CA_FILE = "/etc/ssl/certs/ca-certificates.crt"

_growing = wait_exponential(FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS) + wait_random(0, 0.5)


class UnclearError(ClusterError):
    """No usable answer (CAI-PROVIDER-003): what was asked for may have been done or not."""


class BusyError(ClusterError):
    """Status 429 (CAI-PROVIDER-003): not done, and welcome again after `wait` seconds."""

    wait: float | None = None


class Http:
    """Calls of one workbench. The key is in the requests and nowhere else."""

    def __init__(self, url: str, key: str, *, answer_seconds: float = ANSWER_SECONDS) -> None:
        self.url = url.rstrip("/")
        self._key = key
        self._client = httpx.Client(
            base_url=self.url + PREFIX,
            headers={"Authorization": f"Bearer {key}"},
            timeout=httpx.Timeout(answer_seconds, connect=CONNECT_SECONDS),
            verify=tls_context() if url.startswith("https:") else True,
            # A POST on a connection that the proxy has just closed would be unclear for nothing.
            limits=httpx.Limits(max_keepalive_connections=0),
        )

    def __repr__(self) -> str:
        return f"Http({self.url!r})"

    @classmethod
    def from_environment(cls) -> Http:
        """Raises `ClusterError`: CAI-PROVIDER-001 without an address, -004 without a key."""
        url = workbench_url()
        key = os.environ.get("CDSW_APIV2_KEY", "").strip()
        if not key:
            raise ClusterError("CAI-PROVIDER-004", "CDSW_APIV2_KEY is not set")
        return cls(url, key)

    def get(self, path: str, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The answer, asked for again where none came."""
        return self._retrying(UnclearError, BusyError)(self._call, "GET", path, params)

    def repeat(self, method: str, path: str) -> dict[str, Any]:
        """A call that may be made twice, such as `:stop` or DELETE."""
        return self._retrying(UnclearError, BusyError)(self._call, method, path, None)

    def post(
        self, path: str, body: Mapping[str, Any], *, seconds: float | None = None
    ) -> dict[str, Any]:
        """Made once, unless the platform said that it did not do it.

        The answer is waited for `seconds`, or as long as for any. Raises `UnclearError` where the
        caller must look whether it was done.
        """
        return self._retrying(BusyError)(self._call, "POST", path, None, body, seconds)

    def _retrying(self, *kinds: type[BaseException]) -> Retrying:
        return Retrying(
            retry=retry_if_exception_type(kinds),
            stop=stop_after_attempt(ATTEMPTS),
            wait=_wait,
            reraise=True,
        )

    def _call(
        self,
        method: str,
        path: str,
        params: Mapping[str, Any] | None,
        body: Mapping[str, Any] | None = None,
        seconds: float | None = None,
    ) -> dict[str, Any]:
        what = f"{method} {PREFIX}{path}"
        timeout = self._client.timeout
        if seconds is not None:
            timeout = httpx.Timeout(seconds, connect=CONNECT_SECONDS)
        try:
            answer = self._client.request(method, path, params=params, json=body, timeout=timeout)
        except httpx.TransportError as error:
            raise self._unreachable(what, error) from error
        if not answer.is_success:
            raise self._error(what, answer)
        if not answer.content:
            return {}
        data = _json(answer)
        if not isinstance(data, dict):
            kind = answer.headers.get("content-type", "no type")
            raise UnclearError("CAI-PROVIDER-003", f"{what}: the answer is {kind}, not JSON")
        return data

    def _unreachable(self, what: str, error: httpx.TransportError) -> ClusterError:
        message = f"{what} at {self.url}: {type(error).__name__}: {error}"
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            hint = f"Name the site's certificate authority in {' or '.join(CA_VARIABLES)}."
            return ClusterError("CAI-PROVIDER-003", message, hint=hint)
        return UnclearError("CAI-PROVIDER-003", message)

    def _error(self, what: str, answer: httpx.Response) -> ClusterError:
        status = answer.status_code
        said = self._said(answer)
        message = f"{what}: {said}"
        # A key of another kind, such as a JWT, is answered with 500.
        if status == 401 or (status == 500 and "apikey" in said.lower().replace(" ", "")):
            return ClusterError("CAI-PROVIDER-004", message)
        if status == 403 and what.startswith("GET "):
            return ClusterError("CAI-PROVIDER-004", message)
        if status == 404:
            return NotThereError("CAI-PROVIDER-002", message)
        if status == 429:
            busy = BusyError("CAI-PROVIDER-003", message)
            busy.wait = _retry_after(answer.headers.get("retry-after", ""))
            return busy
        if status >= 500:
            return UnclearError("CAI-PROVIDER-003", message)
        if answer.is_redirect:
            where = answer.headers.get("location", "").partition("?")[0]
            return ClusterError("CAI-PROVIDER-003", f"{what}: sent on to {where}, a login page?")
        return ClusterError("CAI-PROVIDER-002", message)

    def _said(self, answer: httpx.Response) -> str:
        """The platform's own words of an error body, else its status."""
        data = _json(answer)
        words = data.get("message") or data.get("error") if isinstance(data, dict) else None
        status = f"status {answer.status_code}"
        said = " ".join(str(words).split())[:LONGEST_MESSAGE] if words else ""
        said = said.replace(self._key, "***")
        return f"{said} ({status})" if said else status


class NotThereError(ClusterError):
    """Status 404."""


def workbench_url() -> str:
    """Scheme and host of the workbench; a site may use http.

    Raises `ClusterError` (CAI-PROVIDER-001) where no variable names it.
    """
    api = urlsplit(os.environ.get("CDSW_API_URL", ""))
    if api.scheme and api.netloc:
        return f"{api.scheme}://{api.netloc}"
    domain = os.environ.get("CDSW_DOMAIN", "").strip().rstrip("/")
    if not domain:
        raise ClusterError("CAI-PROVIDER-001", "neither CDSW_API_URL nor CDSW_DOMAIN is set")
    if "://" in domain:
        return domain
    scheme = urlsplit(os.environ.get("CDSW_PROJECT_URL", "")).scheme or "https"
    return f"{scheme}://{domain}"


def tls_context() -> ssl.SSLContext:
    """Trusts what the site's variables name, else what the platform puts into each image.

    Raises `ClusterError` (CAI-PROVIDER-003) for a file that cannot be read as certificates.
    """
    for name in CA_VARIABLES:
        if given := os.environ.get(name):
            return _trusting(Path(given), name)
    return _trusting(Path(CA_FILE), "") if Path(CA_FILE).is_file() else _default_context()


def _trusting(path: Path, variable: str) -> ssl.SSLContext:
    try:
        if path.is_dir():
            return ssl.create_default_context(capath=str(path))
        return ssl.create_default_context(cafile=str(path))
    except (OSError, ssl.SSLError) as error:
        place = f"{variable}={path}" if variable else str(path)
        raise ClusterError(
            "CAI-PROVIDER-003", f"{place} cannot be read as certificates: {error}"
        ) from error


def _default_context() -> ssl.SSLContext:
    return httpx.create_ssl_context()


def _json(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        return None


def _retry_after(text: str) -> float | None:
    """Seconds, given as a number or as a date."""
    if text.strip().isdigit():
        return float(text)
    try:
        then = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(then.timestamp() - time.time(), 0.0)


def _wait(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, BusyError) and error.wait is not None:
        return min(error.wait, LONGEST_WAIT_SECONDS)
    return _growing(state)
