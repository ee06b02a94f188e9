"""One page in the real browser of tests/support/browser.py."""

from pathlib import Path
from typing import Any

from selenium.webdriver import Chrome

from tests.support.browser import browser as browser


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
