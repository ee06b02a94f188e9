"""Anybody's re-ranker as a table of scores, against an order that is written out."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.support.vectors import unit
from tuwen import cli
from tuwen.core.errors import UserError


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twelve pictures, two texts of each, and scores of the first four pictures of every third text."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    images = random.normal(size=(12, 6))
    texts = np.repeat(images, 2, axis=0) + 1.2 * random.normal(size=(24, 6))
    np.save("图.npy", unit(images).astype(np.float32))
    np.save("文.npy", unit(texts).astype(np.float32))
    Path("r.csv").write_text("image,text\n" + "".join(f"{n // 2},{n}\n" for n in range(24)))
    return tmp_path


def evaluate(*more: str) -> dict[str, float]:
    arguments = ["evaluate", "--images", "图.npy", "--texts", "文.npy", "--relevance", "r.csv", "--out", "o.json"]
    done = CliRunner().invoke(cli.app, [*arguments, *more])
    if isinstance(done.exception, UserError):
        raise done.exception
    assert done.exit_code == 0, done.output
    figures: dict[str, float] = json.loads(Path("o.json").read_text())["figures"]
    return figures


def order_by_cosine() -> list[list[int]]:
    """The pictures of each text, best first."""
    scores = np.load("文.npy").astype(np.float64) @ np.load("图.npy").astype(np.float64).T
    return np.argsort(-scores, axis=1, kind="stable").tolist()


def test_scored_items_stand_before_all_others_and_the_change_is_paired(world: Path) -> None:
    plain, expected, lines = evaluate(), order_by_cosine(), ["text,image,score"]
    for text in range(0, 24, 3):
        first = expected[text][:4]
        scored = [*first[:3], expected[text][7]]  # one that the cosine has further down
        score = {item: float(item == text // 2) + item / 100 for item in scored}
        lines += [f"{text},{item},{value}" for item, value in score.items()]
        listed = sorted(scored, key=lambda item: -score[item])
        expected[text] = [*listed, *(item for item in expected[text] if item not in listed)]
    Path("s.csv").write_text("\n".join(lines) + "\n")
    figures = evaluate("--scores", "s.csv")
    ranks = np.array([items.index(text // 2) + 1 for text, items in enumerate(expected)])
    for k in (1, 5, 10):
        assert figures[f"t2i_hit_at_{k}"] == pytest.approx((ranks <= k).mean(), abs=1e-6)
        change = figures[f"t2i_hit_at_{k}"] - plain[f"t2i_hit_at_{k}"]
        assert figures[f"t2i_rerank_gain_at_{k}"] == pytest.approx(change, abs=1e-6)
    assert figures["t2i_rerank_gain_at_1"] > 0
    assert figures["t2i_rerank_gain_at_1_low"] <= figures["t2i_rerank_gain_at_1"]
    assert figures["t2i_median_rank"] == np.median(ranks)
    assert {name: figures[name] for name in plain if name.startswith("i2t")} == {
        name: value for name, value in plain.items() if name.startswith("i2t")
    }
    assert "i2t_rerank_gain_at_1" not in figures


def test_the_first_column_names_the_queries(world: Path) -> None:
    plain = evaluate()
    Path("s.csv").write_text("image,text,score\n" + "".join(f"{n // 2},{n},1\n" for n in range(24)))
    figures = evaluate("--scores", "s.csv")
    assert figures["i2t_hit_at_1"] == 1
    assert figures["i2t_recall_at_1"] == 0.5
    assert figures["t2i_hit_at_1"] == plain["t2i_hit_at_1"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("text,picture,score\n1,1,1\n", r"line 1: header text,image,score or image,text,score expected"),
        ("text,image,score\n", "the file is empty|no score; write a line"),
        ("text,image,score\n1,99,0.5\n", r"no such row: line 2: 1,99; images: known are '0' to '11'"),
        ("text,image,score\n1,1,0.5\n1,1,0.6\n", r"line 3: 1,1 has a score already"),
        ("text,image,score\n1,1,nan\n", r"line 2: score 'nan': a number expected"),
        ("text,image,score\n1,1,很高\n", r"line 2: score '很高': a number expected"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused(world: Path, table: str, message: str) -> None:
    Path("s.csv").write_text(table, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        evaluate("--scores", "s.csv")


def test_a_direction_has_one_table(world: Path) -> None:
    Path("s.csv").write_text("text,image,score\n1,1,1\n")
    with pytest.raises(UserError, match=r"s\.csv: a second table of text → image"):
        evaluate("--scores", "s.csv", "--scores", "s.csv")
