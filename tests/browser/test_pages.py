"""report.html and quality.html in a real browser: they load whole, run nothing, ask for nothing, can be read."""

import json
from pathlib import Path

import pytest
from selenium.webdriver import Chrome

from tests.browser.conftest import Window
from tests.support import quality_inputs, report_inputs
from tuwen.core.params import load_params
from tuwen.report import report
from tuwen.report.quality.page import write_page

WIDTHS_PX, SCHEMES = (1280, 420), ("light", "dark")
LEAST_CONTRAST = 4.5  # WCAG 2.2, 1.4.3, of text in its usual size
TEXTS = """
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
for (const element of document.querySelectorAll('main, main *')) {
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


@pytest.fixture(scope="module")
def report_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = report_inputs.make(tmp_path_factory.mktemp("report"))
    folders = [root / name for name in ("data", "embeddings", "models", "results")]
    report.write_reports(*folders, load_params(root / "params.yaml"))
    return root / "results/report.html"


@pytest.fixture(scope="module")
def quality_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quality")
    write_page(folder / "quality.html", **quality_inputs.make_inputs(folder / "data"))
    return folder / "quality.html"


@pytest.fixture(scope="module", params=["report", "quality"])
def window(request: pytest.FixtureRequest, browser: Chrome) -> Window:
    return Window(browser, request.getfixturevalue(f"{request.param}_page"))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width_px", WIDTHS_PX)
def test_the_page_loads_whole_and_fits(window: Window, width_px: int, scheme: str) -> None:
    window.open(width_px, scheme)
    assert window.browser.get_log("browser") == []  # no console error, no violation of the page's own policy
    pictures = window.run("return [...document.images].map(i => [i.complete, i.naturalWidth])")
    assert len(pictures) >= 8
    assert all(complete and width_px > 0 for complete, width_px in pictures)
    inside, outside = window.run("const e = document.documentElement; return [e.scrollWidth, e.clientWidth]")
    assert inside <= outside
    assert window.run("return matchMedia('(prefers-color-scheme: dark)').matches") == (scheme == "dark")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_text_stands_out_from_its_ground(window: Window, scheme: str) -> None:
    window.open(1280, scheme)
    found = window.run(TEXTS)
    assert len(found) > 80
    assert [(text, round(ratio, 2)) for text, ratio in found if ratio < LEAST_CONTRAST] == []


def test_the_page_asks_for_nothing_but_itself(window: Window) -> None:
    window.open()
    messages = [json.loads(entry["message"])["message"] for entry in window.browser.get_log("performance")]
    sent = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
    assert window.address in sent  # the log does see requests
    assert [url for url in sent if url != window.address and not url.startswith(("data:", "about:"))] == []
    resources = window.run("return performance.getEntriesByType('resource').map(r => r.name)")
    assert [name for name in resources if not name.startswith("data:")] == []


def test_a_hostile_caption_is_text_and_runs_nothing(browser: Chrome, report_page: Path) -> None:
    window = Window(browser, report_page)
    window.open()
    assert report_inputs.HOSTILE in window.run("return document.body.innerText")
    assert window.run("return document.scripts.length") == 0
    assert window.run("return typeof window.hurt") == "undefined"
    assert browser.title == "tuwen 图文 · retrieval report"
    hosts = window.run("return [...document.images].map(i => i.getAttribute('src').slice(0, 11))")
    assert set(hosts) == {"data:image/"}


def test_a_script_that_did_get_in_would_be_seen_and_stopped(browser: Chrome, report_page: Path) -> None:
    """The checks above can fail: the same page with live script, picture and style of elsewhere."""
    bad = '<script>window.hurt = 1</script><img src="https://example.org/x.png"><style>main{min-width:3000px}</style>'
    spoilt = report_page.with_name("spoilt.html")
    page = report_page.read_text(encoding="utf-8")
    spoilt.write_text(page.replace("</main>", f"{bad}</main>"), encoding="utf-8")
    window = Window(browser, spoilt)
    window.open()
    said = " ".join(entry["message"] for entry in browser.get_log("browser"))
    assert "Content Security Policy" in said
    assert window.run("return typeof window.hurt") == "undefined"  # the page's own policy
    assert window.run("return [...document.images].at(-1).naturalWidth") == 0
    inside, outside = window.run("const e = document.documentElement; return [e.scrollWidth, e.clientWidth]")
    assert inside > outside


@pytest.mark.parametrize(
    "selector", [".query q", ".tile span", "ol.texts span", "svg[aria-label^=confusion] > text[text-anchor=end]"]
)
def test_chinese_is_drawn_with_a_chinese_font(browser: Chrome, report_page: Path, selector: str) -> None:
    window = Window(browser, report_page)
    window.open()
    text, fonts = window.fonts(selector)
    chinese = sum("一" <= character <= "鿿" for character in text)
    drawn = sum(font["glyphCount"] for font in fonts if "CJK" in font["familyName"])
    assert chinese > 0
    assert drawn >= chinese, fonts


def test_links_lead_to_their_sections(browser: Chrome, report_page: Path) -> None:
    window = Window(browser, report_page)
    window.open()
    for link in window.run("return [...document.querySelectorAll('nav a')].map(a => a.getAttribute('href'))"):
        window.run("document.querySelector(`nav a[href='${arguments[0]}']`).click()", link)
        top = window.run("return document.querySelector(arguments[0]).getBoundingClientRect().top", link)
        assert 0 <= top < 900 - 100, link  # the window is 900 px high
