"""Who may import whom: floors, rooms of the library, owners of a foreign package; and how large they may grow."""

import ast
import re
import sys
from collections import Counter
from pathlib import Path

import networkx as nx
import pytest

from tests.repo.files import imported_files, imported_packages, modules, text_of
from tests.support.checkout import ROOT

# Room -> the rooms that it may import besides itself; docs/architecture.md shows the same table.
FORMATS = {"core", "data/formats"}
RANKING = FORMATS | {"model", "retrieval"}
MAY_IMPORT = {
    "core": set[str](),
    "data/formats": {"core"},
    "data/sources": FORMATS,
    "data/quality": FORMATS,
    "data/augment": FORMATS,
    "data/inspection": FORMATS | {"data/quality", "data/sources"},
    "model": FORMATS,
    "export": FORMATS | {"model"},
    "retrieval": FORMATS | {"model"},
    "training": RANKING | {"data/augment"},
    "reranking": RANKING | {"data/augment", "training"},
    "prediction": RANKING,
    "evaluation": RANKING,
    "service": RANKING | {"report", "tracking"},
    "report": FORMATS | {"data/quality", "retrieval", "evaluation"},
    "tracking": RANKING | {"evaluation", "report"},
}
ROOT_MODULES = {"tuwen/__init__.py", *modules("tuwen/cli")}  # above all rooms
# These import what lies in their own folder; every other package is a docstring.
FILLED = {"tuwen/cli/__init__.py", "tuwen/data/sources/__init__.py", "tuwen/core/params/__init__.py"}
OWN_FOLDER = ("tuwen/tracking/served_model.py", "tuwen/__init__.py")  # to ship the package with a served model
BARE = {"tuwen/core/cores.py", "tuwen/model/device.py", "tuwen/model/precision.py", "tuwen/training/loss.py"}
BARE |= {f"tuwen/retrieval/{name}.py" for name in ("metrics", "qb_norm", "search", "shortlist", "vectors")}
OWNERS = {
    "mlflow": {f"tuwen/tracking/{name}.py" for name in ("records", "runs", "served_model", "system_metrics")},
    "albumentations": {"tuwen/data/augment/views.py"},
}
MAX_LINES = 250
MAX_MODULES = 16


def room(path: str) -> str:
    """The room of a module of the library: `tuwen/report/html/page.py` lies in `report`."""
    inside = path.removeprefix("tuwen/")
    return next(name for name in MAY_IMPORT if inside.startswith(f"{name}/"))


def own_imports(path: str) -> set[str]:
    return {file for file in imported_files(path) if file.startswith("tuwen/")}


def rooms_modules() -> list[str]:
    return [path for path in modules("tuwen") if path not in ROOT_MODULES | {"tuwen/data/__init__.py"}]


@pytest.mark.parametrize("name", MAY_IMPORT)
def test_a_room_imports_the_rooms_of_the_table_and_no_other(name: str) -> None:
    arrows = {(path, file) for path in rooms_modules() if room(path) == name for file in own_imports(path)}
    assert {arrow for arrow in arrows if arrow[1] in ROOT_MODULES} <= {OWN_FOLDER}
    rooms = {room(file) for _, file in arrows if file not in ROOT_MODULES} - {name}
    assert rooms == MAY_IMPORT[name], arrows


def test_the_architecture_page_shows_the_same_table() -> None:
    page = text_of(Path("docs/architecture.md"))
    rows = re.findall(r"^\| `([\w/]+)` \| .+ \| (.*)\|$", page, flags=re.MULTILINE)
    shown = {name: set(re.findall(r"`([\w/]+)`", imports)) for name, imports in rows if name != "tuwen"}
    for name in set(MAY_IMPORT) - {"core", "data/formats"}:
        assert shown[name] | FORMATS == MAY_IMPORT[name], name
    assert set(shown) == set(MAY_IMPORT)


def test_the_rooms_stand_above_each_other_without_a_circle() -> None:
    assert nx.is_directed_acyclic_graph(nx.DiGraph(MAY_IMPORT))


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = nx.DiGraph({path: own_imports(path) - {path, *ROOT_MODULES} for path in rooms_modules()})
    assert list(nx.simple_cycles(graph)) == []


@pytest.mark.parametrize("path", modules("tuwen"))
def test_the_library_knows_nothing_of_what_stands_above_it(path: str) -> None:
    assert not imported_packages(path) & {"stages", "flows", "tests", "prefect", "dvc"}


@pytest.mark.parametrize("path", modules("stages"))
def test_a_stage_knows_the_library_alone(path: str) -> None:
    assert not imported_packages(path) & {"flows", "tests", "prefect", "dvc", "mlflow"}


@pytest.mark.parametrize("path", modules("flows"))
def test_a_flow_starts_stages_as_processes(path: str) -> None:
    assert not imported_packages(path) & {"stages", "tests", "torch", "mlflow"}


@pytest.mark.parametrize(("package", "owners"), OWNERS.items())
def test_a_package_with_an_owner_is_imported_there_alone(package: str, owners: set[str]) -> None:
    users = {path for path in modules("tuwen", "stages", "flows") if package in imported_packages(path)}
    assert users <= owners


@pytest.mark.parametrize("path", sorted(BARE))
def test_loss_metrics_search_and_qb_norm_need_torch_and_numpy_alone(path: str) -> None:
    assert own_imports(path) <= BARE | {"tuwen/core/errors.py"}
    assert imported_packages(path) <= {"torch", "numpy", "tuwen"} | sys.stdlib_module_names


def test_modules_and_folders_stay_small() -> None:
    paths = modules("tuwen", "stages", "flows")
    lines = {path: text_of(Path(path)).count("\n") for path in paths}
    assert {path: count for path, count in lines.items() if count > MAX_LINES} == {}
    folders = Counter(str(Path(path).parent) for path in paths if not path.endswith("__init__.py"))
    assert {folder: count for folder, count in folders.items() if count > MAX_MODULES} == {}


def test_every_module_lies_in_a_room() -> None:
    assert {path for path in modules("tuwen") if path.count("/") == 1} == {"tuwen/__init__.py"}
    assert {room(path) for path in rooms_modules()} == set(MAY_IMPORT)


PACKAGES = [path for path in modules("tuwen") if path.endswith("/__init__.py") and path != "tuwen/__init__.py"]


@pytest.mark.parametrize("path", PACKAGES)
def test_a_package_is_a_docstring_that_names_its_modules(path: str) -> None:
    tree = ast.parse(text_of(Path(path)))
    assert len(tree.body) == 1 or path in FILLED
    named = set(re.findall(r"\b\w+\.py\b", ast.get_docstring(tree) or ""))
    assert named == {module.name for module in (ROOT / path).parent.glob("*.py")} - {"__init__.py"}
