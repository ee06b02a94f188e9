import base64
import html
import io
import json
import re
import shutil

from PIL import Image

from tests.support import report_inputs
from tests.support.report_inputs import figures_of, write, written
from tests.support.retrieval import make_set, run
from tuwen.core.params import load_params
from tuwen.data.formats import pairs
from tuwen.report.terminal import format_headline


def test_headline_table_shows_both_models_side_by_side(world):
    table = format_headline(world / "results", load_params(world / "params.yaml").evaluate)
    before, after = figures_of(world, "baseline"), figures_of(world, "finetuned")
    found = re.findall(r"^(\S+ → \S+) +R@(\d+) +([\d.]+) % +([\d.]+) % +([\d.]+) % +([+-][\d.]+)", table, re.M)
    expected = [
        (
            title,
            str(k),
            f"{100 * before[f'{direction}_chance_at_{k}']:.1f}",
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
    after = figures_of(made, "finetuned")
    figure = "{:.1f} [{:.1f}, {:.1f}]".format(
        *(100 * after[f"t2i_hit_at_5{end}"] for end in ("", "_low", "_high"))
    )
    assert re.search(rf"^\| text → image \| R@5 \| .* \| {re.escape(figure)} \| \*\*\+", text, re.M)
    assert f"| image → text | recall@5 | {100 * figures_of(made, 'baseline')['i2t_recall_at_5']:.1f} |" in text
    assert "12 pictures, 28 texts" in text
    assert "2 checks, 1 not met." in text
    assert "| labelled | texts | 13 | 12 | 1 | 0 | 0 | 0 | 1 caption_visible |" in text
    for caption in pairs.read_pair_set(made / "data/clean/test").texts["caption"].to_pylist():
        assert caption not in text
    assert "![" not in text
    assert "<img" not in text


def test_where_captions_stand_in_train_the_headline_is_about_the_others(world, tmp_path):
    root = shutil.copytree(world, tmp_path / "root")
    texts = pairs.read_pair_set(world / "data/clean/bank").texts["text_id"].to_pylist()
    unlike = {text_id: f"别的颜色{n}" for n, text_id in enumerate(texts) if n not in (0, 1)}
    pairs.write_pair_set(root / "data/clean/bank", make_set(root / "data", "clean/bank", unlike))
    for model in ("baseline", "finetuned"):
        run(root, model)
    write(root)
    after = figures_of(root, "finetuned")
    assert (after["t2i_seen_queries"], after["i2t_seen_queries"]) == (
        1,
        1,
    )  # 图00's captions; one is hostile in test
    markdown, page = ((root / f"results/report.{kind}").read_text() for kind in ("md", "html"))
    told = "1 of 28 texts and 1 of 12 pictures have a caption that stands in train too"
    headline = f"text → image, R@5, caption not in train: {100 * after['t2i_unseen_hit_at_5']:.1f} %"
    assert told in markdown
    assert headline in markdown
    assert "| text → image | R@5, caption in train |" in markdown
    assert told in page
    assert "<h3>text → image, R@5, caption not in train</h3>" in page
    table = format_headline(root / "results", load_params(root / "params.yaml").evaluate)
    assert told in table
    assert f"{100 * after['t2i_unseen_hit_at_5']:.1f} %" in table
    assert f"With all of them (fine-tuned): text → image R@5 {100 * after['t2i_hit_at_5']:.1f} %" in table


def test_page_opens_offline(made):
    page = (made / "results/report.html").read_text()
    assert '<html lang="zh-CN">' in page
    addresses = set(re.findall(r"""(?:src|href)=["']([^"']*)""", page))
    assert addresses
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
    assert html.escape(report_inputs.HOSTILE).replace("&#x27;", "&#39;").replace("&quot;", "&#34;") in page
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
    again = written(tmp_path, world)
    for name in ("report.md", "report.html"):
        assert (again / "results" / name).read_bytes() == (made / "results" / name).read_bytes()


def test_ids_on_the_page_are_unique(made):
    ids = re.findall(r'\sid="([^"]+)"', (made / "results/report.html").read_text())
    assert ids
    assert len(ids) == len(set(ids))


def test_every_link_of_the_page_leads_to_a_heading(made):
    page = (made / "results/report.html").read_text()
    links = re.findall(r'<a href="#([^"]+)"', page)
    assert len(links) == len(set(links)) == 12
    assert set(links) <= set(re.findall(r'<h2 id="([^"]+)"', page))


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


def test_a_model_that_learned_nothing_is_no_big_number_anywhere(tmp_path):
    """Ranks at random, of both models: at chance, without a sure gain, and every page says so in words."""
    root = report_inputs.make(tmp_path, noise={"baseline": 1e6, "finetuned": 1e6})
    write(root)
    page, text = ((root / "results" / name).read_text() for name in ("report.html", "report.md"))
    leads = page[page.index('class="grid leads"') : page.index('<h2 id="recall">')]
    assert 'class="big"' not in leads
    assert re.findall(r'<span class="doubt">(.*?)</span>', leads) == ["at chance"] * 3
    assert leads.count("no sure gain: −") == 3
    chance = figures_of(root, "baseline")["t2i_chance_at_5"]
    assert f"(at chance, {100 * chance:.1f} %; over the baseline no sure gain: −" in text
    assert "**" not in text[text.index("## R@k") : text.index("## recall@k")]
    table = format_headline(root / "results", load_params(root / "params.yaml").evaluate)
    line = next(line for line in table.splitlines() if line.startswith("text → image  R@5"))
    assert re.search(rf"at chance, {100 * chance:.1f} %; no sure gain: −[\d.]+ to \+[\d.]+ points$", line)
    assert "Which gains are sure stands in results/report.md" in format_headline(root / "results", None)


def test_one_minus_sign_stands_wherever_people_read(tmp_path):
    """The second model is worse, so that every table holds negative gains and ends of intervals."""
    root = report_inputs.make(tmp_path, noise={"baseline": 0.5, "finetuned": 1e6})
    write(root)
    page, text = ((root / "results" / name).read_text() for name in ("report.html", "report.md"))
    shown = re.sub(r"<style.*?</style>|<svg.*?</svg>|<[^>]*>", " ", page, flags=re.DOTALL)
    table = format_headline(root / "results", load_params(root / "params.yaml").evaluate)
    for told in (shown, text, table):
        assert re.findall(r"(?<![\w.-])-\d[\d.]*", told) == []
        assert re.search(r"−\d", told)


def test_both_reports_say_what_the_models_do_not_see_of_captions(world, tmp_path):
    root = shutil.copytree(world, tmp_path, dirs_exist_ok=True)
    path = root / "models/baseline/training.json"
    examples = {"unk_share": ["５００"], "cut_share": [], "equal_share": ["保温杯５００毫升 = 保温杯７５０毫升"]}
    lost = {"captions": 41, "unk_share": 0.049, "cut_share": 0.0, "equal_share": 0.4, "examples": examples}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"captions": {"train": lost}}))
    write(root)
    assert "| train | 41 | 4.90 | 0.00 | 40.00 |" in (root / "results/report.md").read_text()
    page = (root / "results/report.html").read_text()
    assert "５００; 保温杯５００毫升 = 保温杯７５０毫升" in page
