"""A real headless browser: Debian's chromium and chromium-driver, nothing downloaded, a profile of its own."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


class Window:
    """One page in the browser, at a width and in a colour scheme."""

    def __init__(self, browser: Chrome, page: Path) -> None:
        self.browser, self.address = browser, page.resolve().as_uri()

    def open(self, width_px: int = 1280, scheme: str = "light") -> None:
        """Load the page anew; what earlier pages said is forgotten."""
        size = {"width": width_px, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self.browser.get("about:blank")
        for log in ("browser", "performance"):
            self.browser.get_log(log)
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        self.browser.get(self.address)

    def run(self, script: str, *arguments: object) -> Any:
        """What the script returns, run in the page by the driver, whatever the page's policy."""
        return self.browser.execute_script(script, *arguments)

    def fonts(self, selector: str) -> tuple[str, list[dict[str, Any]]]:
        """The text of the last such element, and the fonts that really draw it, with their counts of glyphs."""
        ask = self.browser.execute_cdp_cmd
        for domain in ("DOM", "CSS"):
            ask(f"{domain}.enable", {})
        root = ask("DOM.getDocument", {})["root"]["nodeId"]
        nodes = ask("DOM.querySelectorAll", {"nodeId": root, "selector": selector})["nodeIds"]
        fonts = ask("CSS.getPlatformFontsForNode", {"nodeId": nodes[-1]})["fonts"]
        text = self.run("return [...document.querySelectorAll(arguments[0])].at(-1).textContent.trim()", selector)
        return text, fonts
