import json
import re

import numpy as np
import pytest

from tests.support.retrieval import write_training
from tuwen.evaluation.details import Scores
from tuwen.report import curves


def words(svg):
    return [text.strip() for text in re.findall(r"<text[^>]*>(.*?)</text>", svg, re.S)]


def test_curves_of_a_model_without_epochs_are_empty(tmp_path):
    write_training(tmp_path / "training.json", 3)
    epochs = json.loads((tmp_path / "training.json").read_text())["epochs"]
    drawn = curves.draw_training({"baseline": [], "finetuned": epochs})
    assert set(drawn) == {"loss", "hit"}
    assert all(svg.startswith("<svg") and "var(--finetuned)" in svg for svg in drawn.values())
    assert all(words(svg)[:4] == ["1", "2", "3", "epoch"] for svg in drawn.values())


@pytest.mark.parametrize(
    ("sizes", "named"),
    [
        ([329], ["329"]),
        ([10, 20, 50, 100, 200, 329], ["10", "100", "329"]),
        ([100, 200, 500, 1000, 1600], ["100", "1,600"]),
        ([1000, 5000, 10000, 50000], ["1,000", "10,000", "50,000"]),
    ],
)
def test_the_gallery_curve_names_round_sizes_and_the_whole(sizes, named):
    points = [{"gallery": size, "hit_at_1": 0.1, "hit_at_5": 0.4} for size in sizes]
    svg = curves.draw_gallery_curve("size", {"baseline": points, "finetuned": points[-1:]}, [1, 5])
    assert words(svg)[: len(named)] == named
    assert "var(--baseline)" in svg
    assert "var(--finetuned)" in svg


def test_a_gallery_that_was_not_measured_is_not_drawn():
    assert curves.draw_gallery_curve("size", {"baseline": [], "finetuned": []}, [1, 5]) == ""


def test_scores_are_drawn_in_per_cent_of_their_own():
    counted = Scores(edges=[-1.0, 0.0, 1.0], true=[0, 1], false=[750, 250])
    drawn = curves.draw_scores({"baseline": counted})
    assert {"100", "cosine", "% of pairs"} <= set(words(drawn["baseline"]))
    assert drawn == curves.draw_scores({"baseline": counted})


def test_scores_of_all_models_share_the_range_that_holds_pairs_and_fine_counts_are_joined():
    edges = np.linspace(-1, 1, 201).round(2).tolist()
    narrow, low, middle, high = (
        [int(start <= n < end) for n in range(200)]
        for start, end in ((120, 140), (40, 100), (70, 130), (100, 160))
    )
    first, second = Scores(edges=edges, true=narrow, false=low), Scores(edges=edges, true=high, false=middle)
    drawn = curves.draw_scores({"baseline": first, "finetuned": second})
    axis = [[word for word in words(svg) if re.fullmatch("[−0-9.]+", word)][:7] for svg in drawn.values()]
    assert axis[0] == axis[1] == ["−0.6", "−0.4", "−0.2", "0.0", "0.2", "0.4", "0.6"]
    # 60 counts in bars of three: a flat line at 3 in 60
    assert "5" in words(drawn["finetuned"])
