"""Each scheme, its credentials, and what is said when they or its package are missing."""

from __future__ import annotations

import logging
import ssl
import subprocess
from collections.abc import Iterator
from importlib import util
from pathlib import Path

import pytest
from proxy import Fault, Proxy
from servers import S3, Place, contents, fill, some_bytes

from ray_serve_cai.errors import StorageError
from ray_serve_cai.storage import stores
from ray_serve_cai.storage.listing import list_store
from ray_serve_cai.storage.mirror import mirror
from ray_serve_cai.storage.stores import open_store, scrub

MODEL = {"config.json": b"{}", "empty": b"", "deep/weights.bin": some_bytes(9_000_000, 1)}


def test_google(gs: Place, tmp_path: Path) -> None:
    fill(gs, MODEL)
    assert contents(mirror(gs.url, tmp_path / "here", options=gs.options)) == MODEL
    one = mirror(f"{gs.url}/config.json", tmp_path / "one", options=gs.options)
    assert contents(one) == {"config.json": b"{}"}
    with pytest.raises(StorageError, match="there is nothing"):
        mirror(f"{gs.url}/nothing", tmp_path / "none", options=gs.options)


@pytest.mark.azure
@pytest.mark.parametrize("scheme", ["abfss", "abfs", "azure"])
def test_azure(azure: Place, tmp_path: Path, scheme: str) -> None:
    fill(azure, MODEL)
    url = azure.url.replace("abfss", scheme)
    assert contents(mirror(url, tmp_path / "here", options=azure.options)) == MODEL
    one = mirror(f"{url}/config.json", tmp_path / "one", options=azure.options)
    assert contents(one) == {"config.json": b"{}"}
    with pytest.raises(StorageError, match="there is nothing"):
        mirror(f"{url}/nothing", tmp_path / "none", options=azure.options)


@pytest.mark.azure
def test_azure_by_its_own_variable(
    azure: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(azure, MODEL)
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", azure.options["connection_string"])
    assert contents(mirror(azure.url, tmp_path / "here")) == MODEL


@pytest.mark.parametrize("form", ["{}", "file://{}", "~/store"])
def test_files(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    store = tmp_path / "store"
    for name, data in MODEL.items():
        (store / name).parent.mkdir(parents=True, exist_ok=True)
        (store / name).write_bytes(data)
    url = form.format(store)
    assert contents(mirror(url, tmp_path / "here")) == MODEL
    assert contents(mirror(f"{url}/empty", tmp_path / "one")) == {"empty": b""}
    with pytest.raises(StorageError, match="there is nothing"):
        mirror(f"{url}/nothing", tmp_path / "none")


def test_unknown_scheme() -> None:
    with pytest.raises(StorageError, match=r"ftp:// is not known; there are s3://, gs://"):
        open_store("ftp://host/folder")


@pytest.mark.parametrize(
    ("url", "extra"), [("s3://b/m", "s3"), ("gs://b/m", "gcs"), ("abfss://c/m", "azure")]
)
def test_missing_package(url: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = {"s3fs", "gcsfs", "adlfs"}
    found = util.find_spec
    monkeypatch.setattr(stores, "find_spec", lambda name: None if name in gone else found(name))
    with pytest.raises(StorageError, match="is not installed") as caught:
        open_store(url)
    assert caught.value.hint == f'pip install "ray-serve-cai[{extra}]"'


def test_options_that_the_package_does_not_take(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="s3://b/m"):
        mirror("s3://b/m", tmp_path, options={"key": "a", "username": "b"})


def test_own_options_win(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.put("m/one", b"1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    options = {"endpoint_url": s3.endpoint, "config_kwargs": {"user_agent_extra": "mine"}}
    assert contents(mirror(s3.url(), tmp_path, options=options)) == {"one": b"1"}


def test_anonymous_access(s3: S3, proxy: Proxy, tmp_path: Path) -> None:
    s3.put("m/one", b"1")
    s3.client.put_bucket_acl(Bucket=s3.bucket, ACL="public-read")
    s3.client.put_object_acl(Bucket=s3.bucket, Key="m/one", ACL="public-read")
    assert contents(mirror(s3.url(), tmp_path, options={"anon": True})) == {"one": b"1"}
    assert proxy.seen
    for each in proxy.seen:
        assert "Authorization" not in each.headers
        assert "X-Amz-Signature" not in each.query


def test_no_credentials(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StorageError, match="credentials"):
        mirror(s3.url(), tmp_path)


def test_credentials_of_a_profile(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.put("m/one", b"1")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_PROFILE", "tests")
    (tmp_path / "aws-credentials").write_text(
        "[tests]\naws_access_key_id = AKIAOTHERKEY\naws_secret_access_key = other\n"
    )
    assert contents(mirror(s3.url(), tmp_path / "here")) == {"one": b"1"}


@pytest.mark.parametrize("code", ["InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied"])
def test_wrong_credentials(
    s3: S3, proxy: Proxy, tmp_path: Path, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As S3 answers them; the one of these tests takes any key."""
    body = f"<Error><Code>{code}</Code><Message>The key is not known.</Message></Error>"
    proxy.add(Fault(lists=True, status=403, text=body))
    options = {"key": "AKIAWRONGKEY", "secret": "wrong-secret"}
    with caplog.at_level(logging.DEBUG), pytest.raises(StorageError) as caught:
        mirror(s3.url(), tmp_path, options=options)
    assert caught.value.message.startswith(f"{s3.url()}: access denied")
    assert len(proxy.seen) == 1
    said = caplog.text + str(caught.value)
    assert "wrong-secret" not in said
    assert "AKIAWRONGKEY" not in said


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that vouches for itself, with its key beside it."""
    folder = tmp_path_factory.mktemp("tls")
    subject = ["-subj", "/CN=tests", "-addext", "subjectAltName=IP:127.0.0.1"]
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "ca.pem")]
    subprocess.run(
        ["openssl", "req", "-x509", "-days", "2", *key, *subject, *files],
        check=True,
        capture_output=True,
    )
    return folder


@pytest.fixture
def tls_proxy(s3: S3, authority: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(authority / "ca.pem", authority / "key.pem")
    with Proxy(s3.endpoint, context) as one:
        monkeypatch.setenv("AWS_ENDPOINT_URL", one.url)
        yield one


@pytest.mark.parametrize("way", ["AWS_CA_BUNDLE", "verify", "no verify"])
def test_private_authority(
    s3: S3,
    tls_proxy: Proxy,
    authority: Path,
    tmp_path: Path,
    way: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    s3.put("m/one", b"1")
    options = {}
    if way.endswith("verify"):
        verify = str(authority / "ca.pem") if way == "verify" else False
        options = {"client_kwargs": {"verify": verify}}
    else:
        monkeypatch.setenv(way, str(authority / "ca.pem"))
    assert contents(mirror(s3.url(), tmp_path, options=options)) == {"one": b"1"}
    # Not by the slower way that is there for other refusals.
    assert "X-Amz-Signature" in tls_proxy.asked("one")[0].query
    assert len(tls_proxy.asked("one")) == 1


def test_unknown_authority(s3: S3, tls_proxy: Proxy, tmp_path: Path) -> None:
    s3.put("m/one", b"1")
    with pytest.raises(StorageError, match=r"(?i)certificate|ssl"):
        mirror(s3.url(), tmp_path)
    assert not tls_proxy.seen


def test_hidden_in_texts() -> None:
    said = scrub(
        "GET https://b.s3/m?X-Amz-Signature=abc&X-Amz-Credential=AKIA then "
        "AccountKey=c2VjcmV0;EndpointSuffix=x SharedAccessSignature=sv=1&sig=abc"
    )
    assert "abc" not in said
    assert "AKIA" not in said
    assert "c2VjcmV0" not in said


def test_whole_store_is_one_listing(s3: S3) -> None:
    """More objects than one page of S3 has."""
    from moto.s3.models import s3_backends

    backend = next(iter(s3_backends["123456789012"].values()))
    for number in range(2500):
        backend.put_object(s3.bucket, f"m/{number:05}", b"x")
    files = list_store(open_store(s3.url())).files
    assert [each.name for each in files] == [f"{number:05}" for number in range(2500)]
