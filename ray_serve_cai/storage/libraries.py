"""How often the stores' libraries repeat a request, how long they wait, and what they print."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime
from functools import partial
from typing import Any

CONNECT_SECONDS = 10.0
READ_SECONDS = 30.0
# gcsfs has one limit for all of a request, of which none here is for more than 5 MiB.
REQUEST_SECONDS = 300.0
_AZURE = ("abfs", "abfss", "azure")
# These print signed URLs when they repeat or debug. They are silent for the whole process, since
# their threads and event loops outlive a call; what they say comes with the error.
_LOGGERS = ("botocore", "aiobotocore", "s3fs", "gcsfs", "azure")


def options_of(scheme: str, given: Mapping[str, Any], tries: int) -> dict[str, Any]:
    """The options of a filesystem of fsspec, with those that `given` does not have."""
    options = {"skip_instance_cache": True, "use_listings_cache": False, **given}
    if scheme == "s3":
        own = {
            "retries": {"total_max_attempts": tries},
            "signature_version": "s3v4",
            "connect_timeout": CONNECT_SECONDS,
            "read_timeout": READ_SECONDS,
        }
        if not {"session", "profile"} & set(options):
            options["session"] = _session()
        return {**options, "config_kwargs": {**own, **options.get("config_kwargs", {})}}
    if scheme == "gs":
        return {"requests_timeout": REQUEST_SECONDS, **options}
    if scheme in _AZURE:
        own = {"connection_timeout": CONNECT_SECONDS, "read_timeout": READ_SECONDS}
        return {**own, **options}
    return options


def settle(system: Any, scheme: str, tries: int) -> None:
    """Let a filesystem of fsspec make each request `tries` times: it is `attempts.retried` that
    counts, spaces and names. gcsfs knows once, and six times."""
    if scheme == "s3":
        # On top of the tries of botocore.
        system.retries = 1
    elif scheme == "gs":
        _settle_google(system, tries)
    elif scheme in _AZURE:
        _settle_azure(system, tries)


def be_silent() -> None:
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)


def _session() -> Any:
    """With a parser of times that is not most of the work of a long listing, as botocore's is."""
    from aiobotocore.session import AioSession

    session = AioSession()
    parsers = session.get_component("response_parser_factory")
    parsers.set_parser_defaults(timestamp_parser=_time)
    return session


def _time(text: Any) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except (TypeError, ValueError):
        # Those of headers, and numbers.
        from botocore.utils import parse_timestamp

        parsed: datetime = parse_timestamp(text)
        return parsed


def _settle_google(system: Any, tries: int) -> None:
    once = getattr(type(system)._request, "__wrapped__", None)
    if tries == 1 and once is not None:
        system._request = partial(once, system)


def _settle_azure(system: Any, tries: int) -> None:
    pipeline = getattr(system.service_client, "_pipeline", None)
    for policy in getattr(pipeline, "_impl_policies", ()):
        if hasattr(policy, "total_retries"):
            policy.total_retries = tries - 1
            # In seconds, to which powers of three are added.
            policy.initial_backoff = 0
