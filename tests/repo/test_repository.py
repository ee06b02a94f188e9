"""What the README promises, what lies in git, and what is pinned."""

import re
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import typer
from packaging.requirements import Requirement

from tests.repo.files import text_of, tracked_files
from tests.support.checkout import ROOT
from tuwen import cli

MAX_BYTES = 1_000_000
MACHINE_PATH = re.compile(r"(?<![\w.:/])/(?:home|Users|root|tmp/[a-z]+)/[\w.-]+")


def test_what_the_readme_tells_to_type_exists() -> None:
    readme = text_of(Path("README.md"))
    code = "\n".join(re.findall(r"```.*?```|`[^`\n]+`", readme, flags=re.DOTALL))
    targets = set(re.findall(r"^([a-z][a-z-]*):", text_of(Path("Makefile")), flags=re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z][a-z-]*)", code))
    assert {"run", "test"} <= named <= targets
    commands = set(command_names(typer.main.get_command(cli.app), "tuwen"))
    for typed in re.findall(r"(?<![\w./-])tuwen ([a-z][a-z_ ]*)", code):
        words = f"tuwen {typed}".split()
        assert {" ".join(words[:2]), " ".join(words[:3])} & commands, f"README.md: {' '.join(words)}"


def test_every_file_that_a_page_names_exists() -> None:
    there = {str(path) for path in tracked_files()}
    names = {Path(path).name for path in there}
    for page in (path for path in tracked_files() if path.suffix == ".md" and path.name != "log.md"):
        text = re.sub(r"```.*?```", "", text_of(page), flags=re.DOTALL)
        for named in re.findall(r"`((?:tuwen|tests|flows|stages|docs|benchmarks|presets)/[\w./-]+\.\w+)`", text):
            assert named in there, f"{page}: {named}"
        for named in re.findall(r"`(test_\w+\.py)`", text):
            assert named in names, f"{page}: {named}"


def test_the_texts_hold_no_placeholder_and_every_link_leads_to_a_file_in_git() -> None:
    there = {str(path) for path in tracked_files()}
    for page in (path for path in tracked_files() if path.suffix == ".md"):
        text = text_of(page)
        assert "@@" not in text, page
        for link in re.findall(r"\]\(([^)#\s]+)", text):
            if "://" not in link:
                target = (ROOT / page.parent / link).resolve().relative_to(ROOT)
                assert str(target) in there, f"{page}: {link}"


def command_names(command: Any, name: str) -> Iterator[str]:
    children = getattr(command, "commands", {})
    if not children:
        yield name
    for child in children.values():
        yield from command_names(child, f"{name} {child.name}")


def test_no_big_file_lies_in_git() -> None:
    assert [str(path) for path in tracked_files() if (ROOT / path).stat().st_size > MAX_BYTES] == []


def test_no_path_of_a_machine_lies_in_git() -> None:
    found = {str(path): match[0] for path in tracked_files() if (match := MACHINE_PATH.search(text_of(path)))}
    assert found == {}


def test_every_direct_dependency_is_pinned() -> None:
    project = tomllib.loads(text_of(Path("pyproject.toml")))["project"]
    asked = [
        *project["dependencies"],
        *(name for extra in project["optional-dependencies"].values() for name in extra),
    ]
    assert {canonical(name) for name in asked if not name.startswith("tuwen[")} <= list_pinned()


def test_what_comes_with_the_dependencies_is_pinned_too() -> None:
    asked, seen = [("tuwen", frozenset({"all", "dev"}))], set[tuple[str, frozenset[str]]]()
    while asked:
        if (one := asked.pop()) in seen:
            continue
        seen.add(one)
        name, extras = one
        for line in metadata.requires(name) or ():
            needed = Requirement(line)
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                asked.append((canonical(needed.name), frozenset(needed.extras)))
    assert len(seen) > 100
    assert {name for name, _ in seen} - list_pinned() == {"tuwen"}


def list_pinned() -> set[str]:
    """Return the packages that constraints.txt holds."""
    lines = text_of(Path("constraints.txt")).splitlines()
    return {canonical(line.split("==")[0]) for line in lines if "==" in line and not line.startswith("#")}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
