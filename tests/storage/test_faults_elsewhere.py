"""Stores other than S3 that break off, lie and refuse: what their own libraries make of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from proxy import Fault, Proxy
from servers import Place, contents, fill, is_whole, some_bytes

from ray_serve_cai.errors import StorageError
from ray_serve_cai.storage import attempts, libraries, transfer
from ray_serve_cai.storage.mirror import mirror

MODEL = {
    "config.json": b"{}",
    "small.bin": some_bytes(40_000, 1),
    "sub/large.bin": some_bytes(250_000, 2),
}
SPOILT = "large.bin"
FAULTS: dict[str, Callable[[], Fault]] = {
    "cut at once": lambda: Fault(SPOILT, cut=0),
    "cut midway": lambda: Fault(SPOILT, cut=30_000),
    "500": lambda: Fault(SPOILT, status=500),
    "503": lambda: Fault(SPOILT, status=503, headers={"Retry-After": "0"}),
    "short, and says so": lambda: Fault(SPOILT, lose=10),
    "short, and does not say so": lambda: Fault(SPOILT, lose=10, honest=False),
    "announces more": lambda: Fault(SPOILT, length=250_001),
    "stands still": lambda: Fault(SPOILT, rate=0.001),
}
# Azure's library makes three attempts at a body, a second apart, whatever it is told.
AT_A_BODY = 3
STAYING = ("cut midway", "500", "503", "short, and says so", "stands still")


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch, quick: None) -> None:
    monkeypatch.setattr(transfer, "PIECE_BYTES", 100_000)
    monkeypatch.setattr(transfer, "WHOLE_BYTES", 200_000)
    monkeypatch.setattr(libraries, "READ_SECONDS", 0.5)
    monkeypatch.setattr(libraries, "REQUEST_SECONDS", 0.5)
    hasty = SimpleNamespace(**{**vars(asyncio), "sleep": lambda _: asyncio.sleep(0)})
    monkeypatch.setattr("azure.storage.blob.aio._download_async.asyncio", hasty)


@pytest.fixture
def proxied(elsewhere: tuple[Place, Proxy]) -> tuple[Place, Proxy]:
    place, proxy = elsewhere
    fill(place, MODEL)
    proxy.heal()
    return place, proxy


@pytest.mark.parametrize("name", FAULTS)
def test_fault_that_ends(proxied: tuple[Place, Proxy], tmp_path: Path, name: str) -> None:
    place, proxy = proxied
    fault = proxy.add(FAULTS[name]())
    fault.times = 2
    folder = mirror(place.url, tmp_path / "here", options=place.options)
    assert contents(folder) == MODEL
    assert is_whole(folder)
    assert fault.times == 0


@pytest.mark.parametrize("name", STAYING)
def test_fault_that_stays(
    proxied: tuple[Place, Proxy], tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "ATTEMPTS", 2)
    place, proxy = proxied
    proxy.add(FAULTS[name]())
    folder = tmp_path / "here"
    started = time.monotonic()
    with pytest.raises(StorageError, match=r"m/sub/large\.bin") as caught:
        mirror(place.url, folder, options=place.options)
    # With what comes of `READ_SECONDS`, and twice as long on a busy machine.
    assert time.monotonic() - started < 2 * 2 * AT_A_BODY * (1 + 0.5)
    assert caught.value.code == "CAI-STORAGE-002"
    assert not is_whole(folder)
    assert not (folder / "sub").exists()
    pieces = 3
    assert len(proxy.asked(SPOILT)) <= pieces * attempts.ATTEMPTS * AT_A_BODY
    proxy.heal()
    assert contents(mirror(place.url, folder, options=place.options)) == MODEL
    assert is_whole(folder)


def test_slow_bytes_are_waited_for(
    proxied: tuple[Place, Proxy], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, proxy = proxied
    monkeypatch.setattr(libraries, "REQUEST_SECONDS", 30.0)
    proxy.add(Fault("small.bin", rate=40_000.0))
    assert contents(mirror(place.url, tmp_path / "here", options=place.options)) == MODEL
    assert len(proxy.asked("small.bin")) == 1


def test_denied_object(proxied: tuple[Place, Proxy], tmp_path: Path) -> None:
    place, proxy = proxied
    proxy.add(Fault("small.bin", status=403))
    with pytest.raises(StorageError, match=r"m/small\.bin: access denied"):
        mirror(place.url, tmp_path / "here", options=place.options)
    assert len(proxy.asked("small.bin")) == 1


@pytest.mark.parametrize("status", [403, 500])
def test_refused_listing(proxied: tuple[Place, Proxy], tmp_path: Path, status: int) -> None:
    place, proxy = proxied
    fault = proxy.add(Fault(status=status, lists=True))
    with pytest.raises(StorageError) as caught:
        mirror(place.url, tmp_path / "here", options=place.options)
    assert len(proxy.seen) <= 2 * attempts.ATTEMPTS
    assert caught.value.message.startswith(place.url)
    assert ("access denied" in caught.value.message) == (status == 403)
    fault.times = 0
    assert contents(mirror(place.url, tmp_path / "here", options=place.options)) == MODEL
