"""The search page of the real service in a real browser: what a person types, drops, clicks and presses."""

import io
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from PIL import Image
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from tests.browser.conftest import LEAST_CONTRAST, SCHEMES, WIDTHS_PX, Window
from tests.support.report_inputs import HOSTILE
from tests.support.reranker_world import add_reranker
from tests.support.search_gallery import write_gallery
from tests.support.search_project import build_index, build_search_project
from tests.support.search_service import run_search_service

QUERY = "一个红色的圆形"
TOKEN = "a-token-of-thirty-two-characters"
GALLERY = 240
WAIT_SECONDS = 60  # on a busy machine
# Puts files into an event of a page as a person's hand does; arguments: kind of event, bytes, name, type
GIVE_FILE = """
const [kind, bytes, name, type] = arguments;
const data = new DataTransfer();
data.items.add(new File([new Uint8Array(bytes)], name, {type}));
const options = {bubbles: true, cancelable: true};
document.body.dispatchEvent(kind === 'paste'
  ? new ClipboardEvent(kind, {...options, clipboardData: data})
  : new DragEvent(kind, {...options, dataTransfer: data}));
"""
VERDICTS = [(0.1, "可能没有合适的"), (0.35, "拿不准"), (0.7, "也许就是你要的"), (1, "很可能就是你要的")]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = build_search_project(tmp_path_factory.mktemp("search"))
    add_reranker(root, layers=2)
    write_gallery(root, GALLERY, HOSTILE)
    build_index(root)
    return root


@pytest.fixture(scope="module")
def address(project: Path) -> Iterator[str]:
    with run_search_service(project) as address:
        yield address


class SearchPage(Window):
    """The page, in Chinese unless it was switched."""

    def load(self, query: str = "", width_px: int = 1280, scheme: str = "light") -> None:
        self.open(width_px, scheme, query)
        self.run("localStorage.setItem('tuwen-language', 'zh-CN')")
        self.browser.refresh()
        self.wait("document.getElementById('size').textContent")
        if query:
            self.wait_for_answers()

    def wait(self, expression: str, *arguments: object) -> Any:
        """The first value of an expression of the page that is true."""
        script = f"return {expression}"
        return WebDriverWait(self.browser, WAIT_SECONDS).until(lambda _: self.run(script, *arguments), expression)

    def wait_for_answers(self, least: int = 1) -> None:
        self.wait(
            "!document.body.classList.contains('busy') && "
            "document.querySelectorAll('#answers > li').length >= arguments[0]",
            least,
        )

    def ids(self) -> list[str]:
        ids: list[str] = self.run("return [...document.querySelectorAll('#answers > li')].map(i => i.dataset.id)")
        return ids

    def text(self, selector: str) -> str:
        return str(self.run("return document.querySelector(arguments[0]).innerText", selector))

    def click(self, selector: str, number: int = 0) -> None:
        self.run("document.querySelectorAll(arguments[0])[arguments[1]].click()", selector, number)

    def press(self, *keys: str) -> None:
        self.browser.switch_to.active_element.send_keys(*keys)

    def address_values(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.browser.current_url).query)

    def give_file(self, kind: str, data: bytes, name: str = "图.png", media: str = "image/png") -> None:
        self.run(GIVE_FILE, kind, list(data), name, media)


@pytest.fixture
def page(browser: Chrome, address: str) -> SearchPage:
    return SearchPage(browser, f"{address}/")


def ask(address: str, **body: object) -> dict[str, Any]:
    """What the service answers to the same query."""
    request = urllib.request.Request(
        f"{address}/search", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=WAIT_SECONDS) as response:
        found: dict[str, Any] = json.load(response)
    return found


def ids_of(found: dict[str, Any]) -> list[str]:
    return [answer["id"] for answer in found["answers"]]


def read_image(address: str, image_id: str) -> bytes:
    with urllib.request.urlopen(f"{address}/image/{quote(image_id)}?size=320", timeout=WAIT_SECONDS) as response:
        data: bytes = response.read()
    return data


def test_a_typed_text_finds_what_the_service_finds_and_says_how_sure_it_is(page: SearchPage, address: str) -> None:
    page.load()
    assert page.run("return document.body.classList.contains('home')")
    page.browser.find_element(By.ID, "text").send_keys(QUERY, Keys.ENTER)
    page.wait_for_answers(40)
    found = ask(address, text=QUERY, k=40)
    assert page.ids()[:40] == ids_of(found)
    assert page.address_values() == {"q": [QUERY]}
    assert QUERY in page.browser.title
    assert f"{found['total']} 个结果" in page.text("#summary")
    words = next(words for most, words in VERDICTS if found["probability"] <= most)
    assert words in page.text(".verdict")
    pictures = page.wait(
        "(p => p.every(i => i.complete) && p.map(i => i.naturalWidth))"
        "([...document.querySelectorAll('#answers img')].slice(0, 8))"
    )
    assert all(width_px > 0 for width_px in pictures)


def test_a_row_of_pictures_is_as_wide_as_the_page_and_equally_high(page: SearchPage) -> None:
    page.load(f"?q={QUERY}")
    boxes = page.run(
        "return [...document.querySelectorAll('.picture')].map(p => p.getBoundingClientRect())"
        ".map(({left, right, top, height}) => [left, right, top, height])"
    )
    main_left, main_right = page.run(
        "const box = document.getElementById('answers').getBoundingClientRect(); return [box.left, box.right]"
    )
    first = [box for box in boxes if box[2] == boxes[0][2]]
    assert 3 <= len(first) < len(boxes)
    assert max(box[3] for box in first) - min(box[3] for box in first) < 2
    assert first[0][0] == pytest.approx(main_left, abs=1)
    assert first[-1][1] == pytest.approx(main_right, abs=1)
    assert len({round(box[1] - box[0]) for box in first}) > 1  # by the pictures' own shapes


@pytest.mark.parametrize("kind", ["drop", "paste", "choose"])
def test_a_picture_of_ones_own_finds_alike_pictures_and_captions(
    page: SearchPage, address: str, tmp_path: Path, kind: str
) -> None:
    data = read_image(address, "gallery/007.png")
    page.load()
    if kind == "choose":
        (tmp_path / "图.jpg").write_bytes(data)
        page.browser.find_element(By.ID, "file").send_keys(str(tmp_path / "图.jpg"))
    else:
        page.give_file(kind, data, "图.jpg", "image/jpeg")
    page.wait_for_answers(40)
    assert page.ids()[0] == "gallery/007.png"
    assert "你的图片" in page.text("#asked")
    links = "[...document.querySelectorAll('#captions a')]"
    captions = page.wait(f"{links}.length && {links}.map(a => a.textContent)")
    assert len(captions) == 6
    page.click("#captions a")
    page.wait_for_answers(40)
    assert page.address_values() == {"q": [captions[0]]}
    page.browser.back()
    page.wait("document.querySelector('#asked').innerText.includes('你的图片')")
    assert page.ids()[0] == "gallery/007.png"


def test_filters_and_their_chips(page: SearchPage, address: str) -> None:
    page.load(f"?q={QUERY}")
    page.click("#filter")
    page.run("document.querySelector('.box input[value=labelled]').click()")
    page.wait("document.querySelector('#chips').innerText.includes('labelled')")
    page.wait_for_answers()
    found = ask(address, text=QUERY, k=40, filter={"source": ["labelled"]})
    assert page.ids() == ids_of(found)
    assert page.address_values() == {"q": [QUERY], "source": ["labelled"]}
    field = page.browser.find_elements(By.CSS_SELECTOR, ".range input")[0]
    field.clear()
    field.send_keys("200", Keys.ENTER)
    page.wait("document.querySelectorAll('#chips .chip').length === 2")
    page.wait("document.querySelector('#summary').innerText.includes('没有符合')")  # all labelled ones are smaller
    page.click("#chips .chip", 0)
    page.wait_for_answers()
    width = page.address_values()["width_px"][0]
    assert width.startswith("200-")
    wide = ask(address, text=QUERY, k=40, filter={"width_px": [200, int(width.removeprefix("200-"))]})
    assert page.ids()[:40] == ids_of(wide)
    assert {answer["source"] for answer in wide["answers"]} == {"art"}


def test_a_click_searches_by_the_result_and_back_leads_to_where_one_was(page: SearchPage, address: str) -> None:
    page.load(f"?q={QUERY}")
    before = page.ids()[:40]
    page.run("scrollTo(0, 500)")
    page.wait("scrollY === 500")
    page.click("#answers .answer", 5)
    page.wait("location.search.includes('image=')")
    page.wait_for_answers(40)
    assert page.address_values() == {"image": [before[5]]}
    assert page.ids()[:40] == ids_of(ask(address, image_id=before[5], of="images", k=40))
    assert before[5] not in page.ids()
    assert page.run("return scrollY") == 0
    page.browser.back()
    page.wait("location.search.startsWith('?q=') && scrollY === 500")
    assert page.ids()[:40] == before
    page.browser.forward()
    page.wait("location.search.includes('image=')")
    page.browser.refresh()
    page.wait_for_answers(40)
    assert page.ids()[:40] == ids_of(ask(address, image_id=before[5], of="images", k=40))


def test_scrolling_shows_two_hundred_results_and_says_that_they_are_all(page: SearchPage, address: str) -> None:
    page.load(f"?q={QUERY}")
    page.wait("(scrollTo(0, document.body.scrollHeight), !document.getElementById('end').hidden)")
    ids = page.ids()
    assert len(ids) == len(set(ids)) == 200
    assert ids == ids_of(ask(address, text=QUERY, k=200))
    assert "200" in page.text("#end")


def test_texts_are_found_as_well(page: SearchPage, address: str) -> None:
    page.load(f"?q={QUERY}&of=texts")
    found = ask(address, text=QUERY, of="texts", k=40)
    assert page.ids()[:40] == ids_of(found)
    assert found["answers"][0]["caption"] in page.text("#answers")
    page.click("#answers .answer")
    page.wait("!location.search.includes('of=texts')")
    page.wait_for_answers(40)
    assert page.address_values() == {"q": [found["answers"][0]["caption"]]}


def test_re_ranking_shows_what_moved(page: SearchPage, address: str) -> None:
    found = ask(address, text=QUERY, k=40, rerank=True, filter={"split": ["test"]})
    changes = [answer["rank_before"] - place for place, answer in enumerate(found["answers"], 1)]
    moved = [change for change in changes if change]
    assert moved
    page.load(f"?q={QUERY}&split=test")
    page.click("#rerank input")
    page.wait("location.search.includes('rerank=1')")
    page.wait_for_answers()
    assert page.ids() == ids_of(found)
    shown = page.run("return [...document.querySelectorAll('.moved')].map(m => m.textContent)")
    assert shown == [f"{'↑' if change > 0 else '↓'}{abs(change)}" for change in moved]
    assert f"{len(moved)} 个换了位置" in page.text("#summary")


def test_a_closer_look_shows_where_a_word_is(page: SearchPage) -> None:
    page.load(f"?q={QUERY}")
    page.click(".closer")
    words = page.wait(
        "(c => c.length > 1 && c.map(b => b.textContent))([...document.querySelectorAll('#one-words .chip')])"
    )
    assert all(word in QUERY for word in words[1:])
    page.click("#one-words .chip", 1)
    page.wait("(map => !map.hidden && map.naturalWidth > 0)(document.getElementById('one-map'))")
    assert page.run("return document.getElementById('one-map').src").startswith("data:image/png;base64,")
    page.click("#one-words .chip", 0)
    assert page.run("return document.getElementById('one-map').hidden")
    assert page.ids()[0] in page.text("#one-facts")


def test_the_keyboard_alone_is_enough(page: SearchPage) -> None:
    page.load()
    page.press("/")
    page.press(QUERY, Keys.ENTER)
    page.wait_for_answers(40)
    place = "return [...document.querySelectorAll('#answers a')].indexOf(document.activeElement)"
    page.press(Keys.ARROW_DOWN)
    page.press(Keys.ARROW_RIGHT)
    assert page.run(place) == 1
    page.press(Keys.ARROW_DOWN)
    row = page.run("return [...new Set([...document.querySelectorAll('#answers li')].map(i => i.offsetTop))]")
    assert page.run("return document.activeElement.closest('li').offsetTop") == row[1]
    page.press(Keys.ARROW_UP)
    assert page.run("return document.activeElement.closest('li').offsetTop") == row[0]
    page.press(Keys.SPACE)
    assert page.run("return document.getElementById('one').open")
    page.press(Keys.ESCAPE)
    page.wait("!document.getElementById('one').open")
    asked = page.run("return document.activeElement.closest('li').dataset.id")
    page.press(Keys.ENTER)
    page.wait("location.search.includes('image=')")
    page.wait_for_answers(40)
    assert page.address_values() == {"image": [asked]}
    assert page.run(place) == 0  # the answers are where one goes on
    page.press(Keys.ESCAPE)
    assert page.run("return document.activeElement.id") == "text"


def test_errors_are_said_in_words_with_what_to_do(page: SearchPage) -> None:
    page.load()
    page.give_file("drop", b"\xff\xd8\xff broken", "坏.jpg", "image/jpeg")
    page.wait("!document.getElementById('error').hidden")
    assert "图片可能已损坏" in page.text("#error")
    page.give_file("drop", "渔船".encode(), "文.txt", "text/plain")
    page.wait("document.getElementById('error').innerText.includes('这不是图片')")
    page.load()
    page.browser.execute_cdp_cmd("Network.enable", {})
    conditions = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    page.browser.execute_cdp_cmd("Network.emulateNetworkConditions", conditions | {"offline": True})
    page.browser.find_element(By.ID, "text").send_keys(QUERY, Keys.ENTER)
    page.wait("document.getElementById('error').innerText.includes('连不上服务')")
    page.browser.execute_cdp_cmd("Network.emulateNetworkConditions", conditions | {"offline": False})
    page.click("#error button")
    page.wait_for_answers(40)
    assert page.run("return document.getElementById('error').hidden")


def test_an_item_that_the_index_lacks_and_a_picture_too_large_have_words_of_their_own(
    page: SearchPage, project: Path
) -> None:
    page.open(query="?image=nirgends")
    page.run("localStorage.setItem('tuwen-language', 'zh-CN')")
    page.browser.refresh()
    page.wait("document.getElementById('error').innerText.includes('不在索引里')")
    with run_search_service(project, max_body_bytes="20000", token=TOKEN) as address:
        small = SearchPage(page.browser, f"{address}/")
        small.open()
        small.run("localStorage.setItem('tuwen-language', 'zh-CN')")
        small.browser.refresh()
        small.wait("document.getElementById('token').open")
        small.press("not the token", Keys.ENTER)
        small.wait("document.getElementById('token-error').textContent.includes('口令不对')")
        small.press(TOKEN, Keys.ENTER)
        small.wait("!document.getElementById('token').open")
        small.wait("document.getElementById('size').textContent")
        noise = io.BytesIO()
        Image.effect_noise((300, 300), 90).save(noise, "PNG")
        small.give_file("drop", noise.getvalue())
        small.wait("document.getElementById('error').innerText.includes('图片太大')")
        small.browser.find_element(By.ID, "text").send_keys(QUERY, Keys.ENTER)
        small.wait_for_answers(40)
        small.wait("document.querySelector('#answers img').naturalWidth > 0")  # by the cookie
        assert TOKEN not in small.run("return document.cookie + JSON.stringify(localStorage) + location.href")


def test_a_hostile_caption_is_text_and_the_policy_stops_what_would_run(page: SearchPage) -> None:
    page.load(f"?q={quote(HOSTILE)}&of=texts")
    shown = page.run("return [...document.querySelectorAll('.caption')].map(c => c.textContent)")
    assert HOSTILE in shown
    page.load(f"?q={quote(HOSTILE)}&source=art&caption_chars={len(HOSTILE)}-{len(HOSTILE)}")
    assert page.ids() == ["gallery/000.png"]
    page.click(".closer")
    assert page.text("#one-caption") == HOSTILE
    assert page.run("return typeof window.hurt") == "undefined"
    assert page.run("return document.querySelectorAll('main img:not([src*=\"/image/\"])').length") == 0
    live = "const live = document.createElement('script'); live.textContent = 'window.hurt = 1';"
    page.run(f"{live} document.body.append(live)")
    page.run("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.hurt = 1\">')")
    page.wait("[...document.images].at(-1).complete")
    assert page.run("return typeof window.hurt") == "undefined"
    said = " ".join(entry["message"] for entry in page.browser.get_log("browser"))
    assert "Content Security Policy" in said


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width_px", WIDTHS_PX)
def test_the_page_fits_its_texts_stand_out_and_it_asks_for_nothing_elsewhere(
    page: SearchPage, width_px: int, scheme: str
) -> None:
    for query in ("", f"?q={QUERY}&rerank=1&source=art", "?image=gallery/003.png"):
        page.load(query, width_px, scheme)
        inside, outside = page.run("const e = document.documentElement; return [e.scrollWidth, e.clientWidth]")
        assert inside <= outside
        page.run("if (document.body.className !== 'home') document.getElementById('filters').hidden = false")
        contrasts = page.measure_contrasts("header *, nav *, section *, main *, footer *")
        assert len(contrasts) > 8
        assert [one for one in contrasts if one[1] < LEAST_CONTRAST] == []
        assert [entry for entry in page.browser.get_log("browser") if entry["level"] == "SEVERE"] == []
        sent = page.list_requests()
        assert any("/about" in url for url in sent)
        assert [url for url in sent if not url.startswith((page.address, "data:", "blob:", "about:"))] == []


def test_every_control_has_a_name_in_both_languages(page: SearchPage) -> None:
    page.load(f"?q={QUERY}")
    page.click("#filter")
    tree = page.browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    roles = {"button", "link", "textbox", "searchbox", "checkbox", "switch", "radio", "spinbutton"}
    controls = [node for node in tree if node.get("role", {}).get("value") in roles and not node.get("ignored")]
    assert len(controls) > 40
    assert [node["role"]["value"] for node in controls if not node.get("name", {}).get("value")] == []
    assert "个结果" in page.text("#summary")
    page.click("#language")
    assert "results" in page.text("#summary")
    assert page.run("return document.documentElement.lang") == "en"
    rest = "header, nav, #summary, #filters legend, footer, #end"
    english = (
        page.run("return [...document.querySelectorAll(arguments[0])].map(e => e.innerText).join(' ')", rest)
        .replace("图文", "")
        .replace("中", "")
    )
    assert not [character for character in english if "一" <= character <= "鿿"]
    page.browser.refresh()
    page.wait_for_answers(40)
    assert page.run("return document.documentElement.lang") == "en"
