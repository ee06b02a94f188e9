import html
import json
import re
import shutil
from pathlib import Path

import numpy as np

from tests.support.report_inputs import figures_of, make_shares, write
from tuwen.core.params import load_params
from tuwen.data.formats import pairs
from tuwen.evaluation.metric import format_number
from tuwen.evaluation.models import MODELS, list_embedding
from tuwen.report import doubtful_pairs
from tuwen.report.html.confusion import draw_confusion
from tuwen.report.html.histogram import draw_histogram


def section(page, name, after):
    """The cells of every table row between two headings of the page, as text."""
    part = page[page.index(f'<h2 id="{name}">') : page.index(f'<h2 id="{after}">')]
    rows = re.findall(r"<tr.*?>(.*?)</tr>", part, re.S)
    cells = [re.findall(r"<t[dh].*?>(.*?)</t[dh]>", row, re.S) for row in rows]
    return [[" ".join(html.unescape(re.sub(r"<[^>]+>", " ", cell)).split()) for cell in row] for row in cells]


def shown(figures, name, form="{:.1f} [{:.1f}, {:.1f}]"):
    return form.format(*(100 * figures[name + end] for end in ("", "_low", "_high")))


def test_the_corrected_figures_stand_beside_the_headline(made):
    after, before = figures_of(made, "finetuned"), figures_of(made, "baseline")
    page, text = ((made / "results" / name).read_text() for name in ("report.html", "report.md"))
    row = section(page, "recall", "size")[2]
    chance = f"{100 * after['t2i_chance_at_5']:.1f}"
    assert row[:4] == ["R@5", chance, shown(before, "t2i_hit_at_5"), shown(after, "t2i_hit_at_5")]
    change = shown(after, "t2i_qbnorm_gain_at_5", "{:+.1f} [{:+.1f}, {:+.1f}]").replace("-", "−")
    assert row[5:7] == [shown(after, "t2i_qbnorm_hit_at_5"), change]
    line = next(line for line in text.splitlines() if line.startswith("| text → image | R@5 |"))
    assert line.endswith(f"| {shown(after, 't2i_qbnorm_hit_at_5')} | {change} |")


def test_mean_recall_and_median_rank_stand_in_both_reports(made):
    after, before = figures_of(made, "finetuned"), figures_of(made, "baseline")
    page, text = ((made / "results" / name).read_text() for name in ("report.html", "report.md"))
    first, second = (shown(figures, "mean_recall") for figures in (before, after))
    assert f"| both | R@M, the mean of all R@k | {first} | {second} |" in text
    first, second = (f"{100 * figures['mean_recall']:.1f} %" for figures in (before, after))
    assert f'<span class="big">{second}</span><span class="was">from {first}</span>' in page
    for way, title in (("t2i", "text → image"), ("i2t", "image → text")):
        first, second = (f"{figures[f'{way}_median_rank']:g}" for figures in (before, after))
        assert f"| {title} | median rank | {first} | {second} |" in text
        assert f"median rank {second}, from {first}" in page


def test_kinds_of_queries_stand_in_both_reports(made):
    page, text = ((made / "results" / name).read_text() for name in ("report.html", "report.md"))
    ids = pairs.read_pair_set(made / "data/clean/test").texts
    short = {row["text_id"] for row in ids.to_pylist() if 6 <= len(row["caption"]) <= 15}
    assert len(short) == 27  # all but the hostile one
    shares = []
    for model in ("baseline", "finetuned"):
        ranks = pairs.read_table(made / "results" / model / "ranks.parquet").to_pylist()
        best = [row["best_rank"] for row in ranks if row["query_id"] in short]
        shares.append(f"{100 * np.mean(np.array(best) <= 5):.1f}")
    (row,) = (row for row in section(page, "recall", "size") if row[:1] == ["text → image"] and len(row) == 6)
    assert row[:3] == ["text → image", "6 to 15 characters", "27"]
    assert [cell.split("[")[0].strip() for cell in row[3:5]] == shares
    (line,) = re.findall(r"^\| text → image \| 6 to 15 characters \| 27 \| (.*) \|$", text, re.M)
    assert [cell.split(" [")[0] for cell in line.split(" | ")[:2]] == shares


def test_hubs_are_shown_with_their_counts_and_skewness(made):
    after, before = figures_of(made, "finetuned"), figures_of(made, "baseline")
    page, text = ((made / "results" / name).read_text() for name in ("report.html", "report.md"))
    names = [f"t2i_{kind}hub_skewness" for kind in ("", "qbnorm_")]
    numbers = [format_number(figures[name], ".2f") for figures in (before, after) for name in names]
    assert section(page, "hubs", "zero-shot")[1] == ["text → image", *numbers]
    assert f"| text → image | {' | '.join(numbers)} |" in text
    part = page[page.index('<h2 id="hubs">') : page.index('<h2 id="zero-shot">')]
    top = json.loads((made / "results/finetuned/details.json").read_text())["hubs"]["t2i"]["top"]
    tiles = re.findall(r'<figure class="tile"><img src="data:image/jpeg[^>]*>(.*?)</figure>', part, re.S)
    assert [int(re.search(r"(\d+) ×", tile)[1]) for tile in tiles] == [hub["times"] for hub in top]
    share = top and 10 * after["t2i_queries"] / after["images"]
    assert f"a picture's share is {share:.1f}." in part


def test_hits_by_size_of_the_gallery_stand_in_the_text_for_each_direction(made):
    text = (made / "results/report.md").read_text()
    table = text[text.index("## R@5 by the size") : text.index("## Vectors in fewer bytes")]
    curves = [
        json.loads((made / "results" / model / "details.json").read_text())["gallery_curve"]
        for model in ("baseline", "finetuned")
    ]
    expected = [
        f"| {title} | {before['gallery']:g} | {100 * before['hit_at_5']:.1f} | {100 * after['hit_at_5']:.1f} |"
        for way, title in (("t2i", "text → image"), ("i2t", "image → text"))
        for before, after in zip(*(curve[way] for curve in curves), strict=True)
    ]
    assert [line for line in table.splitlines() if "→" in line] == expected
    assert len({line.split("|", 2)[2] for line in expected}) == len(expected)  # no direction passes for the other


def test_what_the_probability_is_worth_stands_in_both_reports(made):
    rows = []
    for way, title in (("t2i", "text → image"), ("i2t", "image → text")):
        for model, name in (("baseline", "baseline"), ("finetuned", "fine-tuned")):
            one = json.loads((made / "results" / model / "details.json").read_text())["calibration"][way]["cosine"]
            share, spread = 100 * one["right"], one["right"] * (1 - one["right"])
            values = f"{share:.1f}", f"{one['brier']:.3f}", f"{spread:.3f}", f"{100 * one['ece']:.1f}"
            rows.append([title, name, str(one["queries"]), *values])
    rows.append(["text → image", "in the index", "28", "25.0", "0.125", "0.188", "6.2"])
    rows.append(["image → text", "in the index", "12", "50.0", "0.200", "0.250", "3.1"])
    text = (made / "results/report.md").read_text()
    table = text[text.index("## Is the first answer right") : text.index("## Zero-shot")]
    assert [line.strip("| ").split(" | ") for line in table.splitlines() if "→" in line] == rows
    page = (made / "results/report.html").read_text()
    assert section(page, "reliability", "hubs")[1:] == rows
    assert page[page.index('<h2 id="reliability">') : page.index('<h2 id="hubs">')].count("<svg") == 2


def test_results_of_older_code_have_no_such_section(world, tmp_path):
    root = shutil.copytree(world, tmp_path / "world")
    for path in root.glob("results/*/details.json"):
        body = json.loads(path.read_text())
        del body["calibration"]
        path.write_text(json.dumps(body))
    write(root)
    assert "Is the first answer right" not in (root / "results/report.md").read_text()
    assert 'id="reliability"' not in (root / "results/report.html").read_text()


def test_a_bar_in_a_name_does_not_end_its_cell(world, tmp_path):
    root = shutil.copytree(world, tmp_path / "world")
    path = root / "data/clean/quality.json"
    path.write_text(path.read_text().replace("corpus/art", "corpus/a|b"))
    write(root)
    assert "\n| corpus/a\\|b | images | 15 |" in (root / "results/report.md").read_text()


def test_hubs_are_counted_among_as_many_answers_as_the_details_say(world, tmp_path):
    root = shutil.copytree(world, tmp_path / "world")
    path = root / "results/finetuned/details.json"
    body = json.loads(path.read_text())
    body["hubs"]["t2i"]["k"] = 4
    path.write_text(json.dumps(body))
    write(root)
    page, text = ((root / "results" / name).read_text() for name in ("report.html", "report.md"))
    # 28 texts, 12 pictures
    assert "have the picture among their first 4; a picture's share is 9.3." in page
    assert "how often an item is among the first 4\n" in text


def test_the_line_among_the_cosines_of_pairs_stands_at_min_cosine(world):
    asked = load_params(world / "params.yaml").pairs.model_copy(update={"min_cosine": 0.25})
    cosines = world / "results/baseline/pair_cosines.parquet"
    values = {"labelled": pairs.read_table(cosines)["cosine"].to_numpy()}
    at = {mark: draw_histogram("cosines", "cosine of a pair", values, mark=mark) for mark in (0.0, 0.25)}
    assert doubtful_pairs.collect_doubtful_pairs(world / "data", cosines, asked).histogram == at[0.25] != at[0.0]


def test_zero_shot_figures_of_both_models_and_the_confusion(made):
    page, text = ((made / "results" / name).read_text() for name in ("report.html", "report.md"))
    found = {
        model: json.loads((made / "results" / model / "zero_shot.json").read_text())
        for model in ("baseline", "finetuned")
    }
    rows = section(page, "zero-shot", "training")
    assert "chance is 20.0, always naming the largest category 28.0." in text  # 3, 4, 5, 6 and 7 pictures
    for title, body in zip(("baseline", "fine-tuned"), found.values(), strict=True):
        tops = [shown(body[key], top) for key in ("one_prompt", "ensemble") for top in ("top_1", "top_5")]
        assert [title, *tops] in rows
        assert f"| {title} | ensemble | {tops[2]} | {tops[3]} |" in text
    for body, before in zip(found["finetuned"]["per_class"], found["baseline"]["per_class"], strict=True):
        shares = [f"{100 * one['top_1']:.1f}" for one in (before, body)]
        assert any(row[:4] == [body["class"], str(body["pictures"]), *shares] for row in rows)
    assert draw_confusion(found["finetuned"]["classes"], found["finetuned"]["confusion"]) in page


def test_a_set_without_categories_says_so(world, tmp_path):
    shutil.copytree(world, tmp_path, dirs_exist_ok=True)
    none = make_shares(0.0, 0.0)
    body = {"classes": [], "pictures": 0, "one_prompt": none, "ensemble": none, "per_class": [], "confusion": []}
    for model in ("baseline", "finetuned"):
        (tmp_path / "results" / model / "zero_shot.json").write_text(json.dumps(body))
    write(tmp_path)
    for name in ("report.md", "report.html"):
        assert "The test pictures have no categories" in (tmp_path / "results" / name).read_text()


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


def test_the_pairs_of_lowest_cosine_stand_on_the_page_with_picture_caption_and_ids(world, tmp_path):
    root = shutil.copytree(world, tmp_path, dirs_exist_ok=True)
    path = root / "params.yaml"
    path.write_text(path.read_text().replace("lowest: 50", "lowest: 7"))
    write(root)
    page = (root / "results/report.html").read_text()
    section = page[page.index(">Doubtful pairs</h2>") : page.index(">Queries, text → image</h2>")]
    lowest = pairs.read_table(root / "results/baseline/pair_cosines.parquet").to_pylist()[:7]
    texts = pairs.read_pair_set(root / "data/clean/bank").texts
    captions = dict(zip(*(texts[name].to_pylist() for name in ("text_id", "caption")), strict=True))
    tiles = re.findall(r'<figure class="tile"><img src="data:image/jpeg[^>]*>(.*?)</figure>', section, re.S)
    assert [re.sub(r"<[^>]+>", " ", html.unescape(tile)).split()[-4:] for tile in tiles] == [
        [format_number(row["cosine"], ".3f"), row["pair_id"], row["image_id"], row["text_id"]] for row in lowest
    ]
    assert all(html.escape(captions[row["text_id"]]) in tile for row, tile in zip(lowest, tiles, strict=True))
    assert "<svg" in section
    share = figures_of(root, "baseline", "bank")["share_under_min_cosine"]
    assert f'<span class="big">{100 * share:.1f} %</span>' in section
    text = (root / "results/report.md").read_text()
    assert f"{100 * share:.1f} % lie under 0 (params.yaml: pairs.min_cosine)" in text
    assert not any(row["image_id"] in text for row in lowest)


def test_the_gain_is_what_lies_between_both_models_and_inside_its_interval(made):
    after, before = figures_of(made, "finetuned"), figures_of(made, "baseline")
    text = (made / "results/report.md").read_text()
    for way, title in (("t2i", "text → image"), ("i2t", "image → text")):
        for k in (1, 5, 10):
            form = rf"^\| {title} \| R@{k} \|(?: [^|]+ \|){{3}} (\**)([−+.\d]+)\1 \[(.*?), (.*?)\] \|"
            ((strong, *line),) = re.findall(form, text, re.M)
            gain, low, high = (float(number.replace("−", "-")) for number in line)
            assert (strong == "**") == (low > 0)  # only a sure gain is put forward
            name = f"{way}_hit_at_{k}"
            assert abs(gain - 100 * (after[name] - before[name])) < 0.051
            assert low <= gain <= high


def test_the_gain_of_the_mean_of_all_is_drawn_over_both_directions_at_once(made):
    names = list_embedding(MODELS)
    ranks = [pairs.read_table(made / "results" / name / "ranks.parquet").to_pylist() for name in names]
    drawn_by = load_params(made / "params.yaml").evaluate
    gains = [
        (
            row["group"],
            row["direction"],
            np.mean([(now["best_rank"] <= k) - (row["best_rank"] <= k) for k in drawn_by.ks]),
        )
        for row, now in zip(*ranks, strict=True)
    ]
    names = sorted({group for group, _, _ in gains})
    draws = np.random.default_rng(drawn_by.seed).integers(
        len(names), size=(drawn_by.bootstrap_samples, len(names))
    )
    table = {
        name: [[gain for group, way, gain in gains if (group, way) == (name, one)] for one in ("t2i", "i2t")]
        for name in names
    }
    means = [
        np.mean([np.mean([gain for g in draw for gain in table[names[g]][way]]) for way in (0, 1)])
        for draw in draws
    ]
    low, high = 100 * np.quantile(means, [0.025, 0.975])
    after, before = figures_of(made, "finetuned")["mean_recall"], figures_of(made, "baseline")["mean_recall"]
    gain = f"{100 * (after - before):+.1f} points [{low:+.1f}, {high:+.1f}]"
    assert f"; over the baseline {gain})" in (made / "results/report.md").read_text()
