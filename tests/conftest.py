"""What all tests share: homes of their own, the markers of means, and real clusters."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import support
from support import Cai, Cluster, short_folder

# Variables of the person who runs the tests that would steer `cai`, Ray or a client.
# For the tests of the conformance kit.
pytest_plugins = ["pytester", "fakes.cloudera.fixtures"]

FOREIGN = ("CAI_CLUSTER", "CAI_API_KEY", "CAI_NODE_IP", "CDSW_IP_ADDRESS", "CDSW_APP_PORT")
FOREIGN_RAY = ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_TMPDIR")


def pytest_configure() -> None:
    # A script that starts the tests in the background makes them deaf to it, and what they start.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for marker, missing in _missing().items():
        for item in items:
            if missing and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=missing))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Where CI=1 promises everything a test needs, a skip for a missing means is a failure."""
    report = yield
    wanted = [why for name, why in _missing().items() if why and item.get_closest_marker(name)]
    if report.skipped and wanted and os.environ.get("CAI_CI") == "1":
        report.outcome = "failed"
        report.longrepr = f"skipped where CAI_CI=1 promises its means: {wanted[0]}"
    return report


@pytest.fixture(autouse=True)
def _own_homes(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path_factory.mktemp("home")
    for name in (*FOREIGN, *FOREIGN_RAY):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("CAI_HOME", str(home / "cai"))
    monkeypatch.setenv("CAI_CACHE", str(home / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def short_home() -> Iterator[Path]:
    """A folder with a short path, for clusters; it goes with its processes."""
    with short_folder() as folder:
        yield folder


@pytest.fixture
def cai(short_home: Path) -> Iterator[Cai]:
    """Runs the real command with homes of its own; nothing that it started outlives the test."""
    command = Cai(short_home)
    yield command
    command.end_everything()


@pytest.fixture(scope="module")
def echo_cluster() -> Iterator[Cluster]:
    """A real local cluster without models, taken down at the end without a trace but logs."""
    with short_folder() as folder:
        cluster = Cluster.up(Cai(folder), "echoes")
        yield cluster
        cluster.down_without_trace()


def _missing() -> dict[str, str | None]:
    """Marker to what its tests lack here."""
    node = shutil.which("node") and shutil.which("npm")
    browser = support.browser() and shutil.which("chromedriver")
    return {
        "root": _missing_for_root(),
        "azure": None if node else "needs node and npm",
        "browser": None if browser else "needs chromium and chromedriver",
    }


def _missing_for_root() -> str | None:
    if os.geteuid() != 0:
        return "needs root"
    return None if shutil.which("ip") else "needs the program ip"
