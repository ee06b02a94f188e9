"""Where weights come from, in the words of the model card."""

import pytest
from pydantic import TypeAdapter

from tests.support.checkout import ROOT
from tuwen.core.errors import UserError
from tuwen.core.params import Start
from tuwen.core.params.root import check_params
from tuwen.core.presets import compose_preset, get_values

DIGEST, COMMIT, OTHER = 64 * "a", 40 * "b", 40 * "c"
TOWERS = {"image": "ViT-L-14", "image_weights": "laion/CLIP-ViT-L-14", "text": "hfl/chinese-roberta-wwm-ext"}


@pytest.mark.parametrize(
    ("start", "origin"),
    [
        ({"kind": "fresh"}, "drawn by chance"),
        (
            {"kind": "hugging_face", "model": "OFA-Sys/chinese-clip-vit-large-patch14", "revision": COMMIT},
            f"OFA-Sys/chinese-clip-vit-large-patch14 at {COMMIT}",
        ),
        (
            {"kind": "cn_clip", "file": "clip.pt", "sha256": DIGEST, "vocabulary": "vocab.txt"},
            f"clip.pt of cn_clip, sha256 {DIGEST}",
        ),
        (
            {"kind": "open_clip", **TOWERS, "image_revision": COMMIT, "text_revision": OTHER, "dim": 768},
            f"open_clip's ViT-L-14 from laion/CLIP-ViT-L-14 at {COMMIT}, "
            f"hfl/chinese-roberta-wwm-ext at {OTHER}, fresh projections",
        ),
        (
            {"kind": "transformers", "model": "google/siglip2-base-patch16-224", "revision": COMMIT},
            f"google/siglip2-base-patch16-224 at {COMMIT}, by transformers",
        ),
        (
            {"kind": "open_clip_hub", "model": "timm/ViT-B-16-SigLIP2", "revision": COMMIT},
            f"timm/ViT-B-16-SigLIP2 at {COMMIT}, by open_clip",
        ),
        (
            {"kind": "folder", "folder": "models/finetuned", "sha256": DIGEST},
            f"models/finetuned, sha256 {DIGEST}",
        ),
    ],
)
def test_every_start_describes_its_origin(start: dict[str, object], origin: str) -> None:
    assert TypeAdapter(Start).validate_python(start).describe() == origin


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("embeddings", {}, "baseline.fit must be null: vectors of another program are taken as they are"),
        ("transformers", {"fit": None, "policy": None}, "rerank must be null: a re-ranker reads tokens of towers"),
        ("embeddings", {"fit": None, "policy": None}, "finetune.fit.freeze must be none, got text: vectors of"),
    ],
)
def test_what_a_model_of_others_cannot_take_is_named(kind: str, changes: dict, message: str) -> None:
    place = (
        {"folder": "inputs/qwen", "sha256": DIGEST} if kind == "embeddings" else {"model": "m", "revision": COMMIT}
    )
    values = get_values(compose_preset("sample-rerank", ROOT / "presets")) | {"model": None}
    values["baseline"] |= {"start": {"kind": kind, **place}} | changes
    values |= {"rerank": None} if kind == "embeddings" else {}
    with pytest.raises(UserError, match=message):
        check_params(values, "params.yaml")
