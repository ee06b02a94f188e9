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

from tests import report_world
from tuwen import pairs, report
from tuwen.confusion import confusion
from tuwen.errors import UserError
from tuwen.params import load


def make(root: Path, world: Path) -> Path:
    shutil.copytree(world, root, dirs_exist_ok=True)
    write(root)
    return root


def write(root: Path) -> None:
    folders = (root / name for name in ("data", "embeddings", "models", "results"))
    report.write(*folders, load(root / "params.yaml"))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Everything before the report, with one hostile caption and one hostile category."""
    return report_world.make(tmp_path_factory.mktemp("world"))


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
    assert html.escape(report_world.HOSTILE).replace("&#x27;", "&#39;").replace("&quot;", "&#34;") in page
    assert "<b>未" not in page
    assert "&lt;b&gt;未分类&lt;/b&gt;" in page


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
    section = page[page.index(">Doubtful pairs</h2>") : page.index(">Queries, text → image</h2>")]
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


def section(page, name, after):
    """The cells of every table row between two headings of the page, as text."""
    part = page[page.index(f'<h2 id="{name}">') : page.index(f'<h2 id="{after}">')]
    rows = re.findall(r"<tr.*?>(.*?)</tr>", part, re.S)
    cells = [re.findall(r"<t[dh].*?>(.*?)</t[dh]>", row, re.S) for row in rows]
    return [[" ".join(html.unescape(re.sub(r"<[^>]+>", " ", cell)).split()) for cell in row] for row in cells]


def shown(figures, name, form="{:.1f} [{:.1f}, {:.1f}]"):
    return form.format(*(100 * figures[name + end] for end in ("", "_low", "_high")))


def test_the_corrected_figures_stand_beside_the_headline(made):
    after, before = metrics(made, "finetuned"), metrics(made, "baseline")
    page, text = ((made / "results" / name).read_text() for name in ("report.html", "report.md"))
    row = section(page, "recall", "size")[2]
    assert row[:3] == ["R@5", shown(before, "t2i_hit_at_5"), shown(after, "t2i_hit_at_5")]
    change = shown(after, "t2i_qbnorm_gain_at_5", "{:+.1f} [{:+.1f}, {:+.1f}]")
    assert row[4:6] == [shown(after, "t2i_qbnorm_hit_at_5"), change.replace("-", "−")]
    line = next(line for line in text.splitlines() if line.startswith("| text → image | R@5 |"))
    assert line.endswith(f"| {shown(after, 't2i_qbnorm_hit_at_5')} | {change} |")


def test_mean_recall_and_median_rank_stand_in_both_reports(made):
    after, before = metrics(made, "finetuned"), metrics(made, "baseline")
    page, text = ((made / "results" / name).read_text() for name in ("report.html", "report.md"))
    first, second = (shown(figures, "mean_recall") for figures in (before, after))
    assert f"| both | R@M, the mean of all R@k | {first} | {second} |" in text
    first, second = (f"{100 * figures['mean_recall']:.1f} %" for figures in (before, after))
    assert f'<span class="big">{second}</span><span class="was">from {first}</span>' in page
    for way, title in (("t2i", "text → image"), ("i2t", "image → text")):
        first, second = (f"{figures[f'{way}_median_rank']:g}" for figures in (before, after))
        assert f"| {title} | median rank | {first} | {second} |" in text
        assert f"median rank {second}, from {first}" in page


def test_hubs_are_shown_with_their_counts_and_skewness(made):
    after, before = metrics(made, "finetuned"), metrics(made, "baseline")
    page, text = ((made / "results" / name).read_text() for name in ("report.html", "report.md"))
    names = [f"t2i_{kind}hub_skewness" for kind in ("", "qbnorm_")]
    numbers = [f"{figures[name]:.2f}" for figures in (before, after) for name in names]
    assert section(page, "hubs", "zero-shot")[1] == ["text → image", *numbers]
    assert f"| text → image | {' | '.join(numbers)} |" in text
    part = page[page.index('<h2 id="hubs">') : page.index('<h2 id="zero-shot">')]
    top = json.loads((made / "results/finetuned/details.json").read_text())["hubs"]["t2i"]["top"]
    tiles = re.findall(r'<figure class="tile"><img src="data:image/jpeg[^>]*>(.*?)</figure>', part, re.S)
    assert [int(re.search(r"(\d+) ×", tile)[1]) for tile in tiles] == [hub["times"] for hub in top]
    share = top and 10 * after["t2i_queries"] / after["images"]
    assert f"a picture's share is {share:.1f}." in part


def test_zero_shot_figures_of_both_models_and_the_confusion(made):
    page, text = ((made / "results" / name).read_text() for name in ("report.html", "report.md"))
    found = {
        model: json.loads((made / "results" / model / "zero_shot.json").read_text())
        for model in ("baseline", "finetuned")
    }
    rows = section(page, "zero-shot", "training")
    assert "chance is 20.0, always naming the largest category 20.0." in text  # five classes of three pictures
    for title, body in zip(("baseline", "fine-tuned"), found.values(), strict=True):
        tops = [f"{100 * body[key][top]:.1f}" for key in ("one_prompt", "ensemble") for top in ("top_1", "top_5")]
        assert [title, *tops] in rows
        assert f"| {title} | ensemble | {tops[2]} | {tops[3]} |" in text
    for body, before in zip(found["finetuned"]["per_class"], found["baseline"]["per_class"], strict=True):
        shares = [f"{100 * one['top_1']:.1f}" for one in (before, body)]
        assert any(row[:4] == [body["class"], str(body["pictures"]), *shares] for row in rows)
    assert confusion(found["finetuned"]["classes"], found["finetuned"]["confusion"]) in page


def test_a_set_without_categories_says_so(world, tmp_path):
    shutil.copytree(world, tmp_path, dirs_exist_ok=True)
    none = {"top_1": 0.0, "top_5": 0.0}
    body = {"classes": [], "pictures": 0, "one_prompt": none, "ensemble": none, "per_class": [], "confusion": []}
    for model in ("baseline", "finetuned"):
        (tmp_path / "results" / model / "zero_shot.json").write_text(json.dumps(body))
    write(tmp_path)
    for name in ("report.md", "report.html"):
        assert "The test pictures have no categories" in (tmp_path / "results" / name).read_text()


def test_every_link_of_the_page_leads_to_a_heading(made):
    page = (made / "results/report.html").read_text()
    links = re.findall(r'<a href="#([^"]+)"', page)
    assert len(links) == len(set(links)) == 10
    assert set(links) <= set(re.findall(r'<h2 id="([^"]+)"', page))


def spoil_ranks(root):
    shutil.copy(root / "results/baseline/ranks.parquet", root / "kept.parquet")
    table = pairs.read_table(root / "kept.parquet").slice(1)
    pairs.write_table(root / "results/baseline/ranks.parquet", table)


def spoil_cosines(root):
    path = root / "results/baseline/pair_cosines.parquet"
    table = pairs.read_table(path)
    pairs.write_table(path, table.set_column(1, "image_id", pa.array(["别处.png"] * len(table))))


def change(name, edit, model="finetuned"):
    """A fault of a JSON file among the model's results: `edit` changes its body in place."""

    def spoil(root):
        path = root / "results" / model / name
        body = json.loads(path.read_text())
        edit(body)
        path.write_text(json.dumps(body))

    return spoil


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
        (lambda root: (root / "results/baseline/details.json").unlink(), r"baseline/details\.json: missing; run"),
        (lambda root: (root / "results/finetuned/zero_shot.json").unlink(), r"finetuned/zero_shot\.json: missing"),
        (
            change("metrics.json", lambda body: body["test"].pop("mean_recall")),
            r"finetuned/metrics\.json: test lacks mean_recall; remove the file and run `dvc repro`",
        ),
        (change("metrics.json", lambda body: body.pop("test")), r"metrics\.json: no figures of the test split"),
        (
            change("metrics.json", lambda body: body["test"].pop("i2t_qbnorm_hit_at_10_low"), "baseline"),
            r"baseline/metrics\.json: test lacks i2t_qbnorm_hit_at_10_low",
        ),
        (
            change("details.json", lambda body: body["hubs"].pop("i2t")),
            r"finetuned/details\.json: hubs\.i2t: field required; remove it and run `dvc repro`",
        ),
        (
            change("details.json", lambda body: body["score_histogram"]["edges"].pop()),
            r"details\.json: score_histogram: .*\d+ edges for \d+ true and \d+ false counts",
        ),
        (
            change(
                "details.json",
                lambda body: body["score_histogram"].update(true=[0] * len(body["score_histogram"]["true"])),
            ),
            r"details\.json: score_histogram: .*no true pair is counted",
        ),
        (
            change("details.json", lambda body: body["hubs"]["t2i"]["top"][0].update(id="别处.png")),
            r"finetuned/details\.json: hubs name items that are not in clean/test",
        ),
        (
            change("details.json", lambda body: body["gallery_curve"]["t2i"][0].pop("hit_at_5")),
            r"details\.json: gallery_curve\.t2i lacks a figure at one of k = \[1, 5, 10\]",
        ),
        (
            change("zero_shot.json", lambda body: body["confusion"].pop()),
            r"zero_shot\.json: .*confusion must have 5 rows of 5 counts",
        ),
        (
            change("zero_shot.json", lambda body: body["per_class"].pop()),
            r"zero_shot\.json: .*per_class must name each of the classes once",
        ),
        (
            change("zero_shot.json", lambda body: body["classes"].reverse()),
            r"zero_shot\.json of baseline and finetuned name different classes",
        ),
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


def test_the_states_that_selection_compared_are_shown_and_the_taken_one_is_marked(world, tmp_path):
    root = shutil.copytree(world, tmp_path / "world")
    path = root / "models/finetuned/training.json"
    body = json.loads(path.read_text())
    compared = [(4, False, 1.0, 0.5), (4, True, 1.0, 0.625), (4, True, 0.5, 0.612)]
    keys = ("epoch", "ema", "wise_ft", "criterion")
    body["candidates"] = [dict(zip(keys, one, strict=True)) for one in compared]
    body["selected"] = {"epoch": 4, "ema": True, "wise_ft": 1.0}
    path.write_text(json.dumps(body))
    write(root)
    page, text = ((root / "results" / name).read_text() for name in ("report.html", "report.md"))
    rows = section(page, "training", "quality")
    assert ["epoch 4", "1", "50.0", ""] in rows
    assert ["epoch 4, averaged", "1", "62.5", "taken"] in rows
    assert "| epoch 4, averaged | 0.5 | 61.2 |  |" in text


def test_the_averaged_weights_have_lines_and_columns_of_their_own(made, world, tmp_path):
    root = shutil.copytree(world, tmp_path / "world")
    path = root / "models/finetuned/training.json"
    body = json.loads(path.read_text())
    for record in body["epochs"]:
        record |= {"ema_valid_t2i_hit_at_5": 0.4321, "ema_valid_i2t_hit_at_5": 0.25 + record["epoch"] / 8}
    path.write_text(json.dumps(body))
    write(root)

    def drawn(root: Path) -> tuple[str, int, int]:
        page = (root / "results/report.html").read_text()
        training = page[page.index('<h2 id="training">') : page.index('<h2 id="quality">')]
        figure = training[training.index("hit@5 on the valid set by epoch") :]
        return training, *(
            len(re.findall(rf"stroke: var\(--{model}\)", figure)) for model in ("baseline", "finetuned")
        )

    (plain, *before), (averaged, *after) = drawn(made), drawn(root)
    assert after[0] == before[0]
    assert after[1] > before[1]
    assert "averaged weights (EMA)" in averaged
    assert "averaged weights (EMA)" not in plain
    text = (root / "results/report.md").read_text()
    assert "| epoch | loss | temperature | valid_t2i_hit_at_5 | valid_i2t_hit_at_5 |\n" in text  # the baseline
    assert re.search(r"\| valid_i2t_hit_at_5 \| ema_valid_t2i_hit_at_5 \| ema_valid_i2t_hit_at_5 \|\n", text)
    assert re.search(r"^\| 4 \| .* \| 0\.4321 \| 0\.75 \|$", text, re.M)
