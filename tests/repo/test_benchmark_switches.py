"""What the switches are measured with: each row is a sound recipe of its own, and the tables count by seeds."""

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import switches
from benchmarks.switches import AS_IT_IS, PARTS, SEEDS
from tuwen.data.formats.shards import Place
from tuwen.training import runner


@pytest.mark.parametrize("name", PARTS)
def test_each_row_is_a_sound_recipe_that_differs_from_the_others_by_its_settings_alone(name: str) -> None:
    part = PARTS[name]
    made = {row: switches.make_params(part, row, 1).model_dump(mode="json") for row in part.rows}
    assert all(len([one for one in made.values() if one == own]) == 1 for own in made.values())
    for row, settings in part.rows.items():
        for place, value in settings.items():
            own = made[row]
            for key in place.split("."):
                own = own[key]
            assert own == value
    assert made[AS_IT_IS]["baseline"]["seed"] == made[AS_IT_IS]["finetune"]["seed"] == 1


def test_a_table_has_mean_and_range_over_seeds_and_the_paired_change() -> None:
    ways = [f"{name} {way}" for name in ("valid", "test") for way in ("i2t", "t2i")]
    records = [
        {"row": row, "seed": seed, "recall": {"256": dict.fromkeys(ways, 0.5 + gain * seed + seed / 100)}}
        for seed in SEEDS
        for row, gain in ((AS_IT_IS, 0.0), ("sigmoid: true", -0.02))
    ]
    head, _, as_it_is, changed = switches.format_table(records, 256)
    assert head == "| 256 dimensions | valid i2t | valid t2i | test i2t | test t2i | test, change |"
    assert as_it_is == "| as it is " + 4 * "| 51.0 [50.0, 52.0] " + "|  |"
    assert changed == "| sigmoid: true " + 4 * "| 49.0 [48.0, 50.0] " + "| -2.0 [-4.0, +0.0] |"


def test_what_towers_pooled_in_one_training_is_there_in_the_next(tmp_path: Path) -> None:
    place, none = (0, Place("train/shards/000000.tar", 512, 9)), [None] * 4
    for turn in range(2):
        with switches.share_pooled(tmp_path / "pooled.pt"):
            views: Any = runner.PooledViews(*none)
            assert list(views._images) == ([place] if turn else [])
            views._images[place] = torch.ones(3)
