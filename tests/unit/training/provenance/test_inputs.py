"""A manifest names what a training read: views, or for heads over another program's vectors the sets."""

from pathlib import Path

from tests.support.training import settings
from tuwen.data.formats.json_file import write_json
from tuwen.training.provenance import inputs

CLEAN, AUGMENTED = Path("data/clean"), Path("data/augmented")


def test_views_are_what_an_encoder_is_made_from_and_sets_what_heads_over_vectors_are(tmp_path: Path) -> None:
    encoder, vectors = tmp_path / "encoder", tmp_path / "vectors"
    for folder, config in ((encoder, {"dim": 8}), (vectors, {"kind": "embeddings", "dim": 8})):
        folder.mkdir()
        write_json(folder / "config.json", config)
    valid = {"valid": CLEAN / "valid"}
    made = inputs.list_finetune_inputs(CLEAN, AUGMENTED, encoder)
    assert made == {"augmented": AUGMENTED, "baseline": encoder} | valid
    made = inputs.list_finetune_inputs(CLEAN, AUGMENTED, vectors)
    assert made == {"train": CLEAN / "train", "baseline": vectors} | valid
    splits = ["train", "test"]
    made = inputs.list_refit_inputs(CLEAN, AUGMENTED, encoder, splits)
    assert made == {"augmented": AUGMENTED, "baseline": encoder}
    made = inputs.list_refit_inputs(CLEAN, AUGMENTED, vectors, splits)
    assert made == {"train": CLEAN / "train", "test": CLEAN / "test", "baseline": vectors}


def test_what_decides_a_refit_is_its_recipe_and_the_state_that_was_chosen(tmp_path: Path) -> None:
    write_json(tmp_path / "training.json", {"selected": {"epoch": 3, "ema": False, "wise_ft": 1.0}})
    params = settings(augment={"splits": ["train", "valid"]})
    chosen = inputs.list_refit_settings(params, tmp_path)
    assert chosen["selected"] == {"epoch": 3, "ema": False, "wise_ft": 1.0}
    assert chosen["refit"] == ["train", "valid"]
    assert set(chosen) - set(inputs.list_finetune_settings(params)) == {"selected", "refit"}
