import json
import re

import pytest

from tests.retrieval_world import write_training
from tuwen import curves
from tuwen.findings import Scores


def words(svg):
    return [text.strip() for text in re.findall(r"<text[^>]*>(.*?)</text>", svg, re.S)]


def test_curves_of_a_model_without_epochs_are_empty(tmp_path):
    write_training(tmp_path / "training.json", 3)
    epochs = json.loads((tmp_path / "training.json").read_text())["epochs"]
    drawn = curves.training({"baseline": [], "finetuned": epochs})
    assert set(drawn) == {"loss", "hit"}
    assert all(svg.startswith("<svg") and "var(--finetuned)" in svg for svg in drawn.values())


@pytest.mark.parametrize("sizes", [[329], [50, 100, 200, 329], [1000, 5000, 50000]])
def test_the_gallery_curve_names_the_sizes_that_were_measured(sizes):
    points = [{"gallery": size, "hit_at_1": 0.1, "hit_at_5": 0.4} for size in sizes]
    svg = curves.gallery("size", {"baseline": points, "finetuned": points[-1:]}, [1, 5])
    assert {f"{size:,}" for size in sizes} <= set(words(svg))
    assert "var(--baseline)" in svg
    assert "var(--finetuned)" in svg


def test_a_gallery_that_was_not_measured_is_not_drawn():
    assert curves.gallery("size", {"baseline": [], "finetuned": []}, [1, 5]) == ""


def test_scores_are_drawn_in_per_cent_of_their_own_and_may_be_none():
    counted = Scores(edges=[-1.0, 0.0, 1.0], true=[0, 1], false=[750, 250])
    svg = curves.scores("scores", counted)
    assert {"100", "cosine", "% of pairs"} <= set(words(svg))
    assert svg == curves.scores("scores", counted)
    assert "<svg" in curves.scores("scores", Scores(edges=[-1.0, 0.0, 1.0], true=[0, 0], false=[0, 0]))
