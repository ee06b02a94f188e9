"""Prefect's page in a real browser: it asks for the password once, and without it shows nothing."""

import base64
from typing import Any

from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By

from tests.support.serve import Service, wait_until

LOAD_SECONDS = 120.0
FIELD = "input[type=password]"


def test_the_page_asks_for_the_password_and_then_shows_the_deployments(browser: Chrome, service: Service) -> None:
    address = service.api.removesuffix("/api")
    browser.get(f"{address}/deployments")
    fields = wait_until(lambda: browser.find_elements(By.CSS_SELECTOR, FIELD), LOAD_SECONDS, "it asks")
    assert "pipeline" not in read(browser)
    fields[0].send_keys(service.password, Keys.ENTER)
    wait_until(lambda: browser.find_elements(By.CSS_SELECTOR, FIELD) == [], LOAD_SECONDS, "it is let in")
    browser.get(f"{address}/deployments")  # and is not asked again
    wait_until(lambda: "reevaluate-nightly" in read(browser), LOAD_SECONDS, "the deployments are listed")
    assert browser.find_elements(By.CSS_SELECTOR, FIELD) == []


def test_a_page_of_another_origin_reads_nothing_even_with_the_password(browser: Chrome, service: Service) -> None:
    browser.get(f"{service.tracking}/health")  # another port is another origin
    encoded = base64.b64encode(service.password.encode()).decode()
    for headers in ({}, {"Authorization": f"Basic {encoded}"}):
        assert ask(browser, f"{service.api}/admin/version", headers) == "TypeError: Failed to fetch"
    browser.get(f"{service.api}/health")
    assert ask(browser, f"{service.api}/admin/version", headers) == "200"


def read(browser: Chrome) -> str:
    return str(browser.execute_script("return document.body.innerText"))


def ask(browser: Chrome, address: str, headers: dict[str, str]) -> Any:
    script = """const [address, headers, done] = arguments;
    fetch(address, {headers}).then(answer => done(String(answer.status)), error => done(String(error)));"""
    return browser.execute_async_script(script, address, headers)
