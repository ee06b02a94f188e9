"""The search page around its answers: its rows, its keys, its errors, what it lets run, how it looks."""

import io
from pathlib import Path
from urllib.parse import quote

import pytest
from PIL import Image
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.support.report_inputs import HOSTILE
from tests.support.search_page import QUERY, SearchPage
from tests.support.search_process import serving_searches
from tests.support.search_project import LICENCES
from tests.support.window import LEAST_CONTRAST, SCHEMES, WIDTHS_PX

TOKEN = "a-token-of-thirty-two-characters"


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
    with serving_searches(project, max_body_bytes=20000, token=TOKEN) as service:
        small = SearchPage(page.browser, f"{service.address}/")
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


def test_the_licences_of_what_is_shown_are_a_click_away(page: SearchPage) -> None:
    page.load(f"?q={QUERY}")
    page.click("#licences")
    assert page.run("return document.getElementById('licence-list').open")
    for one in LICENCES:
        assert one["text"] in page.text("#licence-list")
    links = page.run("return [...document.querySelectorAll('#licence-list a')].map(a => a.getAttribute('href'))")
    assert links == [one["link"] for one in LICENCES]
