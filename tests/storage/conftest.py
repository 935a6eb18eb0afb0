"""The stores' servers, one of each for all tests, and what a test needs to reach them."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from botocore.loaders import create_loader
from proxy import Proxy
from servers import (
    AZURE_ACCOUNT,
    AZURE_KEY,
    S3,
    Place,
    azurite,
    fresh_name,
    s3_environment,
    set_all,
)

from ray_serve_cai.storage import attempts

# Read when gcsfs is imported; it would ask each bucket's kind by gRPC, which the emulator lacks.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"


@pytest.fixture(scope="session", autouse=True)
def _one_loader() -> Iterator[None]:
    """botocore reads a mebibyte of JSON for each client, of which there are hundreds here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("botocore.session.create_loader", cache(create_loader))
        yield


@pytest.fixture(scope="session")
def moto() -> Iterator[str]:
    """The endpoint of an S3 in this process."""
    from moto.server import ThreadedMotoServer

    # It prints every URL, and tests look for secrets in what is logged.
    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def s3(moto: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> S3:
    """Reached by the environment alone, as users do."""
    set_all(monkeypatch, s3_environment(moto, tmp_path))
    return S3(moto)


@pytest.fixture
def proxy(moto: str, s3: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """Between whoever reads the environment and the S3."""
    with Proxy(moto) as one:
        monkeypatch.setenv("AWS_ENDPOINT_URL", one.url)
        yield one


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses between attempts that suit tests."""
    monkeypatch.setattr(attempts, "FIRST_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(attempts, "LONGEST_PAUSE_SECONDS", 0.1)


@pytest.fixture(scope="session")
def google() -> Iterator[str]:
    import http.server

    from gcp_storage_emulator.server import create_server

    server = create_server("127.0.0.1", 0, in_memory=True)
    with pytest.MonkeyPatch.context() as patch:
        # Its own serves one connection at a time, for as long as that stays open.
        patch.setattr(http.server, "HTTPServer", http.server.ThreadingHTTPServer)
        server.start()
    host, port = server._api._httpd.socket.getsockname()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def gs(google: str, monkeypatch: pytest.MonkeyPatch) -> Place:
    import gcsfs

    monkeypatch.setenv("STORAGE_EMULATOR_HOST", google)
    options = {"endpoint_url": google, "token": "anon"}
    bucket = fresh_name()
    gcsfs.GCSFileSystem(**options, skip_instance_cache=True).mkdir(bucket)
    return Place(f"gs://{bucket}/m", options, google)


@pytest.fixture(scope="session")
def azure_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with azurite(tmp_path_factory.mktemp("azurite")) as port:
        yield port


@pytest.fixture
def azure(azure_port: int) -> Place:
    from azure.storage.blob import BlobServiceClient

    endpoint = f"http://127.0.0.1:{azure_port}"
    connection = (
        f"DefaultEndpointsProtocol=http;AccountName={AZURE_ACCOUNT};AccountKey={AZURE_KEY};"
        f"BlobEndpoint={endpoint}/{AZURE_ACCOUNT};"
    )
    container = fresh_name()
    with BlobServiceClient.from_connection_string(connection) as client:
        client.create_container(container)
    return Place(f"abfss://{container}/m", {"connection_string": connection}, endpoint)


@pytest.fixture(params=["gs", pytest.param("azure", marks=pytest.mark.azure)])
def elsewhere(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Place, Proxy]]:
    """A place in a store that is not S3, reached through the proxy."""
    place: Place = request.getfixturevalue(request.param)
    with Proxy(place.endpoint) as proxy:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.url)
        yield place.behind(proxy.url), proxy
