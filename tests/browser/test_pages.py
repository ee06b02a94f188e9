"""report.html and quality.html in a real browser: they load whole, run nothing, ask for nothing, can be read."""

from pathlib import Path

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.support.wait import WebDriverWait

from tests.support import quality_inputs, report_inputs
from tests.support.window import LEAST_CONTRAST, SCHEMES, WIDTHS_PX, Window
from tuwen.report.quality.page import write_page

LOG_SECONDS = 30


@pytest.fixture(scope="module")
def report_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = report_inputs.make(tmp_path_factory.mktemp("report"))
    report_inputs.write(root)
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
    contrasts = window.measure_contrasts("main, main *")
    assert len(contrasts) > 80
    assert [one for one in contrasts if one[1] < LEAST_CONTRAST] == []


def test_the_page_asks_for_nothing_but_itself(window: Window) -> None:
    window.open()
    sent = window.list_requests()
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


def is_logged(browser: Chrome, words: str) -> bool:
    """Whether a message since the last look has these words; they come a moment after the page is there."""
    return any(words in entry["message"] for entry in browser.get_log("browser"))


def test_a_script_that_did_get_in_would_be_seen_and_stopped(browser: Chrome, report_page: Path) -> None:
    """The checks above can fail: the same page with live script, picture and style of elsewhere."""
    bad = '<script>window.hurt = 1</script><img src="https://example.org/x.png"><style>main{min-width:3000px}</style>'
    spoilt = report_page.with_name("spoilt.html")
    page = report_page.read_text(encoding="utf-8")
    spoilt.write_text(page.replace("</main>", f"{bad}</main>"), encoding="utf-8")
    window = Window(browser, spoilt)
    window.open()
    WebDriverWait(browser, LOG_SECONDS).until(lambda _: is_logged(browser, "Content Security Policy"))
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
