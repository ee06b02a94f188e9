"""One page in the real browser of browser.py."""

import json
from pathlib import Path
from typing import Any

from selenium.webdriver import Chrome

WIDTHS_PX, SCHEMES = (1280, 420), ("light", "dark")
LEAST_CONTRAST = 4.5  # WCAG 2.2, 1.4.3, of text in its usual size
CONTRASTS = """
const parse = colour => {
  // rgb(), rgba() or color(srgb …): red, green, blue in 0..255, and the alpha
  const parts = colour.match(/[\\d.]+(e-?\\d+)?/g).map(Number);
  const scale = colour.startsWith('color(') ? 255 : 1;
  return [...parts.slice(0, 3).map(part => part * scale), parts[3] ?? 1];
};
const luminance = ([r, g, b]) => [r, g, b].map(c => c / 255)
  .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
  .reduce((sum, c, n) => sum + c * [0.2126, 0.7152, 0.0722][n], 0);
const ground = element => {
  for (let at = element; at; at = at.parentElement) {
    const colour = parse(getComputedStyle(at).backgroundColor);
    if (colour[3] === 1) return colour;
    if (colour[3] > 0) throw new Error('half transparent: ' + at.outerHTML.slice(0, 80));
  }
  throw new Error('no ground');
};
const found = [];
for (const element of document.querySelectorAll(arguments[0])) {
  const own = [...element.childNodes].filter(n => n.nodeType === 3).map(n => n.data.trim()).join('');
  if (!own || element.closest('style')) continue;
  const style = getComputedStyle(element);
  const svg = element.closest('svg') !== null;
  const colour = parse(svg ? (style.fill === 'none' ? style.color : style.fill) : style.color);
  if (colour[3] === 0) continue;
  const [dark, bright] = [luminance(colour), luminance(ground(element))].sort((a, b) => a - b);
  found.push([own.slice(0, 40), (bright + 0.05) / (dark + 0.05)]);
}
return found;
"""


class Window:
    """One page in the browser, at a width and in a colour scheme."""

    def __init__(self, browser: Chrome, page: Path | str) -> None:
        """page: a file, or the address of a served one."""
        self.browser = browser
        self.address = page.resolve().as_uri() if isinstance(page, Path) else page

    def open(self, width_px: int = 1280, scheme: str = "light", query: str = "") -> None:
        """Load the page anew, with a query in its address; what earlier pages said is forgotten."""
        size = {"width": width_px, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self.browser.get("about:blank")
        for log in ("browser", "performance"):
            self.browser.get_log(log)
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        self.browser.get(self.address + query)

    def run(self, script: str, *arguments: object) -> Any:
        """What the script returns, run in the page by the driver, whatever the page's policy."""
        return self.browser.execute_script(script, *arguments)

    def list_requests(self) -> list[str]:
        """The addresses that were asked for since the page was opened."""
        messages = [json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance")]
        sent = [one["params"] for one in messages if one["method"] == "Network.requestWillBeSent"]
        return [one["request"]["url"] for one in sent]

    def measure_contrasts(self, selector: str) -> list[tuple[str, float]]:
        """The beginning of each text that such elements hold themselves, and its contrast with its ground."""
        return [(text, round(ratio, 2)) for text, ratio in self.run(CONTRASTS, selector)]

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
