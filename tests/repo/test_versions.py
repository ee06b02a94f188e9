"""versions.yaml: the versions of constraints.txt, and each stage names those of what it computes with."""

import functools
import importlib.metadata
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from ruamel.yaml import YAML

from tests.repo import closure
from tests.repo.files import text_of
from tests.repo.test_graph import script, stages
from tests.repo.test_repository import canonical
from tests.support.checkout import ROOT
from tuwen.core import params
from tuwen.core.versions import flatten_versions, read_versions
from tuwen.data.augment import stored_views
from tuwen.data.formats import manifest
from tuwen.reranking import recipe
from tuwen.retrieval import embed
from tuwen.training import checkpoint

# Imported where outs are made, and yet no byte of theirs depends on it.
WITHOUT_EFFECT = {
    "aiohttp": "fetches shards, whose sha256 is checked",
    "fsspec": "fetches shards, whose sha256 is checked",
    "huggingface_hub": "fetches weights, whose revision is checked",
    "pydantic": "checks what is read",
}
# (module of the library, package) -> why a stage that imports both may do without that package's version
USED_ELSEWHERE = {
    ("data/formats/images.py", "torch"): "turns pixels into a model's input",
    ("data/formats/text.py", "torch"): "turns captions into a model's input",
    ("data/formats/tokens/pieces.py", "tokenizers"): "spells captions for a model",
    ("data/formats/tokens/spelling.py", "tokenizers"): "spells captions for a model",
    ("data/formats/tokens/spelling.py", "OpenCC"): "spells captions for a model",
    ("data/augment/paraphrase.py", "OpenCC"): "by augment.paraphrase.kind",
    ("data/augment/paraphrase.py", "rjieba"): "by augment.paraphrase.kind",
    ("data/augment/back_translation.py", "torch"): "by augment.paraphrase.kind",
    ("data/augment/back_translation.py", "transformers"): "by augment.paraphrase.kind",
    ("data/augment/back_translation.py", "safetensors"): "by augment.paraphrase.kind",
    ("retrieval/intervals/exact.py", "scipy"): "intervals are for the figures of evaluation and report",
    ("data/formats/picture_rule.py", "transformers"): "counts patches, of a model that the library makes",
    ("data/formats/tokens/library_tokenizer.py", "transformers"): "spells captions for a model",
    ("data/formats/tokens/library_tokenizer.py", "open_clip_torch"): "by baseline.start.kind",
    ("model/towers.py", "open_clip_torch"): "by baseline.start.kind",
    ("model/libraries/open_clip_towers.py", "open_clip_torch"): "by baseline.start.kind",
    ("model/weights/open_clip.py", "open_clip_torch"): "by baseline.start.kind",
    ("model/weights/open_clip_hub.py", "open_clip_torch"): "by baseline.start.kind",
}
# What no stage imports by name, and why it is listed.
BENEATH = {
    "albucore": "albumentations",
    "ftfy": "open_clip_torch",
    "simsimd": "albumentations",
    "stringzilla": "albumentations",
}
NOT_TRAINED_WITH = {"great_expectations", "Jinja2", "matplotlib", "resvg_py", "scipy"}
BY_KIND = ("data.paraphrase.", "model.start.")


def listed() -> dict[str, Any]:
    values: dict[str, Any] = YAML(typ="safe", pure=True).load(ROOT / "versions.yaml")
    return values


def keys_of(name: str) -> list[str]:
    """The keys of versions.yaml that a stage of dvc.yaml names."""
    return [key for group in stages()[name]["params"] if isinstance(group, dict) for key in group["versions.yaml"]]


def packages_of(keys: list[str]) -> set[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return set(read_versions([key for key in keys if not key.startswith(BY_KIND)]))


@functools.cache
def owners() -> dict[str, list[str]]:
    """Module -> the packages that it may come from; of all that are installed, and of what needs not be."""
    return {**importlib.metadata.packages_distributions(), "pillow_heif": ["pillow-heif"]}


@functools.cache
def imported(name: str) -> set[tuple[str, str]]:
    """(module, package of PyPI) for each import of other people's code by a stage's modules."""
    return set(_imported(name))


def _imported(name: str) -> Iterator[tuple[str, str]]:
    pinned = {canonical(package): package for package in pins()}
    for module in closure.closure(ROOT, script(stages()[name])):
        for imported_module, _ in closure.imports(ROOT / module):
            for package in owners().get(imported_module.partition(".")[0], []):
                if canonical(package) in pinned:
                    yield module.removeprefix("tuwen/"), pinned[canonical(package)]


def pins() -> dict[str, str]:
    return dict(re.findall(r"(?m)^([\w.-]+)==(\S+)$", text_of(Path("constraints.txt"))))


def test_every_listed_version_is_the_pinned_one() -> None:
    pinned, versions = pins(), flatten_versions(listed())
    assert versions == {name: pinned.get(name) for name in versions}


@pytest.mark.parametrize("name", stages())
def test_a_stage_names_the_versions_of_what_it_computes_with_and_no_others(name: str) -> None:
    named, found = packages_of(keys_of(name)), imported(name)
    needed = {package for one, package in found if (one, package) not in USED_ELSEWHERE} - WITHOUT_EFFECT.keys()
    assert needed - named == set(), "computed with, but another version would make nothing stale"
    used = {package for _, package in found}
    assert {package for package in named if BENEATH.get(package, package) not in used} == set()


@pytest.mark.parametrize("name", stages())
def test_versions_that_depend_on_a_kind_are_named_by_the_stages_that_import_them(name: str) -> None:
    templates = {key.partition("${")[0] for key in keys_of(name) if "${" in key}
    modules = {module for module, _ in imported(name)}
    assert ("data.paraphrase." in templates) == ("data/augment/paraphrase.py" in modules)
    assert ("model.start." in templates) == ("model/towers.py" in modules)


def test_every_kind_has_its_versions() -> None:
    values = listed()
    for owner, field, group in (
        (params.Augment, "paraphrase", values["data"]["paraphrase"]),
        (params.Baseline, "start", values["model"]["start"]),
    ):
        settings = get_args(owner.model_fields[field].annotation)
        kinds = {kind for one in settings for kind in get_args(one.model_fields["kind"].annotation)}
        assert set(group) == kinds


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("augment", stored_views.DECIDING_CODE),
        ("embed", embed.DECIDING_CODE),
        *((name, checkpoint.DECIDING_CODE) for name in ("baseline", "finetune", "refit")),
        ("rerank", recipe.DECIDING_CODE),
    ],
)
def test_unfinished_work_is_resumed_by_the_versions_that_the_stage_names_alone(
    name: str, code: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = text_of(Path("versions.yaml"))
    (tmp_path / "versions.yaml").write_text(text, encoding="utf-8")
    before = manifest.make_work_key({}, {}, code)
    versions, named = flatten_versions(listed()), packages_of(keys_of(name))
    for package in named | NOT_TRAINED_WITH:
        pin = rf'(?m)(\b{re.escape(package)}: (?:&\w+ )?)"{re.escape(versions[package])}"'
        bumped = re.sub(pin, r'\1"99.0"', text)
        assert bumped != text, package
        (tmp_path / "versions.yaml").write_text(bumped, encoding="utf-8")
        assert (manifest.make_work_key({}, {}, code) != before) == (package in named), package
