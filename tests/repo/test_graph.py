"""dvc.yaml: what a stage depends on is what decides its outs, and the presets that fill the graph are valid."""

import re
from pathlib import Path
from typing import Any

import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

from tests.repo import closure
from tests.repo.files import modules, tracked_files
from tests.support.checkout import ROOT
from tuwen.core import params
from tuwen.core.presets import check_preset, compose_preset, get_values
from tuwen.data.augment import stored_views
from tuwen.evaluation.models import MODELS
from tuwen.reranking import recipe
from tuwen.retrieval import embed
from tuwen.training import checkpoint

MAX_LINES = 330


def preset_names() -> list[str]:
    return sorted(path.stem for path in (ROOT / "presets").glob("*.yaml"))


def load_preset(name: str) -> params.Params:
    return check_preset(compose_preset(name, ROOT / "presets"))


def stages() -> dict[str, dict[str, Any]]:
    """Name -> definition as dvc.yaml has it; a foreach or matrix stage's template stands for all of its stages."""
    graph = YAML(typ="safe", pure=True).load(ROOT / "dvc.yaml")["stages"]
    return {name: definition.get("do", definition) for name, definition in graph.items()}


def script(definition: dict[str, Any]) -> str:
    found = re.match(r"python -m stages\.(\w+)", definition["cmd"])
    assert found, definition["cmd"]
    return f"stages/{found[1]}.py"


def code_deps(definition: dict[str, Any]) -> list[str]:
    return [dep for dep in definition["deps"] if dep.startswith(("stages/", "tuwen/"))]


def lies_under(path: str, dep: str) -> bool:
    return path == dep or path.startswith(f"{dep}/")


@pytest.mark.parametrize("name", stages())
def test_every_module_that_a_stage_imports_lies_under_a_dep_and_every_dep_holds_one(name: str) -> None:
    definition = stages()[name]
    deps, needed = code_deps(definition), closure.closure(ROOT, script(definition))
    assert {path for path in needed if not any(lies_under(path, dep) for dep in deps)} == set()
    templates = {str(path) for path in tracked_files() if path.suffix == ".j2"}
    holds = needed | (templates if any(path.startswith("tuwen/report/html/") for path in needed) else set())
    assert {dep for dep in deps if not any(lies_under(path, dep) for path in holds)} == set()
    assert len(deps) == len(set(deps))


def test_dvc_yaml_stays_short() -> None:
    assert (ROOT / "dvc.yaml").read_text(encoding="utf-8").count("\n") < MAX_LINES


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("augment", stored_views.DECIDING_CODE),
        ("embed", embed.DECIDING_CODE),
        *((name, checkpoint.DECIDING_CODE) for name in ("baseline", "finetune", "refit")),
        ("rerank", recipe.DECIDING_CODE),
    ],
)
def test_unfinished_work_is_resumed_by_the_same_code_that_makes_the_stage_stale(
    name: str, code: tuple[str, ...]
) -> None:
    packages = {dep.removeprefix("tuwen/") for dep in code_deps(stages()[name]) if dep.startswith("tuwen/")}
    assert set(code) == packages


@pytest.mark.parametrize("name", stages())
def test_params_are_the_groups_that_the_stage_reads(name: str) -> None:
    stage = stages()[name]
    # one key of a group may be enough: a corpus stage reads its own source, finetune all but refit_all
    listed = {group.partition(".")[0] for group in stage.get("params", []) if isinstance(group, str)}
    assert listed == closure.param_groups(ROOT, script(stage)), "see `python -m tests.repo.closure`"


def test_data_deps_are_outs_of_another_stage_or_lie_in_git() -> None:
    with Repo(ROOT) as repo:
        deps = {(stage.addressing, Path(dep.fs_path)) for stage in repo.index.stages for dep in stage.deps}
        outs = {Path(out.fs_path) for stage in repo.index.stages for out in stage.outs}
    code = [path for path in tracked_files() if path.parts[0] == "tuwen"]
    ours = {ROOT / path for path in tracked_files()} | {
        ROOT / folder for path in code for folder in path.parents[:-1]
    }
    made = outs | {folder for out in outs for folder in out.parents if ROOT in folder.parents}
    strange = [(stage, dep) for stage, dep in deps if dep not in ours and not made & {dep, *dep.parents}]
    assert strange == []


def test_the_report_depends_on_what_it_reads_of_every_ranked_model() -> None:
    deps = set(stages()["report"]["deps"])
    for model in MODELS.values():
        names = ("details.json", "metrics.json", "ranks.parquet", "zero_shot.json")
        read = {f"results/{model.name}/{name}" for name in names} | {f"models/{model.name}/training.json"}
        read |= {f"embeddings/{model.name}/test"} if model.embeds else set()
        assert {path for path in read if not any(lies_under(path, dep) for dep in deps)} == set(), model.name


def test_every_stage_has_its_script_and_every_script_its_stage() -> None:
    assert {script(stage) for stage in stages().values()} == set(modules("stages")) - {"stages/__init__.py"}


def page_files() -> set[str]:
    """The files of the search page, which no stage reads."""
    return {str(path) for path in tracked_files() if lies_under(str(path), "tuwen/service/page")}


def test_files_that_the_library_reads_from_itself_are_deps() -> None:
    deps = {dep for stage in stages().values() for dep in stage["deps"]}
    data = {str(path) for path in tracked_files() if path.parts[0] == "tuwen" and path.suffix != ".py"}
    read = data - source_roots() - page_files()
    assert {path for path in read if not any(lies_under(path, dep) for dep in deps)} == set()


def test_no_stray_file_lies_in_a_package() -> None:
    """A folder is a dep as a whole, so whatever lies in it makes stages stale."""
    files = [path.relative_to(ROOT) for path in (ROOT / "tuwen").rglob("*") if path.is_file()]
    found = {str(path) for path in files if "__pycache__" not in path.parts and path.suffix != ".py"}
    templates = {str(path) for path in tracked_files() if path.suffix == ".j2"}
    roots = {root for root in source_roots() if root.startswith("tuwen/")}
    assert found == templates | roots | page_files()


def test_every_value_of_a_foreach_is_used() -> None:
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    for name, stage in stages.items():
        for item in stage["foreach"].values() if isinstance(stage.get("foreach"), dict) else []:
            for key in item:
                assert f"${{item.{key}}}" in str(stage["do"]), f"{name}: {key}"


def source_roots() -> set[str]:
    """What the sources of all presets are read from."""
    loaded = [params.load_params(ROOT / "params.yaml"), *map(load_preset, preset_names())]
    return {source.root for one in loaded for source in (one.source, *one.corpus.values())}


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_valid(name: str) -> None:
    load_preset(name)


def test_params_yaml_ships_as_the_sample() -> None:
    values = YAML(typ="safe", pure=True).load(ROOT / "params.yaml")
    assert values == get_values(compose_preset("sample", ROOT / "presets"))
