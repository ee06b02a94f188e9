"""The page of a search service, as a person uses it, and what the service itself answers to the same question."""

import json
import urllib.request
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from selenium.webdriver.support.wait import WebDriverWait

from tests.support.window import Window

QUERY = "一个红色的圆形"
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
