"""The pipeline over vectors of another program: baseline, heads that are trained, the refit, and sets by id."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.support.distributed_process import GUIDED
from tests.support.training import settings, write_set
from tuwen.core.errors import UserError
from tuwen.core.params import Params
from tuwen.core.params.training import Distil
from tuwen.data.formats import manifest, pairs, pinned
from tuwen.evaluation.zero_shot import evaluate_zero_shot
from tuwen.model import adapter
from tuwen.retrieval.embed import embed_set
from tuwen.retrieval.retriever import load_retriever
from tuwen.training import recipes
from tuwen.training.frozen import adapters

SETS = {"train": range(80), "valid": range(100, 130), "test": range(200, 230), "corpus": range(0)}
DIM = 12
CLEAN, AUGMENTED, GIVEN = Path("data/clean"), Path("data/augmented"), Path("inputs/vectors")


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """Settings for vectors whose images are the texts' in another basis: a linear head can learn it."""
    monkeypatch.chdir(tmp_path)
    for name, numbers in SETS.items():
        write_set(Path("data"), name, {"": numbers} if numbers else {})
    manifest.write_manifest(AUGMENTED, {}, {}) if AUGMENTED.mkdir(parents=True) else None
    (AUGMENTED / "manifest.json").write_text("{}")
    draw = np.random.default_rng(0)
    ids = [str(number) for numbers in SETS.values() for number in numbers]
    texts = draw.normal(size=(len(ids), DIM)).astype(np.float32)
    images = (texts @ np.linalg.qr(draw.normal(size=(DIM, DIM)))[0]).astype(np.float32)
    GIVEN.mkdir(parents=True)
    for name, vectors in (("images", images), ("texts", texts)):
        np.save(GIVEN / f"{name}.npy", vectors)
        (GIVEN / f"{name}.txt").write_text("\n".join(ids), encoding="utf-8")
    sha256 = pinned.hash_listing([GIVEN / name for name in adapter.GIVEN_FILES])
    fit = {
        "epochs": 40,
        "batch_size": 16,
        "lr": 0.03,
        "muon_lr": None,
        "select": {"epochs": True, "wise_ft": [], "soup": False},
    }
    start = {"kind": "embeddings", "folder": str(GIVEN), "sha256": sha256}
    values = settings().model_dump(by_alias=True)
    return settings(
        model=None,
        corpus={},
        baseline={"start": start, "fit": None, "policy": None},
        finetune={"fit": values["finetune"]["fit"] | fit, "refit_all": True},
        augment={"splits": ["train", "valid"]},
    )


def run(params: Params) -> dict[str, dict]:
    models = {name: Path("models") / name for name in ("baseline", "finetuned", "final")}
    log, checkpoint = (lambda *_: None), Path(".cache/adapters")
    recipes.make_baseline(CLEAN, models["baseline"], params, checkpoint, log)
    folders = (CLEAN, AUGMENTED, models["baseline"])
    recipes.make_finetuned(*folders, models["finetuned"], params, checkpoint, log)
    recipes.make_refitted(*folders, models["final"], params, checkpoint, log, tuned=models["finetuned"])
    return {name: json.loads((folder / "training.json").read_text()) for name, folder in models.items()}


def test_heads_learn_what_the_baseline_lacks_and_every_set_is_embedded_by_its_ids(params: Params) -> None:
    training = run(params)
    before, epochs = training["baseline"]["valid"], training["finetuned"]["epochs"]
    chosen = epochs[training["finetuned"]["selected"]["epoch"] - 1]
    for name in ("valid_i2t_hit_at_5", "valid_t2i_hit_at_5"):
        assert before[name] < 0.5
        assert chosen[name] > 0.9
    assert training["finetuned"]["pairs"] == 80
    assert training["final"]["pairs"] == 110
    assert training["final"]["refit"] == ["train", "valid"]
    assert training["final"]["selected"] == training["finetuned"]["selected"]
    named = {name: json.loads(Path(f"models/{name}/manifest.json").read_text())["inputs"] for name in training}
    assert set(named["finetuned"]) == {"train", "valid", "baseline"}
    assert set(named["final"]) == {"train", "valid", "baseline"}
    assert named["finetuned"]["train"] == manifest.hash_path(CLEAN / "train")

    for model in ("baseline", "finetuned"):
        embed_set(Path("models") / model, CLEAN / "test", Path("embeddings") / model, params.embed)
    images, texts = (np.load(f"embeddings/finetuned/{name}.npy") for name in ("images", "texts"))
    assert images.shape == texts.shape == (30, DIM)
    assert np.abs(np.linalg.norm(images, axis=1) - 1).max() < 1e-5
    assert ((images @ texts.T).argmax(1) == np.arange(30)).mean() > 0.8
    rows = [int(one) for one in pairs.read_pair_set(CLEAN / "test").images["image_id"].to_pylist()]
    own = np.load(GIVEN / "images.npy")[[110 + row - 200 for row in rows]]
    due = own / np.linalg.norm(own, axis=1, keepdims=True)
    assert np.abs(np.load("embeddings/baseline/images.npy") - due).max() < 1e-6
    embedded, out = Path("embeddings/finetuned"), Path("zero_shot.json")
    evaluate_zero_shot(Path("models/finetuned"), embedded, CLEAN / "test", out, params.evaluate)
    assert json.loads(Path("zero_shot.json").read_text())["pictures"] == 0


def test_what_the_vectors_cannot_do_is_told(params: Params) -> None:
    recipes.make_baseline(CLEAN, Path("models/baseline"), params, Path(".cache/b"), lambda *_: None)
    with pytest.raises(UserError, match="holds vectors of another program, and only that can encode a new text"):
        load_retriever("models/baseline")
    lines = (GIVEN / "images.txt").read_text().split("\n")
    (GIVEN / "images.txt").write_text("\n".join(["else", *lines[1:]]))
    with pytest.raises(
        UserError, match=r"baseline\.start\.sha256: expected that of inputs/vectors, [0-9a-f]{64}, got"
    ):
        recipes.make_baseline(CLEAN, Path("models/baseline"), params, Path(".cache/b"), lambda *_: None)


def test_no_words_can_be_hidden_where_texts_are_vectors(params: Params) -> None:
    recipes.make_baseline(CLEAN, Path("models/baseline"), params, Path(".cache/b"), lambda *_: None)
    fit = params.finetune.fit.model_copy(update={"distil": Distil.model_validate(GUIDED)})
    folders = (Path("models/baseline"), Path("models/finetuned"))
    with pytest.raises(UserError, match=r"over vectors .* distil\.fgd 0"):
        adapters.train_adapter(CLEAN, ["train"], *folders, fit, 0, Path(".cache/a"), lambda *_: None)
