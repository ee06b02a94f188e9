"""Which stages run when one setting changes: docs/architecture.md's table against DVC's graph and real outs."""

import functools
import io
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from dvc.dependency.param import ParamsDependency
from dvc.repo import Repo
from PIL import Image

from tests.stages.conftest import picture
from tests.support import validate as small
from tests.support.checkout import ROOT
from tests.support.retrieval import build
from tests.support.validate import TEXT, change_row
from tuwen.core.params import Pairs, Split, Text, Validate, load_params
from tuwen.data.formats.manifest import hash_file
from tuwen.data.quality import suites
from tuwen.data.quality.validate import validate
from tuwen.evaluation.evaluate import evaluate_model

PARAMS = small.PARAMS.model_copy(update={"max_group_share": 0.3})
SPLIT = small.SPLIT.model_copy(update={"official": False})  # the source has splits of its own
GROUPS = ("validate", "split", "text", "pairs", "evaluate", "predict", "report", "gate")
ROW = re.compile(r"^\| (`[a-z]+\.\w+`.*?) \| (.+?) \| (.+?) \|$", re.MULTILINE)
# Thresholds that judge and take no row, and values that change what they say.
JUDGING: Mapping[str, Any] = {
    "max_aspect": 1.0,
    "max_quarantined_share": 0.9,
    "max_drift": 0.0,
    "full_doctor_pairs": 1,
    "doctor_share": 0.1,
}


def read_table() -> dict[str, tuple[set[str], set[str]]]:
    """Key -> the stages that read it, and those that may follow, by the page."""
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    section = page.partition("\n## What runs when a setting changes\n")[2].partition("\n## ")[0]
    rows: dict[str, tuple[set[str], set[str]]] = {}
    for keys, reading, following in ROW.findall(section):
        assert all(column == "none" or "`" in column for column in (reading, following)), keys
        stages = set(re.findall(r"`(\w+)`", reading)), set(re.findall(r"`(\w+)`", following))
        rows |= dict.fromkeys(re.findall(r"`([\w.]+)`", keys), stages)
    return rows


class Node:
    """A stage of the real graph, as DVC reads it: paths are relative to the checkout."""

    def __init__(self, stage: Any) -> None:
        params = [dep for dep in stage.deps if isinstance(dep, ParamsDependency)]
        self.name = str(stage.name).partition("@")[0]
        self.keys = {key for dep in params if Path(dep.fs_path).name == "params.yaml" for key in dep.params}
        self.deps = {Path(dep.fs_path).relative_to(ROOT) for dep in stage.deps if dep not in params}
        self.outs = {Path(out.fs_path).relative_to(ROOT) for out in stage.outs}

    def reads(self, key: str) -> bool:
        """Whether DVC runs it when the value of this key changes."""
        return any(key == own or key.startswith(f"{own}.") for own in self.keys)

    def needs(self, outs: set[Path]) -> bool:
        """Whether DVC runs it when these outs change."""
        return any(dep in {out, *out.parents} or out in dep.parents for dep in self.deps for out in outs)


@functools.cache
def graph() -> list[Node]:
    with Repo(ROOT) as repo:
        return [Node(stage) for stage in repo.index.stages]


def find_followers(outs: Iterable[Path]) -> set[str]:
    """The stages that run after these outs changed, if each of them changes its own outs."""
    changed, found = set(outs), set[str]()
    while more := [node for node in graph() if node.needs(changed) and not node.outs <= changed]:
        found |= {node.name for node in more}
        changed = changed.union(*(node.outs for node in more))
    return found


def list_changed(root: Path, before: Mapping[Path, str]) -> set[Path]:
    """The outs of the real graph of which a file below `root` is not as it was `before`."""
    after = hash_files(root)
    files = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    return {out for node in graph() for out in node.outs if any(out in {path, *path.parents} for path in files)}


def hash_files(root: Path) -> dict[Path, str]:
    return {path.relative_to(root): hash_file(path) for path in root.rglob("*") if path.is_file()}


def list_keys() -> list[str]:
    values = load_params(ROOT / "params.yaml").model_dump(by_alias=True)
    return [f"{group}.{key}" for group in GROUPS for key in values[group]]


def test_the_table_has_every_key_of_these_groups() -> None:
    assert sorted(read_table()) == sorted(list_keys())


@pytest.mark.parametrize("key", list_keys())
def test_a_key_is_read_by_the_stages_of_its_row(key: str) -> None:
    assert {node.name for node in graph() if node.reads(key)} == read_table()[key][0]


@pytest.fixture(autouse=True, scope="module")
def _small_sets_count() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suites, "MIN_IMAGES_FOR_GROUP_SHARE", 11)  # below, validate.max_group_share does not count
        yield


@pytest.fixture(scope="module")
def judged(make_raw: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data/raw` and what `validate` makes of it: images of 20, 60, 60 x 40 px, and others of 48."""
    pictures = {"labelled-03.png": picture(3, side_px=20), "labelled-05.png": picture(5, side_px=60)}
    pictures["labelled-07.png"] = widen(picture(7))
    captions = {"labelled-line-05": "蘋果樹下的貓", "labelled-line-09": "苹果树下的猫。"}  # equal if simplified
    captions |= dict.fromkeys(
        ("labelled-line-02", "labelled-line-10"), "远处的雪山倒映在湖水中"
    )  # join two pictures
    folder = tmp_path_factory.mktemp("judged")
    data = make_raw(folder, pictures=pictures, captions=captions, grouped=False, tasks=True)
    for row, split in enumerate(["test", "test", "valid", "valid", *["train"] * 8]):
        change_row(data, "labelled", "images", row, split=split)
    run_validate(data)
    return data.parent


def widen(encoded: bytes) -> bytes:
    """The image at 60 x 40 px."""
    wide = io.BytesIO()
    Image.open(io.BytesIO(encoded)).resize((60, 40)).save(wide, "PNG")
    return wide.getvalue()


def run_validate(data: Path, params: Validate = PARAMS, split: Split = SPLIT, text: Text = TEXT) -> None:
    validate(data / "raw", data / "clean", params, split, ("art",), text)


def rerun(
    judged: Path, root: Path, params: Validate = PARAMS, split: Split = SPLIT, text: Text = TEXT
) -> set[str]:
    """The stages that run after `validate` ran with these settings."""
    shutil.copytree(judged, root, dirs_exist_ok=True)
    before = hash_files(root)
    run_validate(root / "data", params, split, text)
    return find_followers(list_changed(root, before))


def test_thresholds_that_only_judge_reach_the_report_alone(judged: Path, tmp_path: Path) -> None:
    found = rerun(judged, tmp_path, PARAMS.model_copy(update=JUDGING))
    assert found == {"report"}
    for key in JUDGING:
        assert read_table()[f"validate.{key}"][1] == found, key


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("validate.min_side_px", 30),
        ("validate.max_pixels", 3000),
        ("validate.max_chars", 15),
        ("validate.max_pictures_per_caption", 1),
        ("validate.max_group_share", 0.1),
        ("split.seed", 7),
        ("split.valid", 0.4),
        ("split.test", 0.4),
        ("split.official", True),
    ],
)
def test_settings_that_take_or_move_rows_reach_all_that_is_made_of_them(
    key: str, value: Any, judged: Path, tmp_path: Path
) -> None:
    group, name = key.split(".")
    changed = {name: value}
    if group == "validate":
        found = rerun(judged, tmp_path, PARAMS.model_copy(update=changed))
    else:
        found = rerun(judged, tmp_path, split=SPLIT.model_copy(update=changed))
    assert found == read_table()[key][1]


def test_every_other_key_of_these_groups_was_changed_above() -> None:
    marks = test_settings_that_take_or_move_rows_reach_all_that_is_made_of_them.pytestmark
    (changed,) = (mark.args[1] for mark in marks if mark.name == "parametrize")
    groups = ("validate.", "split.")
    taking = {key for key in list_keys() if key.startswith(groups)} - {f"validate.{key}" for key in JUDGING}
    assert {key for key, _ in changed} == taking


@pytest.mark.parametrize(("key", "value"), [("text.max_tokens", 4), ("text.simplify", True)])
def test_how_a_caption_is_read_reaches_what_the_rows_and_the_baseline_are_for(
    key: str, value: Any, judged: Path, tmp_path: Path
) -> None:
    """`validate` measures by it, and `baseline` makes the model that reads so: its outs are taken as changed."""
    found = rerun(judged, tmp_path, text=TEXT.model_copy(update={key.partition(".")[2]: value}))
    assert found == ({"report"} if key == "text.max_tokens" else read_table()["split.seed"][1])
    models = {out for node in graph() if node.name == "baseline" for out in node.outs}
    reading, following = read_table()[key]
    assert (found | find_followers(models)) - reading == following


def test_a_threshold_that_takes_no_row_changes_no_set(judged: Path, tmp_path: Path) -> None:
    """Those that take rows too, as long as none lies between the old value and the new one."""
    taking = {"min_side_px": 17, "max_pixels": 90_000, "max_chars": 61}
    assert rerun(judged, tmp_path, PARAMS.model_copy(update=taking)) <= {"report"}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("pairs.min_cosine", 0.9),
        ("pairs.max_share", 0.9),
        ("pairs.severity", "critical"),
        ("evaluate.ks", [1, 5]),
        ("evaluate.bootstrap_samples", 100),
        ("evaluate.seed", 1),
    ],
)
def test_what_evaluate_reads_reaches_what_reads_its_outs(key: str, value: Any, tmp_path: Path) -> None:
    build(tmp_path)
    params, (group, name) = load_params(ROOT / "params.yaml"), key.split(".")
    groups = {"evaluate": params.evaluate, "pairs": params.pairs}
    run_evaluate(tmp_path, groups["evaluate"], groups["pairs"])
    before = hash_files(tmp_path)
    groups[group] = groups[group].model_copy(update={name: value})
    run_evaluate(tmp_path, groups["evaluate"], groups["pairs"])
    reading, following = read_table()[key]
    followers = find_followers(list_changed(tmp_path, before)) - reading
    # how the bootstrap draws stands in metrics.json, and in what a re-ranker's choice is made by
    assert followers == (set() if key in ("evaluate.bootstrap_samples", "evaluate.seed") else following)


@pytest.mark.parametrize(
    "key",
    [
        "pairs.lowest",
        "predict.k",
        "predict.correction",
        "predict.rerank",
        "report.examples",
        "gate.max_drop_points",
    ],
)
def test_what_one_stage_reads_or_none_reaches_what_reads_its_outs(key: str) -> None:
    reading, following = read_table()[key]
    assert (
        find_followers(out for node in graph() if node.name in reading for out in node.outs) - reading == following
    )


def run_evaluate(root: Path, evaluate: Any, doubt: Pairs) -> None:
    for model in ("baseline", "finetuned"):
        folders = root / "embeddings" / model, root / "data/clean", root / "results" / model
        evaluate_model(*folders, evaluate, doubt, model=root / "models" / model)
