"""The house rules: floors, deps and params of the stages, presets, sizes, what the README promises."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from dvc.repo import Repo
from ruamel.yaml import YAML

from tests.repo import closure
from tuwen import cli
from tuwen.core import params

ROOT = Path(__file__).parents[1]
MAX_LINES = 250
MAX_BYTES = 1_000_000
BARE = {f"tuwen/{name}.py" for name in ("hardware", "hubness", "loss", "recall", "search", "shortlist")}
OWNERS = {"mlflow": {"tuwen/track.py", "tuwen/serve_model.py"}, "albumentations": {"tuwen/views.py"}}
MACHINE_PATH = re.compile(r"(?<![\w.:/])/(?:home|Users|root|tmp/[a-z]+)/[\w.-]+")


def modules(*packages: str) -> list[str]:
    return [str(path.relative_to(ROOT)) for package in packages for path in sorted((ROOT / package).rglob("*.py"))]


def top_imports(path: str) -> set[str]:
    return {module.partition(".")[0] for module, _ in closure.imports(ROOT / path)}


def tracked_files() -> list[Path]:
    """What git has or would take: paths relative to the repository."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return [Path(name) for name in names if name and (ROOT / name).is_file()]


def text_of(path: Path) -> str:
    return (ROOT / path).read_text(encoding="utf-8", errors="replace")


# Floors


@pytest.mark.parametrize("path", modules("tuwen"))
def test_the_library_knows_nothing_of_what_stands_above_it(path: str) -> None:
    assert not top_imports(path) & {"stages", "flows", "tests", "prefect", "dvc"}


@pytest.mark.parametrize("path", modules("stages"))
def test_a_stage_knows_the_library_alone(path: str) -> None:
    assert not top_imports(path) & {"flows", "tests", "prefect", "dvc", "mlflow"}


@pytest.mark.parametrize("path", modules("flows"))
def test_a_flow_starts_stages_as_processes(path: str) -> None:
    assert not top_imports(path) & {"stages", "tests", "torch", "mlflow"}


@pytest.mark.parametrize(("package", "owners"), OWNERS.items())
def test_a_package_with_an_owner_is_imported_there_alone(package: str, owners: set[str]) -> None:
    users = {path for path in modules("tuwen", "stages", "flows") if package in top_imports(path)}
    assert users <= owners


@pytest.mark.parametrize("path", sorted(BARE))
def test_loss_recall_search_and_hubness_need_torch_and_numpy_alone(path: str) -> None:
    own = {
        source for module, name in closure.imports(ROOT / path) if (source := closure.source(ROOT, module, name))
    }
    assert own <= BARE | {"tuwen/errors.py"}
    assert top_imports(path) <= {"torch", "numpy", "tuwen"} | sys.stdlib_module_names


def test_modules_stay_small() -> None:
    lines = {path: text_of(Path(path)).count("\n") for path in modules("tuwen", "stages", "flows")}
    assert {path: count for path, count in lines.items() if count > MAX_LINES} == {}


# The graph


def stages() -> dict[str, dict[str, Any]]:
    """Name -> definition as dvc.yaml has it; a foreach or matrix stage's template stands for all of its stages."""
    graph = YAML(typ="safe", pure=True).load(ROOT / "dvc.yaml")["stages"]
    return {name: definition.get("do", definition) for name, definition in graph.items()}


def script(definition: dict[str, Any]) -> str:
    found = re.match(r"python -m stages\.(\w+)", definition["cmd"])
    assert found, definition["cmd"]
    return f"stages/{found[1]}.py"


@pytest.mark.parametrize("name", stages())
def test_deps_are_the_import_closure(name: str) -> None:
    stage = stages()[name]
    listed = [dep for dep in stage["deps"] if dep.endswith(".py")]
    assert set(listed) == closure.closure(ROOT, script(stage)), "see `python -m tests.closure`"
    assert len(listed) == len(set(listed))


@pytest.mark.parametrize("name", stages())
def test_params_are_the_groups_that_the_stage_reads(name: str) -> None:
    stage = stages()[name]
    # one key of a group may be enough: a corpus stage reads its own source, finetune all but refit_all
    listed = {group.partition(".")[0] for group in stage.get("params", [])}
    assert listed == closure.param_groups(ROOT, script(stage)), "see `python -m tests.closure`"


def test_data_deps_are_outs_of_another_stage_or_lie_in_git() -> None:
    with Repo(ROOT) as repo:
        deps = {(stage.addressing, Path(dep.fs_path)) for stage in repo.index.stages for dep in stage.deps}
        outs = {Path(out.fs_path) for stage in repo.index.stages for out in stage.outs}
    ours = {ROOT / path for path in tracked_files()}
    made = outs | {folder for out in outs for folder in out.parents if ROOT in folder.parents}
    strange = [(stage, dep) for stage, dep in deps if dep not in ours and not made & {dep, *dep.parents}]
    assert strange == []


def test_every_stage_has_its_script_and_every_script_its_stage() -> None:
    assert {script(stage) for stage in stages().values()} == set(modules("stages")) - {"stages/__init__.py"}


def test_files_that_the_library_reads_from_itself_are_deps() -> None:
    loaded = [params.load(path) for path in presets()]
    roots = {source.root for found in loaded for source in (found.source, *found.corpus.values())}
    deps = {dep for stage in stages().values() for dep in stage["deps"]}
    data = {str(path) for path in tracked_files() if path.parts[0] == "tuwen" and path.suffix != ".py"}
    assert data <= deps | roots


# Params


def presets() -> list[Path]:
    return [ROOT / "params.yaml", *sorted((ROOT / "presets").glob("*.yaml"))]


@pytest.mark.parametrize("path", presets(), ids=lambda path: path.name)
def test_every_preset_is_valid(path: Path) -> None:
    params.load(path)


def test_params_yaml_ships_as_the_sample() -> None:
    assert params.load(ROOT / "params.yaml") == params.load(ROOT / "presets/sample.yaml")


# The repository


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


def test_the_texts_hold_no_placeholder_and_every_link_leads_to_a_file_in_git() -> None:
    there = {str(path) for path in tracked_files()}
    for page in (path for path in tracked_files() if path.suffix == ".md"):
        text = text_of(page)
        assert "@@" not in text, page
        for link in re.findall(r"\]\(([^)#\s]+)", text):
            if "://" not in link:
                target = (ROOT / page.parent / link).resolve().relative_to(ROOT)
                assert str(target) in there, f"{page}: {link}"


def test_every_value_of_a_foreach_is_used() -> None:
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    for name, stage in stages.items():
        for item in stage["foreach"].values() if isinstance(stage.get("foreach"), dict) else []:
            for key in item:
                assert f"${{item.{key}}}" in str(stage["do"]), f"{name}: {key}"


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
    lines = text_of(Path("constraints.txt")).splitlines()
    pinned = {canonical(line.split("==")[0]) for line in lines if "==" in line and not line.startswith("#")}
    assert {canonical(name) for name in asked if not name.startswith("tuwen[")} <= pinned


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
