import base64
import html
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from tests.retrieval_world import build, make_set, write_training
from tuwen import pairs, report
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
    folders = (root / name for name in ("data", "embeddings", "models", "results"))
    report.write(*folders, load(root / "params.yaml"))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Everything before the report, with one hostile caption."""
    root = build(tmp_path_factory.mktemp("world"))
    pairs.write(root / "data/clean/test", make_set(root / "data", "clean/test", {"name-00": HOSTILE}))
    pairs.write(root / "data/clean/bank", make_set(root / "data", "clean/test", {"name-00": HOSTILE}))
    params = load(root / "params.yaml")
    for model in ("baseline", "finetuned"):
        folders = root / "embeddings" / model, root / "data/clean", root / "results" / model
        evaluate(*folders, params.evaluate, params.pairs)
    return root


@pytest.fixture(scope="module")
def made(world, tmp_path_factory):
    return make(tmp_path_factory.mktemp("made"), world)


def metrics(root, model, name="test"):
    return json.loads((root / "results" / model / "metrics.json").read_text())[name]


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
    assert "| labelled | texts | 13 | 12 | 1 | 0 | 0 | 1 caption_visible |" in text
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


def test_the_pairs_of_lowest_cosine_stand_on_the_page_with_picture_caption_and_ids(world, tmp_path):
    root = shutil.copytree(world, tmp_path, dirs_exist_ok=True)
    path = root / "params.yaml"
    path.write_text(path.read_text().replace("lowest: 50", "lowest: 7"))
    write(root)
    page = (root / "results/report.html").read_text()
    section = page[page.index("<h2>Doubtful pairs</h2>") : page.index("<h2>Queries")]
    lowest = pairs.read_table(root / "results/baseline/pair_cosines.parquet").to_pylist()[:7]
    texts = pairs.read(root / "data/clean/bank").texts
    captions = dict(zip(*(texts[name].to_pylist() for name in ("text_id", "caption")), strict=True))
    tiles = re.findall(r'<figure class="tile"><img src="data:image/jpeg[^>]*>(.*?)</figure>', section, re.S)
    assert [re.sub(r"<[^>]+>", " ", html.unescape(tile)).split()[-4:] for tile in tiles] == [
        [f"{row['cosine']:.3f}", row["pair_id"], row["image_id"], row["text_id"]] for row in lowest
    ]
    assert all(html.escape(captions[row["text_id"]]) in tile for row, tile in zip(lowest, tiles, strict=True))
    assert "<svg" in section
    share = metrics(root, "baseline", "bank")["share_under_min_cosine"]
    assert f'<span class="big">{100 * share:.1f} %</span>' in section
    text = (root / "results/report.md").read_text()
    assert f"{100 * share:.1f} % lie under 0 (params.yaml: pairs.min_cosine)" in text
    assert not any(row["image_id"] in text for row in lowest)


def test_both_reports_say_which_model_answers_and_what_the_corpus_shares_with_the_test(made, world, tmp_path):
    names = ("results/report.md", "results/report.html")
    for name in names:
        text = (made / name).read_text()
        assert "answered by the fine-tuned model." in text
        assert (
            "Pictures of the corpus that stand in valid or test too: 2, which were taken out; 3 in the measured"
            in text
        )
    root = shutil.copytree(world, tmp_path, dirs_exist_ok=True)
    path = root / "params.yaml"
    refit = path.read_text().replace("refit_all: false", "refit_all: true")
    path.write_text(refit.replace("splits: [train]", "splits: [train, valid, test]"))
    write(root)
    for name in names:
        assert "refitted on all of augment.splits; its recall is not measured" in (root / name).read_text()


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


def spoil_cosines(root):
    path = root / "results/baseline/pair_cosines.parquet"
    table = pairs.read_table(path)
    pairs.write_table(path, table.set_column(1, "image_id", pa.array(["别处.png"] * len(table))))


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
        (spoil_cosines, r"baseline/pair_cosines\.parquet: names pairs that are not in clean/bank"),
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
