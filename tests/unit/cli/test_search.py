"""`tuwen search` in a real process whose output is no terminal."""

from pathlib import Path

import pytest

from tests.support.broken import encode, landscape
from tests.support.commands import call
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
