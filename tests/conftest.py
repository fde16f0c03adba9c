"""What every test shares: one thread, no network, one browser and one demo model for the whole session."""

import os

# Before anything imports torch or jupyter. One thread, because two OpenMP threads on a busy two-core machine
# can make a 0.2 s forward last 7 s; offline, because no test may depend on what a hub serves today.
os.environ |= {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "JUPYTER_PLATFORM_DIRS": "1",
}

import asyncio
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    import lenskit

# A property must hold however long it takes, and CI must try the same examples twice.
hypothesis.settings.register_profile("lenskit", deadline=None, derandomize=os.environ.get("CI") == "true")
hypothesis.settings.load_profile("lenskit")

QUIET_CHROMIUM = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]


def find_chromium() -> str | None:
    """The browser to test in: $LENSKIT_CHROMIUM, or the first Chromium or Chrome on the path."""
    if chosen := os.environ.get("LENSKIT_CHROMIUM"):
        return chosen
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((path for name in names if (path := shutil.which(name))), None)


@pytest.fixture(scope="session")
def browser() -> Iterator["Browser"]:
    """One headless Chromium. Where there is none the test is skipped; in CI (CI=true) it fails instead."""
    path = find_chromium()
    if path is None:
        reason = "no Chromium here: apt-get install chromium, or set LENSKIT_CHROMIUM to one"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, headless=True, args=QUIET_CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture(autouse=True)
def own_event_loop(request: pytest.FixtureRequest) -> Iterator[None]:
    """Playwright's event loop stays marked as running between calls: hide it from tests without a browser."""
    loop = asyncio._get_running_loop()
    if loop is None or "browser" in request.fixturenames:
        yield
        return
    asyncio._set_running_loop(None)
    yield
    asyncio._set_running_loop(loop)


@pytest.fixture(scope="session")
def demo() -> "lenskit.Model":
    """The demo model (SmolLM2-135M-Instruct, 4-bit), loaded once: leave nothing behind in it."""
    import torch

    import lenskit

    torch.set_num_threads(1)
    return lenskit.load("demo")
