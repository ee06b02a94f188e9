import json
import re

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.support.retrieval import build, run
from tests.support.vectors import unit
from tuwen import cli
from tuwen.core.errors import UserError
from tuwen.retrieval import metrics
from tuwen.retrieval.vectors import RetrievalTask

HEADER = "image,text\n"


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Twelve pictures in half precision and 24 texts in double, none of length 1, two texts to a picture."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    images = random.normal(size=(12, 6))
    texts = np.repeat(images, 2, axis=0) + 0.7 * random.normal(size=(24, 6))
    np.save("图.npy", (7 * images).astype(np.float16))
    np.save("文.npy", 3 * texts)
    write("r.csv", HEADER + "".join(f"{n // 2},{n}\n" for n in range(24)))
    return tmp_path


def write(name, text):
    with open(name, "w", encoding="utf-8", newline="") as file:
        file.write(text)


def evaluate(*more, relevance="r.csv"):
    arguments = ["evaluate", "--images", "图.npy", "--texts", "文.npy", "--relevance", relevance, *more]
    done = CliRunner().invoke(cli.app, arguments)
    if isinstance(done.exception, UserError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def unit_of(path):
    return unit(np.load(path).astype(np.float64))


def test_figures_are_those_of_the_cosine_and_it_says_what_it_did(world):
    printed = evaluate("--out", "新/o.json")  # a folder that is not there yet
    assert "图.npy: 12 images, float16, of length " in printed
    assert "文.npy: 24 texts, float64, of length " in printed
    assert printed.count("divided by it, a score is a cosine") == 2
    figures = json.loads((world / "新/o.json").read_text())["figures"]
    assert (figures["images"], figures["texts"], figures["pairs"]) == (12, 24, 24)
    images, texts = unit_of("图.npy"), unit_of("文.npy")
    for direction, queries, gallery, query, item in (
        ("t2i", texts, images, np.arange(24), np.arange(24) // 2),
        ("i2t", images, texts, np.arange(24) // 2, np.arange(24)),
    ):
        judged = metrics.judge_queries(RetrievalTask(queries, gallery, query, item), [1, 5, 10])
        for k, hit, share in zip(
            (1, 5, 10),
            metrics.compute_hits(judged, [1, 5, 10]).mean(axis=0),
            metrics.compute_recalls(judged, [1, 5, 10]).mean(axis=0),
            strict=True,
        ):
            assert figures[f"{direction}_hit_at_{k}"] == pytest.approx(hit, abs=1e-6)
            assert figures[f"{direction}_recall_at_{k}"] == pytest.approx(share, abs=1e-6)
            assert f"{100 * hit:.1f}  [" in printed
        assert figures[f"{direction}_median_rank"] == np.median(judged.best_rank)
    assert "auc" not in figures
    hits = [figures[f"{direction}_hit_at_{k}"] for direction in ("t2i", "i2t") for k in (1, 5, 10)]
    assert figures["mean_recall"] == pytest.approx(np.mean(hits), abs=1e-6)


def test_unit_vectors_in_single_precision_are_taken_as_they_are(world):
    evaluate("--out", "before.json")
    np.save("图.npy", unit_of("图.npy"))
    np.save("文.npy", unit_of("文.npy"))
    printed = evaluate("--out", "after.json")
    assert printed.count("float32, unit vectors\n") == 2
    assert (world / "before.json").read_text() == (world / "after.json").read_text()


def test_ids_name_the_rows_and_chosen_ks_are_measured(world):
    evaluate("-k", "2", "--out", "rows.json")
    ids = [f"图 {n},甲" for n in range(12)]
    write("i.txt", "\n".join(ids) + "\n")
    write("t.txt", "\r\n".join(f"文{n}" for n in range(24)))  # as Windows ends lines
    write("named.csv", "\ufefftext,image\n" + "".join(f'文{n},"{ids[n // 2]}"\r\n' for n in range(24)))
    evaluate(
        "-k", "2", "--image-ids", "i.txt", "--text-ids", "t.txt", "--out", "named.json", relevance="named.csv"
    )
    rows, named = (json.loads((world / name).read_text(encoding="utf-8")) for name in ("rows.json", "named.json"))
    assert rows["figures"] == named["figures"]
    assert "t2i_hit_at_2" in rows["figures"]
    assert "t2i_hit_at_5" not in rows["figures"]
    hubs = [(hub["id"], hub["times"]) for hub in rows["hubs"]["t2i"]["top"]]
    assert [(hub["id"], hub["times"]) for hub in named["hubs"]["t2i"]["top"]] == [
        (ids[int(i)], n) for i, n in hubs
    ]


def test_labels_of_a_matching_set_give_the_auc(world):
    rows = [(n // 2, n, 1) for n in range(24)] + [((n // 2 + 5) % 12, n, 0) for n in range(24)]
    write("r.csv", "image,text,label\n" + "".join(f"{i},{t},{label}\n" for i, t, label in rows))
    printed = evaluate("--out", "o.json")
    figures = json.loads((world / "o.json").read_text())["figures"]
    assert re.search(r"^unfitting pairs +24$", printed, re.M)
    assert re.search(rf"^AUC +{100 * figures['auc']:.1f}  \[", printed, re.M)
    cosine = unit_of("图.npy").astype(np.float64) @ unit_of("文.npy").T.astype(np.float64)
    fitting, unfitting = ([cosine[i, t] for i, t, fits in rows if fits == label] for label in (1, 0))
    assert figures["auc"] == pytest.approx(np.mean([a > b for a in fitting for b in unfitting]), abs=1e-6)
    assert figures["auc_low"] <= figures["auc"] <= figures["auc_high"]
    assert figures["t2i_queries"] == 24


def spoilt(**changes):
    rows = np.load("图.npy")
    for row, value in changes.items():
        rows[int(row.removeprefix("row"))] = value
    return rows


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (lambda: spoilt(row3=np.nan), r"图\.npy: row 3 holds NaN or infinity"),
        (lambda: spoilt(row4=np.inf), r"图\.npy: row 4 holds NaN or infinity"),
        (lambda: spoilt(row5=0), r"图\.npy: row 5 is a zero vector"),
        (
            lambda: np.load("图.npy")[:, :5],
            r"图\.npy has 5 dimensions, 文\.npy has 6; both must come from the same",
        ),
        (lambda: np.load("图.npy")[:0], r"图\.npy: no rows, so this gallery is empty"),
        (lambda: np.load("图.npy")[:8], r"-k, 图\.npy: k = 10 is over the gallery of 8"),
        (lambda: np.load("图.npy")[0], r"图\.npy: float array \[rows, dimensions\] expected, got float16 \(6,\)"),
        (lambda: np.ones((12, 6), np.int64), r"图\.npy: float array .* expected, got int64"),
        (lambda: np.array([{}] * 12), r"图\.npy: not a NumPy array"),
    ],
)
def test_bad_vectors_are_refused_with_their_place(world, array, message):
    np.save("图.npy", array())
    with pytest.raises(UserError, match=f"^{message}"):
        evaluate()


def test_files_that_are_missing_or_no_array_are_refused(world):
    write("文.npy", "not an array")
    with pytest.raises(UserError, match=r"^文\.npy: not a NumPy array"):
        evaluate()
    np.savez("文.npz", np.ones((2, 2)))
    (world / "文.npz").rename("文.npy")
    with pytest.raises(UserError, match=r"^文\.npy: an archive of arrays"):
        evaluate()
    (world / "文.npy").unlink()
    with pytest.raises(UserError, match=r"^文\.npy: no such file"):
        evaluate()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("图,文\n1,2\n", r" line 1: header image,text\[,label\] .* expected, got '图,文'"),
        ("0,0\n1,2\n", r" the header names \['0'\] twice"),
        (HEADER + "0,0\n12,3\n", r" line 3: image '12' is no row of 图\.npy; known are '0' to '11'"),
        (HEADER + "0,0\n1,猫\n", r" line 3: text '猫' is no row of 文\.npy"),
        (HEADER + "0,-1\n", r" line 2: text '-1' is no row"),
        (HEADER + "0,0,1\n", r"2: found 3 fields, expected 2 \(image, text\)"),
        ("image,text,label\n0,0,2\n", r" line 2: label '2': 1 where the text fits the image, else 0"),
        ("image,text,label\n0,0,1\n0,0,0\n", r" line 3: \['0', '0'\] has label 0 and 1"),
        ("image,text,label\n0,0,0\n", r" no true pair, so there is no truth to measure by"),
        (HEADER, r" no true pair"),
        ("", r" line 1: header image,text\[,label\] .* expected, got ''"),
    ],
)
def test_a_bad_relevance_table_is_refused_with_its_line(world, rows, message):
    write("r.csv", rows)
    with pytest.raises(UserError, match=rf"^r\.csv:{message}"):
        evaluate()


def test_other_bad_files_are_refused(world):
    with pytest.raises(UserError, match=r"^gone\.csv: no such file"):
        evaluate(relevance="gone.csv")
    (world / "r.csv").write_bytes("image,text\n猫咪,0\n".encode("gb18030"))
    with pytest.raises(UserError, match=r"^r\.csv: line 2: image '猫咪' is no row of 图\.npy"):
        evaluate()
    (world / "r.csv").write_bytes("image,text\n猫,0\n".encode("gb18030"))
    with pytest.raises(
        UserError, match=r"^r\.csv: too few characters to tell the encoding; save the file as UTF-8"
    ):
        evaluate()
    write("r.csv", HEADER + '"0,0\n' + "".join(f"{n % 12},{n % 12}\n" for n in range(30_000)))
    with pytest.raises(UserError, match=r"^r\.csv: line 2: image '\"0' is no row of 图\.npy"):
        evaluate()
    write("i.txt", "\n".join(["甲"] + [f"图{n}" for n in range(10)] + ["甲"]) + "\n")
    with pytest.raises(UserError, match=r"^i\.txt: line 12: id '甲' stands in line 1 too"):
        evaluate("--image-ids", "i.txt")
    write("i.txt", "甲\n乙\n")
    with pytest.raises(UserError, match=r"^i\.txt: 2 lines, but 图\.npy has 12 rows"):
        evaluate("--image-ids", "i.txt")
    with pytest.raises(UserError, match=r"^\.: no such file"):
        evaluate("--image-ids", ".")
    for name in ("r.parquet", "R.PARQUET"):
        write(name, HEADER)
        with pytest.raises(UserError, match=rf"^{name}: cannot be read as Parquet"):
            evaluate(relevance=name)
    for ks in (("0",), ("5", "5")):
        with pytest.raises(UserError, match=r"^-k: \[.*\] must be different numbers from 1 on"):
            evaluate(*(word for k in ks for word in ("-k", k)))


def test_it_says_how_many_queries_were_asked_and_which_were_not(world):
    printed = evaluate("--out", "o.json")
    assert "text → image: all 24 texts are asked\nimage → text: all 12 images are asked\n" in printed
    write("r.csv", HEADER + "".join(f"{n // 2},{n}\n" for n in range(5)))
    printed = evaluate("--out", "o.json")
    assert (
        "text → image: 5 of 24 texts are asked; 19 have no true line in the relevance table, such as '5', '6'"
        in printed
    )
    assert (
        "image → text: 3 of 12 images are asked; 9 have no true line in the relevance table, such as '3'"
        in printed
    )
    measured = json.loads((world / "o.json").read_text())
    assert measured["queries"] == {
        "t2i": {"asked": 5, "without_truth": 19, "such_as": ["5", "6", "7"]},
        "i2t": {"asked": 3, "without_truth": 9, "such_as": ["3", "4", "5"]},
    }
    # a pair that is known not to fit is no truth
    write("r.csv", "image,text,label\n0,0,1\n1,2,0\n")
    assert "text → image: 1 of 24 texts are asked; 23 have" in evaluate()


def test_chance_stands_beside_recall_and_exact_intervals_are_marked(world):
    write("r.csv", HEADER + "".join(f"{n},{2 * n}\n" for n in range(12)))
    texts = np.load("文.npy")
    texts[::2] = np.load("图.npy")  # every text of the table lies on its image
    np.save("文.npy", texts)
    printed = evaluate("--out", "o.json")
    measured = json.loads((world / "o.json").read_text())
    assert measured["figures"]["t2i_chance_at_5"] == pytest.approx(5 / 12, abs=1e-6)
    assert measured["figures"]["i2t_chance_at_5"] == pytest.approx(5 / 24, abs=1e-6)
    assert re.search(r"^text → image  R@5 by chance +41\.7$", printed, re.M)
    assert re.search(r"^text → image  R@1 +100\.0  \[73\.5, 100\.0\]$", printed, re.M)  # 12 of 12
    assert {"t2i_hit_at_1", "i2t_hit_at_1", "mean_recall"} <= set(measured["exact_intervals"])


def test_names_that_are_no_row_are_counted(world):
    write("r.csv", HEADER + "0,0\n" + "".join(f"{n},0\n" for n in range(12, 17)))
    with pytest.raises(
        UserError, match=r"^r\.csv: line 3: image '12' is no row .*; line 5: image '14' .* \(and 2 more\)"
    ):
        evaluate()


def test_a_quote_that_is_never_closed_is_one_message(world):
    write("r.csv", HEADER + '"0,0\n' + "0,0\n" * 40_000)  # over the csv module's limit of a field
    with pytest.raises(UserError, match=r"^r\.csv: line 2: image '\"0' is no row"):
        evaluate()


def test_tables_of_ours_give_the_figures_of_the_pipeline(tmp_path):
    root = build(tmp_path)
    due = run(root)["test"]
    vectors = [f"--{name}={root / 'embeddings/finetuned/test' / name}.npy" for name in ("images", "texts")]
    for relevance in (root / "data/clean/test/pairs.parquet", root / "data/clean/test"):
        arguments = ["evaluate", *vectors, f"--relevance={relevance}", f"--out={root / 'o.json'}"]
        done = CliRunner().invoke(cli.app, arguments)
        assert done.exit_code == 0, done.output
        figures = json.loads((root / "o.json").read_text())["figures"]
        assert {name: figures[name] for name in figures if name != "pairs"} == {
            name: due[name] for name in figures if name != "pairs"
        }
    # other vectors than the table's rows are no silent shift
    np.save(root / "few.npy", np.load(root / "embeddings/finetuned/test/images.npy")[1:])
    with pytest.raises(UserError, match=r"images\.parquet: 12 lines, but .*few\.npy has 11 rows"):
        CliRunner().invoke(
            cli.app,
            ["evaluate", f"--images={root / 'few.npy'}", vectors[1], f"--relevance={relevance}"],
            catch_exceptions=False,
        )
