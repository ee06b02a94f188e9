"""The training of the re-ranker from sets and views to a model folder, with real steps on a tiny model."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.support.reranking import TGD, make_settings
from tests.support.training import settings, write_baseline, write_set
from tuwen.core.errors import UserError
from tuwen.core.params import Params, Rerank
from tuwen.data.formats.manifest import hash_path
from tuwen.data.formats.text import load_tokenizer
from tuwen.model import dual_encoder
from tuwen.model.reranker import load_reranker
from tuwen.reranking import recipe
from tuwen.reranking.no_reranker import write_no_reranker
from tuwen.reranking.validation import make_rerank_validator
from tuwen.retrieval.rerank import has_own_towers
from tuwen.training import recipes

CLEAN, AUGMENTED, TUNED = Path("data/clean"), Path("data/augmented"), Path("models/finetuned")


def read_params(rerank: Rerank | None) -> Params:
    shaped = {"dim": 32, "image": {"patch_px": 8, "width": 64, "layers": 1, "patch_dropout": 0.5}}
    shaped |= {"text": {"width": 64, "layers": 1, "dropout": 0.1}}
    params = settings(augment={"views": 2, "splits": ["train", "valid", "test"]}, model=shaped)
    return params.model_copy(update={"rerank": rerank})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project up to the fine-tuned model."""
    root = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        write_baseline(read_params(None))
        folders = (CLEAN, AUGMENTED, Path("models/baseline"), TUNED)
        recipes.make_finetuned(*folders, read_params(None), Path(".cache/f"), lambda *_: None)
    return root


@pytest.fixture
def here(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it for one test, which runs in it."""
    shutil.copytree(world, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_small(objectives: dict[str, float] | None = None, **changes) -> Rerank:
    fit = make_settings().fit.model_copy(update={"batch_size": 4, "epochs": 2})
    return make_settings(objectives, **changes).model_copy(update={"fit": fit})


def run(rerank: Rerank, out: str = "models/reranked") -> dict:
    recipe.make_reranked(
        CLEAN, AUGMENTED, TUNED, Path(out), read_params(rerank), Path(".cache/r"), lambda *_: None
    )
    return json.loads(Path(out, "training.json").read_text())


def test_the_folder_is_the_dual_encoder_with_the_cross_encoder_beside_it(here: Path) -> None:
    facts = run(make_small())
    reranked, tuned = load_reranker(Path("models/reranked")), dual_encoder.load_model(TUNED)
    for name, value in tuned.state_dict().items():
        assert torch.equal(reranked.dual.state_dict()[name], value), name  # the towers are frozen
    assert any(value.any() for name, value in reranked.cross.state_dict().items() if "other.out.weight" in name)
    assert (facts["pairs"], facts["steps"]) == (16, 8)
    assert [record["epoch"] for record in facts["epochs"]] == [1, 2]
    assert all(0 <= record["valid_t2i_hit_at_1"] <= 1 for record in facts["epochs"])
    manifest = json.loads(Path("models/reranked/manifest.json").read_text())
    assert manifest["inputs"]["finetuned"] == hash_path(TUNED)
    assert manifest["params"]["rerank"]["fusion"] == "both"
    assert set(manifest["files"]) >= {"cross_encoder.json", "cross_encoder.safetensors", "training.json"}
    assert not Path(".cache/r").exists()
    card = Path("models/reranked/README.md").read_text(encoding="utf-8")
    assert "whose first 4 answers a cross encoder (both, layers 1) ranks once more" in card


def test_trained_towers_are_kept_beside_the_cross_encoder(here: Path) -> None:
    facts = run(make_small({"gcpr": 1.0, "fgd": 1.0}, towers="trained", tgd=TGD))
    reranked, tuned = load_reranker(Path("models/reranked")), dual_encoder.load_model(TUNED)
    own = reranked.dual.state_dict()
    moved = {name for name, value in tuned.state_dict().items() if not torch.equal(own[name], value)}
    assert {"log_scale", "text_projection.weight"} < moved
    assert {name.split(".")[0] for name in moved} >= {"image_tower", "text_tower"}
    assert dual_encoder.read_vocabulary(Path("models/reranked")) == dual_encoder.read_vocabulary(TUNED)
    assert has_own_towers(Path("models/reranked"))
    assert facts["epochs"][-1]["temperature"] == pytest.approx(1 / reranked.dual.scale.item(), abs=1e-5)
    assert facts["epochs"][-1]["queue_size"] > facts["epochs"][0]["queue_size"]
    card = Path("models/reranked/README.md").read_text(encoding="utf-8")
    assert "trained further together with a cross encoder (both, layers 1), which ranks its first 4" in card


@pytest.mark.parametrize("towers", ["frozen", "trained"])
def test_two_trainings_write_the_same_bytes(here: Path, towers: str) -> None:
    for out in ("models/one", "models/two"):
        run(make_small(towers=towers), out)
        assert has_own_towers(Path(out)) == (towers == "trained")
    for name in ("cross_encoder.safetensors", "model.safetensors", "training.json", "manifest.json"):
        assert Path("models/one", name).read_bytes() == Path("models/two", name).read_bytes(), name


def test_the_corpus_is_shown_as_often_as_asked(here: Path) -> None:
    assert run(make_small(corpus=2.0))["pairs"] == 16 + 2 * 8
    manifest = json.loads(Path("models/reranked/manifest.json").read_text())
    assert manifest["inputs"]["corpus"] == hash_path(CLEAN / "corpus")
    assert manifest["params"]["baseline"]["policy"]


def test_a_corpus_without_a_pair_is_refused_where_it_is_to_be_shown(here: Path) -> None:
    write_set(Path("data"), "corpus", {})
    with pytest.raises(UserError, match=r"rerank\.corpus: data/clean/corpus has no pair to show; set it to 0\.0"):
        run(make_small(corpus=1.0))


def test_the_state_that_is_chosen_on_valid_is_the_one_that_is_saved(here: Path) -> None:
    small = make_small()
    select = small.fit.select.model_copy(update={"epochs": True})
    fit = small.fit.model_copy(
        update={"select": select, "ema": 0.5}
    )  # so that there is more than one, whatever is best
    facts = run(small.model_copy(update={"fit": fit}))
    states = {(one["epoch"], one["ema"]): one["criterion"] for one in facts["candidates"]}
    assert states.keys() >= {(2, False), (2, True)}
    for record in facts["epochs"]:
        hits = [record[f"valid_{direction}_hit_at_1"] for direction in ("t2i", "i2t")]
        if (record["epoch"], False) in states:
            assert states[record["epoch"], False] == pytest.approx(sum(hits) / 2, abs=1e-5)
    dual, cross = load_reranker(Path("models/reranked"))
    validate = make_rerank_validator(CLEAN / "valid", dual, load_tokenizer(TUNED / "vocab.txt"), small.k)
    chosen = states[facts["selected"]["epoch"], facts["selected"]["ema"]]
    assert validate(cross).criterion == pytest.approx(chosen, abs=1e-5)


def test_without_a_reranker_the_folder_holds_its_manifest_alone(here: Path) -> None:
    Path("models/reranked").mkdir()
    Path("models/reranked/left_over").write_text("of an earlier one")
    write_no_reranker(Path("models/reranked"))
    assert [path.name for path in Path("models/reranked").iterdir()] == ["manifest.json"]


def test_a_vocabulary_without_the_mask_is_named(here: Path) -> None:
    vocabulary = Path("models/finetuned/vocab.txt")
    vocabulary.write_text(vocabulary.read_text().replace("[MASK]", "[unused1]"))
    with pytest.raises(UserError, match=r"vocab\.txt: has no \[MASK\], by which words are hidden"):
        run(make_small())
