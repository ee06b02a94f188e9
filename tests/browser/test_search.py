"""The search page of the real service in a real browser: what a person asks, and what the page shows of it."""

from pathlib import Path

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.support.search_page import QUERY, SearchPage, ask, ids_of, read_image

VERDICTS = [(0.1, "可能没有合适的"), (0.35, "拿不准"), (0.7, "也许就是你要的"), (1, "很可能就是你要的")]


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


def test_marked_results_move_the_question_and_stand_in_the_address(page: SearchPage, address: str) -> None:
    page.load(f"?q={QUERY}")
    before = page.ids()[:40]
    like, unlike = before[25], before[0]
    page.click(".mark[data-mark=more]", 25)
    page.wait("location.search.includes('more=')")
    page.wait_for_answers(40)
    assert page.ids()[:40] == ids_of(ask(address, text=QUERY, more=[like], k=40))
    assert page.ids().index(like) < 25
    marks = "[...document.querySelectorAll('.mark[aria-pressed=true]')]"
    pressed = f"return {marks}.map(mark => mark.closest('li').dataset.id)"
    assert page.run(pressed) == [like]
    page.click(".mark[data-mark=less]", page.ids().index(unlike))
    page.wait("location.search.includes('less=')")
    page.wait_for_answers(40)
    assert page.address_values() == {"q": [QUERY], "more": [like], "less": [unlike]}
    assert page.ids()[:40] == ids_of(ask(address, text=QUERY, more=[like], less=[unlike], k=40))
    assert unlike not in page.ids()
    assert page.text("#marks").split() == ["更像", "不像"]
    assert page.run("return document.querySelector('#rerank input').disabled")
    page.browser.refresh()
    page.wait_for_answers(40)
    page.click("#marks .chip", 0)
    page.wait("!location.search.includes('more=')")
    page.wait_for_answers(40)
    assert page.ids()[:40] == ids_of(ask(address, text=QUERY, less=[unlike], k=40))
    page.browser.back()
    page.wait("location.search.includes('more=')")
    page.wait_for_answers(40)
    assert page.run(pressed) == [like]
    page.browser.find_element(By.ID, "text").send_keys("海", Keys.ENTER)  # another question begins without marks
    page.wait("!location.search.includes('more=') && !document.querySelector('#marks .chip')")


def test_a_question_by_a_picture_is_marked_by_the_keyboard(page: SearchPage, address: str) -> None:
    page.load("?image=gallery/003.png")
    page.press(Keys.ESCAPE)
    page.press(Keys.ARROW_DOWN, Keys.ARROW_RIGHT)
    like = page.ids()[1]
    page.press("+")
    page.wait("location.search.includes('more=')")
    page.wait_for_answers(40)
    asked = {"image_id": "gallery/003.png", "of": "images", "k": 40}
    assert page.ids()[:40] == ids_of(ask(address, **asked, more=[like]))
    assert page.run("return document.activeElement.closest('li').dataset.id") == page.ids()[0]
    button = "document.querySelector('.mark[aria-pressed=true]')"
    page.run(f"{button}.focus()")
    page.press(Keys.SPACE)
    page.wait(f"!{button} && !location.search.includes('more=')")
    page.wait_for_answers(40)
    focused = page.run("const at = document.activeElement; return [at.dataset.mark, at.closest('li').dataset.id]")
    assert focused == ["more", like]
    page.press(Keys.SPACE)
    page.wait("location.search.includes('more=')")
