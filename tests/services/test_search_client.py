"""The client of docs/search.md, as a reader would run it against the real service."""

from pathlib import Path

from tests.support.checkout import ROOT
from tests.support.search_process import serving_searches
from tests.support.search_project import build_index, build_search_project
from tests.support.snippets import run_snippets


def test_the_client_of_the_page_prints_what_the_service_answers(tmp_path: Path) -> None:
    root = build_search_project(tmp_path)
    build_index(root)
    page = (ROOT / "docs/search.md").read_text(encoding="utf-8")
    with serving_searches(root) as service:
        printed = run_snippets(page.replace("http://127.0.0.1:8080", service.address), tmp_path).splitlines()
        answers = service.search(text="海边的日落", k=3).json()["answers"]
    assert len(printed) == 6  # three by the text, three by the picture
    assert printed[:3] == [f"{one['id']} {one['score']} {one['caption']}" for one in answers]
