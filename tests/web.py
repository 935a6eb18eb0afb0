"""A headless browser that keeps what its pages ask for and complain of."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from support import browser


@contextmanager
def chromium(*arguments: str) -> Iterator[Chrome]:
    options = ChromeOptions()
    options.binary_location = str(browser())
    # The sandbox needs rights that root in a container lacks, /dev/shm is small there.
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", *arguments):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options, ChromeService(str(shutil.which("chromedriver"))))
    try:
        yield driver
    finally:
        driver.quit()


def complaints(driver: Chrome) -> list[str]:
    """What the page wrote to the console since the last look."""
    return [entry["message"] for entry in driver.get_log("browser")]


def events(driver: Chrome) -> list[dict[str, Any]]:
    """What the network did since the last look, as Chrome's DevTools tell it."""
    told = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    return [event for event in told if event["method"].startswith("Network.")]


def origins(told: list[dict[str, Any]]) -> set[str]:
    """Where requests went."""
    urls = [
        e["params"]["request"]["url"] for e in told if e["method"].endswith("requestWillBeSent")
    ]
    return {urlsplit(url).netloc for url in urls if not url.startswith("data:")}


def statuses(told: list[dict[str, Any]]) -> dict[str, int]:
    """Path to status of the answers."""
    answers = [e["params"]["response"] for e in told if e["method"].endswith("responseReceived")]
    return {
        urlsplit(r["url"]).path: r["status"] for r in answers if not r["url"].startswith("data:")
    }
