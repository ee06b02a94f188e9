from pathlib import Path

import pytest

from tests.support.small_model import CONFIG, write_small_model
from tests.support.snippets import run_snippets
from tuwen.model.card import write_card

EPOCHS = [
    {"epoch": 1, "loss": 2.5, "valid_t2i_hit_at_5": 0.25, "valid_i2t_hit_at_5": 0.125},
    {"epoch": 2, "loss": 1.5, "valid_t2i_hit_at_5": 0.5, "valid_i2t_hit_at_5": 0.4375},
]
TRAINING = {"pairs": 1024, "steps": 64, "epochs": EPOCHS}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_small_model(tmp_path / "finetuned")


def write(folder: Path, training: dict = TRAINING) -> str:
    write_card(folder, CONFIG, "the baseline of this pipeline", training)
    return (folder / "README.md").read_text(encoding="utf-8")


def test_the_snippet_of_a_card_runs_in_the_folder_that_it_describes(folder: Path) -> None:
    card = write(folder)
    assert "retriever.encode_texts" in card
    assert run_snippets(card + "\n```python\nprint(rows.shape, cosines.shape)\n```\n", folder) == "(2, 2) (2, 2)\n"


def test_a_card_names_the_towers_the_first_weights_and_each_epoch(folder: Path) -> None:
    card = write(folder)
    assert "| picture tower | vit, width 64, layers 1, patch_px 8, for squares of 16 px |" in card
    assert "| text tower | BERT, width 64, layers 1, 12 tokens at most |" in card
    assert "| common space | 16 dimensions |" in card
    assert "| first weights | the baseline of this pipeline |" in card
    assert "| trained on | 1024 pairs an epoch, 64 steps |" in card
    assert card.endswith("| 1 | 0.2500 | 0.1250 |\n| 2 | 0.5000 | 0.4375 |\n")
    assert write(folder) == card


def test_weights_that_were_not_trained_are_epoch_0_and_a_refit_was_not_measured(folder: Path) -> None:
    valid = {"valid_t2i_hit_at_5": 0.75, "valid_i2t_hit_at_5": 0.5}
    assert write(folder, TRAINING | {"epochs": [], "valid": valid}).endswith("| 0 | 0.7500 | 0.5000 |\n")
    unmeasured = TRAINING | {"epochs": [{"epoch": 1, "loss": 2.5}]}
    assert write(folder, unmeasured).endswith("It was not measured on valid, which it may have seen.\n")
