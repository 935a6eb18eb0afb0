"""Calls to a store that are made again when they break off, boundedly and ever less often."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import TypeVar

import tenacity

from ray_serve_cai.errors import StorageError
from ray_serve_cai.storage.stores import is_refused, storage_error

T = TypeVar("T")

ATTEMPTS = 6
FIRST_PAUSE_SECONDS = 0.3
LONGEST_PAUSE_SECONDS = 30.0
# Exceptions of botocore, azure-identity and google-auth that no further attempt changes.
_CREDENTIALS = ("NoCredentials", "PartialCredentials", "Profile", "Authentication", "Default")


class Broken(Exception):
    """A transfer broke off and may go better next time. `pause`: seconds the store asks for."""

    def __init__(self, said: str, pause: float = 0.0) -> None:
        super().__init__(said)
        self.pause = pause


class Stopped(Exception):
    """Another thread has failed, and nobody wants the result any more."""


def judged(what: str, error: Exception) -> Exception:
    """What a store's library raised for `what`: a `StorageError` for good, or `Broken`."""
    final = is_refused(error) or isinstance(error, (FileNotFoundError, StorageError))
    final = final or type(error).__name__.startswith(_CREDENTIALS)
    if final or "CERTIFICATE_VERIFY_FAILED" in str(error):
        return storage_error(what, error)
    return Broken(storage_error("it", error).message.removeprefix("it: "))


def retried(what: str, call: Callable[[], T], stop: threading.Event | None = None) -> T:
    """The call's result; while it raises `Broken` it is made again, ever less often.

    Raises `Stopped` in place of another call once `stop` is set, and `StorageError` that begins
    with `what` when the last attempt is `Broken` as well.
    """
    stop = stop or threading.Event()
    failed: list[Broken] = []

    def attempt() -> T:
        if failed:
            raise failed.pop()
        if stop.is_set():
            raise Stopped
        return call()

    try:
        # Most calls need no second attempt, and thousands pay for the way through tenacity.
        return attempt()
    except Broken as error:
        failed.append(error)
    try:
        return tenacity.Retrying(
            stop=tenacity.stop_after_attempt(ATTEMPTS),
            wait=_pause,
            retry=tenacity.retry_if_exception_type(Broken),
            sleep=tenacity.sleep_using_event(stop),
            reraise=True,
        )(attempt)
    except Broken as error:
        raise StorageError(
            "CAI-STORAGE-002", f"{what}: {error} (tried {ATTEMPTS} times)"
        ) from error


def _pause(state: tenacity.RetryCallState) -> float:
    # Not all that broke off together shall come back together.
    doubled = FIRST_PAUSE_SECONDS * 2.0 ** (state.attempt_number - 1) * random.uniform(1, 1.5)
    failure = state.outcome.exception() if state.outcome else None
    asked = failure.pause if isinstance(failure, Broken) else 0.0
    return float(min(max(doubled, asked), LONGEST_PAUSE_SECONDS))
