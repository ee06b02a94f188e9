import base64
import html
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.retrieval_world import build, make_set, write_training
from tuwen import examples, pairs, report
from tuwen.curves import curves
from tuwen.errors import UserError
from tuwen.evaluate import evaluate
from tuwen.params import load

HOSTILE = "<script>alert('红色')</script> & \"引号\""


def make(root: Path, world: Path) -> Path:
    shutil.copytree(world, root, dirs_exist_ok=True)
    write(root)
    return root


def write(root: Path) -> None:
    params = load(root / "params.yaml")
    folders = (root / name for name in ("data", "embeddings", "models", "results"))
    report.write(*folders, params.evaluate, params.report)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Everything before the report, with one hostile caption."""
    root = build(tmp_path_factory.mktemp("world"))
    pairs.write(root / "data/clean/test", make_set(root / "data", "clean/test", {"name-00": HOSTILE}))
    params = load(root / "params.yaml").evaluate
    for model in ("baseline", "finetuned"):
        evaluate(root / "embeddings" / model, root / "data/clean", root / "results" / model, params)
    return root


@pytest.fixture(scope="module")
def made(world, tmp_path_factory):
    return make(tmp_path_factory.mktemp("made"), world)


def metrics(root, model):
    return json.loads((root / "results" / model / "metrics.json").read_text())["test"]


def test_headline_table_shows_both_models_side_by_side(world):
    table = report.headline_table(world / "results")
    before, after = metrics(world, "baseline"), metrics(world, "finetuned")
    found = re.findall(r"^(\S+ → \S+) +R@(\d+) +([\d.]+) % +([\d.]+) % +([+-][\d.]+)$", table, re.M)
    expected = [
        (
            title,
            str(k),
            f"{100 * before[name]:.1f}",
            f"{100 * after[name]:.1f}",
            f"{100 * (after[name] - before[name]):+.1f}",
        )
        for direction, title in (("t2i", "text → image"), ("i2t", "image → text"))
        for k in (1, 5, 10)
        for name in [f"{direction}_hit_at_{k}"]
    ]
    assert found == expected


def test_markdown_has_the_figures_and_none_of_the_captions(made):
    text = (made / "results/report.md").read_text()
    after = metrics(made, "finetuned")
    figure = "{:.1f} [{:.1f}, {:.1f}]".format(
        *(100 * after[f"t2i_hit_at_5{end}"] for end in ("", "_low", "_high"))
    )
    assert re.search(rf"^\| text → image \| R@5 \| .* \| {re.escape(figure)} \| \*\*\+", text, re.M)
    assert f"| image → text | recall@5 | {100 * metrics(made, 'baseline')['i2t_recall_at_5']:.1f} |" in text
    assert "12 pictures, 28 texts" in text
    assert "2 checks, 1 not met." in text
    assert "| labelled | texts | 13 | 1 | 1 caption_visible |" in text
    for caption in pairs.read(made / "data/clean/test").texts["caption"].to_pylist():
        assert caption not in text
    assert "![" not in text
    assert "<img" not in text


def test_page_opens_offline(made):
    page = (made / "results/report.html").read_text()
    assert '<html lang="zh-CN">' in page
    addresses = set(re.findall(r"""(?:src|href)=["']([^"']*)""", page))
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert set(re.findall(r"https?://[^\"' ]+", page)) == {
        "http://www.w3.org/2000/svg",  # names of languages, not addresses
        "http://www.w3.org/1999/xlink",
    }
    assert not re.search(r"@import|url\((?!#)", page)
    assert "Noto Sans CJK SC" in page


def test_captions_are_text(made):
    page = (made / "results/report.html").read_text()
    assert "<script" not in page
    assert html.escape(HOSTILE, quote=False).split("&#")[0][:20] in page  # shown, but escaped
    assert "&lt;script&gt;alert(" in page


def test_pictures_are_small_and_whole(made):
    page = (made / "results/report.html").read_text()
    uris = set(re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page))
    assert len(uris) == 12  # with these few pictures every one of them is an answer
    for uri in uris:
        with Image.open(io.BytesIO(base64.b64decode(uri))) as picture:
            picture.load()
            assert max(picture.size) <= 128
            assert min(picture.convert("RGB").getpixel((1, 1))) > 240  # transparent ground became white


def test_the_same_bytes_again(made, world, tmp_path):
    again = make(tmp_path, world)
    for name in ("report.md", "report.html"):
        assert (again / "results" / name).read_bytes() == (made / "results" / name).read_bytes()


def test_ids_on_the_page_are_unique(made):
    ids = re.findall(r'\sid="([^"]+)"', (made / "results/report.html").read_text())
    assert ids
    assert len(ids) == len(set(ids))


def test_choose_takes_best_worst_and_random():
    baseline, finetuned = np.array([9, 2, 3, 1, 8]), np.array([1, 5, 1, 1, 7])
    kinds = examples.choose(baseline, finetuned, count=2, seed=0)
    assert kinds["best"].tolist() == [0, 2]  # both at rank 1, from rank 9 and from rank 3
    assert kinds["worst"].tolist() == [4, 1]
    assert len(set(kinds["random"].tolist())) == 2
    assert [len(chosen) for chosen in examples.choose(baseline, finetuned, count=9, seed=0).values()] == [5, 5, 5]


def test_answers_mark_the_true_items_and_add_one_that_comes_late():
    gallery = np.eye(8, dtype=np.float32)
    query = np.array([[8, 7, 6, 5, 4, 3, 2, 1], [1, 8, 7, 6, 5, 4, 3, 2]], np.float32)
    query /= np.linalg.norm(query, axis=1, keepdims=True)
    # the first query is true for items 1 and 6, the second for item 0 alone, which is its last
    shown = examples.answer([0, 1], {"m": (query, gallery)}, np.array([0, 1, 0]), np.array([6, 0, 1]))
    first, second = shown[0].answers["m"], shown[1].answers["m"]
    assert [(a.row, a.rank, a.is_true) for a in first] == [
        (0, 1, False),
        (1, 2, True),
        (2, 3, False),
        (3, 4, False),
        (4, 5, False),
    ]
    assert [(a.row, a.rank, a.is_true) for a in second[-2:]] == [(5, 5, False), (0, 8, True)]
    assert (shown[0].best_rank("m"), shown[1].best_rank("m")) == (2, 8)
    assert second[-1].score == pytest.approx(query[1, 0])


def test_curves_of_a_model_without_epochs_are_empty(tmp_path):
    write_training(tmp_path / "training.json", 3)
    epochs = json.loads((tmp_path / "training.json").read_text())["epochs"]
    drawn = curves({"baseline": [], "finetuned": epochs})
    assert set(drawn) == {"loss", "hit"}
    assert all(svg.startswith("<svg") and "var(--finetuned)" in svg for svg in drawn.values())


def spoil_ranks(root):
    shutil.copy(root / "results/baseline/ranks.parquet", root / "kept.parquet")
    table = pairs.read_table(root / "kept.parquet").slice(1)
    pairs.write_table(root / "results/baseline/ranks.parquet", table)


def spoil_embeddings(root):
    path = root / "embeddings/baseline/test/texts.npy"
    np.save(path, np.load(path)[:-1])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "results/baseline/metrics.json").unlink(), r"baseline/metrics\.json: missing"),
        (lambda root: (root / "data/clean/quality.json").write_text("{"), r"quality\.json: not valid JSON"),
        (lambda root: (root / "models/finetuned/training.json").unlink(), r"finetuned/training\.json: missing"),
        (
            lambda root: (root / "results/finetuned/ranks.parquet").unlink(),
            r"ranks\.parquet: this table is missing",
        ),
        (spoil_ranks, "hold different queries"),
        (spoil_embeddings, r"texts\.npy: 27 rows found, 28 expected"),
        (lambda root: shutil.rmtree(root / "data/clean/test/shards"), r"000000\.tar: this shard is missing"),
    ],
)
def test_missing_or_unfit_inputs_are_named(world, tmp_path, spoil, message):
    shutil.copytree(world, tmp_path, dirs_exist_ok=True)
    spoil(tmp_path)
    with pytest.raises(UserError, match=message):
        write(tmp_path)


def test_other_ks_than_measured_are_refused(world, tmp_path):
    shutil.copytree(world, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "params.yaml"
    path.write_text(path.read_text().replace("ks: [1, 5, 10]", "ks: [1, 3, 5]"))
    with pytest.raises(UserError, match=r"metrics\.json: no figures at k = 3 \(params\.yaml: evaluate\.ks\)"):
        write(tmp_path)
