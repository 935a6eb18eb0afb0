"""Stores on loopback that speak the protocols of S3, Azure Blob and Google Cloud Storage."""

from __future__ import annotations

import hashlib
import os
import random
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import boto3
import filelock
import fsspec
import pytest
import urllib3
from botocore.config import Config
from support import until

REGION = "eu-west-1"
KEY, SECRET = "AKIAEXAMPLEKEY", "the-secret-of-the-tests"
AZURITE = "3.35.0"
AZURE_ACCOUNT = "devstoreaccount1"
# The one key that azurite knows; its manual prints it.
AZURE_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)
START_SECONDS = 60.0


@dataclass
class S3:
    """A bucket of its own for each test. `endpoint` may be a proxy's."""

    endpoint: str
    bucket: str = field(default_factory=lambda: fresh_name())

    def __post_init__(self) -> None:
        self.client = _client(self.endpoint)
        self.client.create_bucket(
            Bucket=self.bucket, CreateBucketConfiguration={"LocationConstraint": REGION}
        )

    def put(self, name: str, data: bytes = b"", **more: Any) -> None:
        self.client.put_object(Bucket=self.bucket, Key=name, Body=data, **more)

    def put_parts(self, name: str, *parts: bytes) -> None:
        """An object uploaded in these parts; only the last may be below 5 MiB."""
        place = {"Bucket": self.bucket, "Key": name}
        upload = self.client.create_multipart_upload(**place)["UploadId"]
        made = []
        for number, part in enumerate(parts, 1):
            answer = self.client.upload_part(
                **place, UploadId=upload, PartNumber=number, Body=part
            )
            made.append({"PartNumber": number, "ETag": answer["ETag"]})
        self.client.complete_multipart_upload(
            **place, UploadId=upload, MultipartUpload={"Parts": made}
        )

    def get(self, name: str) -> bytes:
        return bytes(self.client.get_object(Bucket=self.bucket, Key=name)["Body"].read())

    def remove(self, name: str) -> None:
        self.client.delete_object(Bucket=self.bucket, Key=name)

    def names(self) -> set[str]:
        listing = self.client.list_objects_v2(Bucket=self.bucket)
        return {each["Key"] for each in listing.get("Contents", [])}

    def url(self, prefix: str = "m") -> str:
        return f"s3://{self.bucket}/{prefix}"


@cache
def _client(endpoint: str) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name=REGION,
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
        config=Config(request_checksum_calculation="when_required"),
    )


@dataclass(frozen=True)
class Place:
    """Somewhere a folder can be pushed to, with the options that its filesystem needs."""

    url: str
    options: dict[str, Any]
    endpoint: str = ""

    def behind(self, endpoint: str) -> Place:
        """The same by way of a proxy."""
        options = {
            key: value.replace(self.endpoint, endpoint) for key, value in self.options.items()
        }
        return Place(self.url, options, endpoint)


def fill(place: Place, model: Mapping[str, bytes]) -> None:
    system, root = fsspec.core.url_to_fs(place.url, **place.options, skip_instance_cache=True)
    for name, data in model.items():
        system.pipe_file(f"{root}/{name}", data)


def fresh_name() -> str:
    return f"bucket-{random.randbytes(6).hex()}"


def some_bytes(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a mirrored folder by name, without the notes about it."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.relative_to(folder).parts[0] != ".cai"
    }


def is_whole(folder: Path) -> bool:
    return (folder / ".cai" / "manifest.json").exists()


def sum_of(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def s3_environment(endpoint: str, home: Path) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_CONFIG_FILE": str(home / "aws-config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(home / "aws-credentials"),
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def set_all(monkeypatch: pytest.MonkeyPatch, environment: Mapping[str, str]) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


@contextmanager
def azurite(folder: Path) -> Iterator[int]:
    """Its port. It is a program of node, and fetched once."""
    program = _azurite_program()
    port = free_port()
    log = (folder / "log").open("wb")
    flags = ["--skipApiVersionCheck", "--silent", "--disableTelemetry", "--inMemoryPersistence"]
    process = subprocess.Popen(
        [program, *flags, "--blobPort", str(port)],
        cwd=folder,
        stdout=log,
        stderr=log,
    )
    try:
        until(lambda: answers(port) or process.poll() is not None, START_SECONDS, "azurite")
        assert process.poll() is None, (folder / "log").read_text()
        yield port
    finally:
        process.terminate()
        process.wait()
        log.close()


def _azurite_program() -> str:
    cache = Path(os.environ.get("CAI_TEST_CACHE", Path(tempfile.gettempdir(), "cai-test-tools")))
    folder = cache / f"azurite-{AZURITE}"
    program = folder / "node_modules" / ".bin" / "azurite-blob"
    cache.mkdir(parents=True, exist_ok=True)
    # Several runs of the tests may share the folder.
    with filelock.FileLock(cache / "lock"):
        if not program.exists():
            flags = ["--no-audit", "--no-fund", "--loglevel=error", "--prefix", str(folder)]
            subprocess.run(
                ["npm", "install", *flags, f"azurite@{AZURITE}"],
                check=True,
                timeout=300,
            )
    return str(program)


def free_port() -> int:
    with closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def answers(port: int) -> bool:
    """Whether an HTTP server, of whatever opinion, is there."""
    try:
        urllib3.request("GET", f"http://127.0.0.1:{port}/", retries=False, timeout=5)
    except urllib3.exceptions.HTTPError:
        return False
    return True
