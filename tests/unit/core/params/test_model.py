"""Where weights come from, in the words of the model card."""

import pytest
from pydantic import TypeAdapter

from tuwen.core.params import Start

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
