"""A store that breaks off, lies and refuses, by way of a proxy before a real one."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path

import pytest
from proxy import FOR_EVER, Fault, Proxy
from servers import KEY, S3, SECRET, contents, is_whole, some_bytes

from ray_serve_cai.errors import StorageError
from ray_serve_cai.storage import attempts, transfer, wire
from ray_serve_cai.storage.mirror import mirror

SMALL, LARGE = some_bytes(40_000, 1), some_bytes(250_000, 2)
MODEL = {"config.json": b"{}", "small.bin": SMALL, "sub/large.bin": LARGE}
SPOILT = "large.bin"


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch, quick: None) -> None:
    monkeypatch.setattr(transfer, "PIECE_BYTES", 100_000)
    monkeypatch.setattr(transfer, "WHOLE_BYTES", 200_000)
    monkeypatch.setattr(wire, "READ_SECONDS", 0.5)


@pytest.fixture
def model(s3: S3) -> S3:
    for name, data in MODEL.items():
        s3.put(f"m/{name}", data)
    return s3


FAULTS: dict[str, Callable[[], Fault]] = {
    "cut at once": lambda: Fault(SPOILT, cut=0),
    "cut midway": lambda: Fault(SPOILT, cut=30_000),
    "500": lambda: Fault(SPOILT, status=500),
    "503": lambda: Fault(SPOILT, status=503, headers={"Retry-After": "0"}),
    "short, and says so": lambda: Fault(SPOILT, lose=10),
    "short, and does not say so": lambda: Fault(SPOILT, lose=10, honest=False),
    "announces more": lambda: Fault(SPOILT, length=250_001),
    "another range": lambda: Fault(SPOILT, headers={"Content-Range": "bytes 0-9/250000"}),
    "stands still": lambda: Fault(SPOILT, rate=0.001),
}


# Of the answer to a request for all of an object nobody reads the range.
BOTH = [(n, p) for n in FAULTS for p in (SPOILT, "small.bin") if n != "another range"]


@pytest.mark.parametrize(("name", "part"), [*BOTH, ("another range", SPOILT)])
def test_fault_that_ends(model: S3, proxy: Proxy, tmp_path: Path, name: str, part: str) -> None:
    fault = proxy.add(FAULTS[name]())
    fault.part, fault.times = part, 2
    if part == "small.bin":
        fault.length = fault.length and len(SMALL) + 1
    folder = mirror(model.url(), tmp_path / "here")
    assert contents(folder) == MODEL
    assert is_whole(folder)
    assert fault.times == 0


@pytest.mark.parametrize("name", [each for each in FAULTS if each != "cut midway"])
def test_fault_that_stays(model: S3, proxy: Proxy, tmp_path: Path, name: str) -> None:
    proxy.add(FAULTS[name]())
    folder = tmp_path / "here"
    started = time.monotonic()
    with pytest.raises(StorageError) as caught:
        mirror(model.url(), folder)
    assert time.monotonic() - started < 20
    assert f"{model.bucket}/m/sub/large.bin" in caught.value.message
    assert caught.value.code == "CAI-STORAGE-002"
    assert not is_whole(folder)
    assert not (folder / "sub").exists()
    assert all(MODEL[name] == data for name, data in contents(folder).items())
    _check_attempts(proxy)
    proxy.heal()
    assert contents(mirror(model.url(), folder)) == MODEL
    assert is_whole(folder)


def _check_attempts(proxy: Proxy) -> None:
    by_range: dict[str, int] = {}
    for each in proxy.asked(SPOILT):
        wanted = each.headers.get("Range", "")
        by_range[wanted] = by_range.get(wanted, 0) + 1
    assert by_range
    assert max(by_range.values()) <= attempts.ATTEMPTS


def test_cut_midway_goes_on_where_it_broke_off(
    model: S3, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What had come is kept, to the last mebibyte."""
    monkeypatch.setattr(transfer, "WHOLE_BYTES", 2**23)
    huge = some_bytes(4 * 2**20, 4)
    model.put("huge/one", huge)
    proxy.add(Fault("one", cut=5 * 2**19, times=1))
    assert contents(mirror(model.url("huge"), tmp_path / "here")) == {"one": huge}
    first, second = (each.headers.get("Range", "") for each in proxy.asked("one"))
    assert not first
    assert 2 * 2**20 <= int(second.removeprefix("bytes=").split("-")[0]) <= 5 * 2**19


def test_attempts_are_spaced(
    model: S3, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "FIRST_PAUSE_SECONDS", 0.1)
    monkeypatch.setattr(attempts, "LONGEST_PAUSE_SECONDS", 0.8)
    proxy.add(Fault("small.bin", status=500))
    with pytest.raises(StorageError, match=r"small\.bin: the store answers 500 \(tried 6 times\)"):
        mirror(model.url(), tmp_path / "here")
    times = [each.at for each in proxy.asked("small.bin")]
    pauses = [later - sooner for sooner, later in itertools.pairwise(times)]
    assert len(times) == attempts.ATTEMPTS
    for pause, least in zip(pauses, (0.1, 0.2, 0.4, 0.8, 0.8), strict=True):
        assert least <= pause < 2.5


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_honoured(
    model: S3, proxy: Proxy, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "LONGEST_PAUSE_SECONDS", 3.0)
    fault = proxy.add(Fault("small.bin", status=503, times=1))

    def ask() -> None:
        # Dates have no fractions.
        date = formatdate(time.time() + 2, usegmt=True)
        fault.headers["Retry-After"] = "1" if form == "seconds" else date

    fault.before = ask
    mirror(model.url(), tmp_path / "here")
    first, second = (each.at for each in proxy.asked("small.bin"))
    assert 0.8 <= second - first < 3.5


def test_retry_after_of_a_day_is_not(model: S3, proxy: Proxy, tmp_path: Path) -> None:
    proxy.add(Fault("small.bin", status=503, headers={"Retry-After": "86400"}, times=1))
    started = time.monotonic()
    mirror(model.url(), tmp_path / "here")
    assert time.monotonic() - started < 5


def test_slow_bytes_are_waited_for(model: S3, proxy: Proxy, tmp_path: Path) -> None:
    """Longer altogether than a read may stand still."""
    proxy.add(Fault("small.bin", rate=40_000.0))
    folder = mirror(model.url(), tmp_path / "here")
    assert contents(folder) == MODEL
    assert len(proxy.asked("small.bin")) == 1


def test_bytes_that_trickle_are_not(
    model: S3, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each comes long before a read is given up, and all of them would take half an hour."""
    monkeypatch.setattr(wire, "SLOW_SECONDS", 0.3)
    trickle = proxy.add(Fault("small.bin", rate=20.0))
    started = time.monotonic()
    with pytest.raises(StorageError, match=r"m/small\.bin: TimeoutError \(tried 6 times\)"):
        mirror(model.url(), tmp_path / "here")
    assert time.monotonic() - started < 20
    trickle.times = 0
    assert contents(mirror(model.url(), tmp_path / "here")) == MODEL


@pytest.mark.parametrize("times", [1, FOR_EVER])
def test_flipped_byte(model: S3, proxy: Proxy, tmp_path: Path, times: int) -> None:
    proxy.add(Fault(SPOILT, flip=True, times=times))
    folder = tmp_path / "here"
    with pytest.raises(StorageError, match=r"m/sub/large\.bin: its ETag is \w+ instead of \w+"):
        mirror(model.url(), folder)
    assert not (folder / "sub").exists()
    assert not list((folder / ".cai/parts").iterdir())
    proxy.heal()
    assert contents(mirror(model.url(), folder)) == MODEL


def test_denied_object(model: S3, proxy: Proxy, tmp_path: Path) -> None:
    proxy.add(Fault("small.bin", status=403))
    with pytest.raises(StorageError, match=r"m/small\.bin: access denied"):
        mirror(model.url(), tmp_path / "here")
    # By URL, and by the store's own library, whose answer has the reason.
    assert len(proxy.asked("small.bin")) == 2


def test_vanished_object(model: S3, proxy: Proxy, tmp_path: Path) -> None:
    proxy.add(Fault("small.bin", before=lambda: model.remove("m/small.bin"), times=1))
    with pytest.raises(StorageError, match=r"m/small\.bin: there is nothing"):
        mirror(model.url(), tmp_path / "here")
    folder = mirror(model.url(), tmp_path / "here")
    assert set(contents(folder)) == {"config.json", "sub/large.bin"}


@pytest.mark.parametrize("other", [some_bytes(250_000, 3), some_bytes(10, 3)])
def test_object_changed_between_pieces(
    model: S3, proxy: Proxy, tmp_path: Path, other: bytes
) -> None:
    """Pieces of one version are never joined with those of another."""

    def change() -> None:
        model.put("m/sub/large.bin", other)

    proxy.add(Fault(SPOILT, before=change, times=1))
    with pytest.raises(StorageError, match=r"large\.bin: it changed while it was read"):
        mirror(model.url(), tmp_path / "here")
    assert not (tmp_path / "here/sub").exists()
    assert contents(mirror(model.url(), tmp_path / "here"))["sub/large.bin"] == other


@pytest.mark.parametrize("status", [500, 503])
def test_listing_fault_that_ends(model: S3, proxy: Proxy, tmp_path: Path, status: int) -> None:
    proxy.add(Fault(lists=True, status=status, times=2))
    assert contents(mirror(model.url(), tmp_path / "here")) == MODEL


@pytest.mark.parametrize("fault", [{"status": 500}, {"cut": 50}, {"status": 503}])
def test_listing_fault_that_stays(
    model: S3, proxy: Proxy, tmp_path: Path, fault: dict[str, int]
) -> None:
    proxy.add(Fault(lists=True, **fault))  # type: ignore[arg-type]
    with pytest.raises(StorageError) as caught:
        mirror(model.url(), tmp_path / "here")
    assert caught.value.message.startswith(model.url())
    assert len(proxy.seen) <= 2 * attempts.ATTEMPTS
    assert not is_whole(tmp_path / "here")


def test_denied_listing(model: S3, proxy: Proxy, tmp_path: Path) -> None:
    proxy.add(Fault(lists=True, status=403))
    with pytest.raises(StorageError, match=f"{model.url()}: access denied"):
        mirror(model.url(), tmp_path / "here")


@pytest.mark.parametrize("name", ["cut at once", "500", "short, and says so"])
def test_no_secret_is_said(
    model: S3, proxy: Proxy, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    proxy.add(FAULTS[name]())
    proxy.add(Fault("small.bin", status=403))
    with caplog.at_level(logging.DEBUG), pytest.raises(StorageError) as caught:
        mirror(model.url(), tmp_path / "here")
    signatures = {
        part.split("=", 1)[1]
        for each in proxy.seen
        for part in each.query.split("&")
        if part.startswith("X-Amz-Signature=")
    }
    assert signatures
    said = "".join((caplog.text, str(caught.value), repr(caught.value), str(caught.value.hint)))
    for secret in (*signatures, "X-Amz-Signature", SECRET, KEY):
        assert secret not in said
