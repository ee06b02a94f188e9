"""`tuwen search` and `tuwen attention` in real processes whose output is no terminal."""

from pathlib import Path

import pytest
from PIL import Image

from tests.support.broken import encode, landscape
from tests.support.commands import call
from tests.support.reranker import write_small_reranker
from tests.support.reranker_world import build_reranked, write_choices
from tests.support.small_model import write_small_model


def test_answers_stand_each_on_a_line_as_they_are(tmp_path: Path) -> None:
    write_small_model(tmp_path / "models/finetuned")
    name = f"[red]{'很长的名字' * 12}[bold].png"  # no markup, and not broken over lines
    for file in (name, "乙.png"):
        path = tmp_path / "图片" / file
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encode(landscape(), "PNG"))
    lines = call("tuwen", "search", "海边的日落", "--gallery", "图片", cwd=tmp_path).stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["rank", "1", "2"]
    assert sorted(line.split()[2] for line in lines[1:]) == sorted([name, "乙.png"])
    refused = call("tuwen", "search", "海边的日落", cwd=tmp_path, fails=True)
    assert refused.stderr.startswith("error: --gallery bank: embeddings/finetuned/bank/images.npy is missing")
    assert "dvc repro embed@finetuned-bank" in refused.stderr


def test_a_re_ranked_answer_shows_the_probability_of_its_match(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_choices(build_reranked(tmp_path), {"t2i": (2, 0.0), "i2t": (2, 0.0)})
    lines = call("tuwen", "search", "一个红色的圆形", "--rerank", "-k", "3", cwd=tmp_path).stdout.splitlines()
    header, first, second, third = (line.split() for line in lines)
    assert header == ["rank", "score", "match", "id", "caption"]
    assert 1 >= float(first[2]) >= float(second[2]) >= 0  # the weight of the cosine is 0
    assert third[2].endswith(".png")  # deeper than it reads


def test_what_the_nouns_of_a_caption_read_is_drawn(tmp_path: Path) -> None:
    write_small_reranker(tmp_path / "models/reranked")
    (tmp_path / "图.jpg").write_bytes(encode(landscape(400, 100), "JPEG"))
    command = ("tuwen", "attention", "--image", "图.jpg")
    told = call(*command, "--text", "海边的日落", "--out", "out/看.png", cwd=tmp_path).stdout.splitlines()
    assert told[0].startswith("match 0.")
    assert told[1:] == ["1 海边", "2 日落", "out/看.png"]
    with Image.open(tmp_path / "out/看.png") as drawn:
        assert drawn.format == "PNG"
        assert drawn.width > 3 * 320  # the picture and two words, side by side
    without = call(*command, "--text", "跑得飞快", cwd=tmp_path, fails=True)
    assert without.stderr.startswith("error: --text 跑得飞快: the segmenter finds no noun in it")
    missing = call("tuwen", "attention", "--image", "无.jpg", "--text", "海边的日落", cwd=tmp_path, fails=True)
    assert missing.stderr == "error: 无.jpg: no such file\n"
    write_small_reranker(tmp_path / "models/reranked", layers=1)
    refused = call(*command, "--text", "海边的日落", cwd=tmp_path, fails=True)
    assert refused.stderr.startswith("error: cross_encoder.json: a map needs a re-ranker of two layers or more")
    assert not (tmp_path / "attention.png").exists()
