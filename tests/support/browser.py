"""A real headless browser: Debian's chromium and chromium-driver, nothing downloaded, a profile of its own."""

import os
import shutil
from collections.abc import Iterator

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

# the browser itself asks the network for nothing, so that every request seen is the page's
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """Without one the test fails, or with ALLOW_NO_BROWSER=1 is skipped."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        said = "no chromium or no chromedriver: apt-get install chromium chromium-driver fonts-noto-cjk"
        if os.environ.get("ALLOW_NO_BROWSER") == "1":
            pytest.skip(said)
        pytest.fail(f"{said}, or skip these tests with ALLOW_NO_BROWSER=1")
    options = ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with Chrome(options=options, service=Service(driver)) as chrome:
        yield chrome
