"""A whole model of a library on its way: the baseline, fine-tuned, copied and embedded."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.support.library_models import SIZE_PX, TOKENS, pin, save_library_model
from tests.support.training import caption, settings, write_set
from tuwen.data.augment.stored_views import augment
from tuwen.model.stored_model import copy_model
from tuwen.retrieval.embed import embed_set
from tuwen.retrieval.retriever import load_retriever
from tuwen.training import recipes

CLEAN, AUGMENTED = Path("data/clean"), Path("data/augmented")


@pytest.mark.parametrize("kind", ["chinese_clip", "siglip", "siglip2"])
def test_it_is_measured_trained_on_fresh_views_and_embeds_by_its_own_rule(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, numbers in (("train", range(8)), ("valid", range(20, 26)), ("test", range(30, 34)), ("corpus", ())):
        write_set(Path("data"), name, {"": numbers} if numbers else {})
    save_library_model(kind, Path("theirs"))
    params = settings(
        model=None,
        corpus={},
        image={"size_px": SIZE_PX},
        text={"max_tokens": TOKENS},
        augment={"mode": "online"},
        baseline={"start": pin(Path("theirs")).model_dump(), "fit": None, "policy": None},
    )
    augment(CLEAN, AUGMENTED, params.augment, params.image)
    folders, log = (Path("models/baseline"), Path("models/finetuned")), (lambda *_: None)
    recipes.make_baseline(CLEAN, folders[0], params, Path(".cache/b"), log)
    recipes.make_finetuned(CLEAN, AUGMENTED, *folders, params, Path(".cache/f"), log)
    copy_model(folders[1], Path("models/final"))
    before, after = (json.loads((folder / "training.json").read_text()) for folder in folders)
    assert before["captions"]["train"]["captions"] == 8
    assert (after["pairs"], after["steps"]) == (8, 4)
    assert "by transformers" in (folders[0] / "README.md").read_text(encoding="utf-8")
    for folder in (*folders, Path("models/final")):
        embed_set(folder, CLEAN / "test", Path("embeddings") / folder.name, params.embed)
    vectors = {folder.name: np.load(Path("embeddings", folder.name, "images.npy")) for folder in folders}
    assert np.abs(vectors["baseline"] - vectors["finetuned"]).max() > 1e-3
    assert np.array_equal(np.load("embeddings/final/images.npy"), vectors["finetuned"])
    captions = [caption(number) for number in range(30, 34)]
    asked, kept = load_retriever("models/final").encode_texts(captions), np.load("embeddings/final/texts.npy")
    assert np.abs(asked - kept).max() < 1e-6
