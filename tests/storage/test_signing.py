"""Signatures of our own beside those of botocore."""

from __future__ import annotations

import datetime
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import fsspec
import pytest
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_serve_cai.storage import signing
from ray_serve_cai.storage.signing import Signer

KEYS = st.text("abcXYZ019/+=", min_size=1, max_size=40)
ENDPOINTS = st.sampled_from(
    ["https://objects.example.com", "http://127.0.0.1:9000", "https://s3.example.com:443"]
)


class ByBotocore:
    """What `Signer` uses of s3fs; it signs whatever it is asked."""

    def __init__(self, endpoint: str, region: str, credentials: ReadOnlyCredentials) -> None:
        self.key, self.secret = credentials.access_key, credentials.secret_key
        self.token = credentials.token
        self._auth = S3SigV4QueryAuth(credentials, "s3", region, expires=signing.SIGNED_SECONDS)
        self._endpoint = endpoint

    def sign(self, path: str, expiration: int) -> str:
        request = AWSRequest("GET", url=f"{self._endpoint}/{signing._quoted(path)}")
        self._auth.add_auth(request)
        return str(request.url)


@given(
    names=st.lists(st.text(min_size=1, max_size=30), min_size=2, max_size=5),
    credentials=st.builds(ReadOnlyCredentials, KEYS, KEYS, st.one_of(st.none(), KEYS)),
    region=st.sampled_from(["us-east-1", "eu-west-1", "auto"]),
    endpoint=ENDPOINTS,
)
@settings(max_examples=200, deadline=None)
def test_every_url_is_signed_as_botocore_does(
    names: list[str], credentials: ReadOnlyCredentials, region: str, endpoint: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        now = datetime.datetime(2026, 1, 2, 3, 4, 5)
        patch.setattr("botocore.auth.get_current_datetime", lambda: now)
        system = ByBotocore(endpoint, region, credentials)
        signer = Signer(system)
        for name in names:
            name = name.encode(errors="ignore").decode()
            ours, theirs = signer.url(f"bucket/{name}"), system.sign(f"bucket/{name}", 0)
            assert urlsplit(ours)[:3] == urlsplit(theirs)[:3]
            assert parse_qs(urlsplit(ours).query) == parse_qs(urlsplit(theirs).query)
        assert signer._form is not None, "none of them was left to s3fs"


@pytest.mark.parametrize("spoil", ["secret", "version"])
def test_what_is_signed_otherwise_is_left_to_the_library(
    spoil: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = ByBotocore("https://s3.example.com", "us-east-1", ReadOnlyCredentials("k", "s", None))
    url = good.sign("bucket/x", 0)
    if spoil == "version":
        url = url.replace("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256")
    other = SimpleNamespace(key="k", secret="other", token=None, sign=lambda *_, **__: url)
    assert Signer(other).url("bucket/x") == url


def test_public_buckets_have_plain_urls() -> None:
    system = fsspec.filesystem(
        "s3", anon=True, endpoint_url="http://127.0.0.1:9", skip_instance_cache=True
    )
    assert Signer(system).url("bucket/a b") == "http://127.0.0.1:9/bucket/a%20b"
