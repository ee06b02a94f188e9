"""What `import tuwen` offers, as the README shows it."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import tuwen
from tests.support.checkout import ROOT
from tests.support.small_model import write_small_model
from tests.support.snippets import run_snippets
from tests.support.vectors import unit
from tuwen.core.errors import UserError

NAMES = ["Params", "check", "evaluate", "load", "load_params", "predict", "top_k"]


def test_importing_tuwen_imports_nothing_but_the_standard_library() -> None:
    code = "import sys; before = set(sys.modules); import tuwen; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    packages = {module.partition(".")[0] for module in done.stdout.split()}
    assert packages - sys.stdlib_module_names == {"tuwen"}, done.stderr
    assert "tuwen." not in done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_there_and_comes_from_the_library(name: str) -> None:
    assert name in dir(tuwen)
    value = getattr(tuwen, name)
    assert value.__module__.startswith("tuwen.")
    assert value.__doc__
    assert vars(tuwen)[name] is value  # not looked for again


def test_the_face_is_what_is_promised_and_type_checkers_read_the_same() -> None:
    assert sorted(tuwen.__all__) == NAMES
    tree = ast.parse(Path(tuwen.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    imported = {
        alias.asname or alias.name: getattr(import_module(node.module), alias.name)
        for node in block.body
        for alias in node.names
    }
    assert imported == {name: getattr(tuwen, name) for name in NAMES}


def test_a_name_that_is_not_there_is_an_attribute_error_that_lists_those_that_are() -> None:
    with pytest.raises(AttributeError, match=r"^tuwen has no 'encode'; it has Params, check, .*load, .*top_k$"):
        _ = tuwen.encode
    assert not hasattr(tuwen, "nonsense")


def test_evaluate_measures_arrays_in_memory() -> None:
    random = np.random.default_rng(0)
    images = random.normal(size=(12, 6))
    texts = np.repeat(images, 2, axis=0) + 0.7 * random.normal(size=(24, 6))
    pairs = [(n // 2, n) for n in range(24)]
    metrics = tuwen.evaluate((7 * images).astype(np.float16), 3 * texts, pairs, ks=(1, 3))
    assert (metrics["images"], metrics["texts"], metrics["pairs"]) == (12, 24, 24)
    rows, _ = tuwen.top_k(unit(texts), unit((7 * images).astype(np.float16).astype(np.float64)), k=3)
    hit_TK = rows == np.arange(24)[:, None] // 2
    assert metrics["t2i_hit_at_1"] == pytest.approx(hit_TK[:, 0].mean(), abs=1e-6)
    assert metrics["t2i_hit_at_3"] == pytest.approx(hit_TK.any(axis=1).mean(), abs=1e-6)
    assert metrics["t2i_hit_at_3_low"] <= metrics["t2i_hit_at_3"] <= metrics["t2i_hit_at_3_high"]
    assert "auc" not in metrics
    unfit = np.array([((n // 2 + 5) % 12, n) for n in range(24)])
    assert 0.5 < tuwen.evaluate(images, texts, np.array(pairs), unfit=unfit)["auc"] <= 1


def test_evaluate_names_what_is_wrong() -> None:
    vectors = np.eye(12)
    for pairs, message in (
        ([], "pairs: no true pair"),
        ([(0, 12)], "pairs: texts has the rows 0 to 11, got 12 to 12"),
        ([(-1, 0)], "pairs: images has the rows 0 to 11, got -1 to -1"),
        ([0, 1], r"pairs: \(image row, text row\) per pair expected, got int64 \(2,\)"),
        ([(0.5, 1)], r"pairs: \(image row, text row\) per pair expected, got float64 \(1, 2\)"),
    ):
        with pytest.raises(UserError, match=f"^{message}"):
            tuwen.evaluate(vectors, vectors, pairs)
    with pytest.raises(UserError, match=r"^unfit: \(3, 3\) is one of pairs too"):
        tuwen.evaluate(vectors, vectors, [(3, 3)], unfit=[(3, 3)])
    with pytest.raises(UserError, match=r"^ks, images: k = 10 is over the gallery of 8"):
        tuwen.evaluate(vectors[:8], vectors, [(3, 3)])
    with pytest.raises(UserError, match=r"^images has 12 dimensions, texts has 11"):
        tuwen.evaluate(vectors, vectors[:, :11] + 1, [(3, 3)])


def test_check_takes_names_of_files_and_five_ranks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "texts.csv").write_text("text_id\n甲\n", encoding="utf-8")
    (tmp_path / "images.csv").write_text("image_id\n" + "".join(f"{n}.jpg\n" for n in range(6)), encoding="utf-8")
    rows = [f"甲,{n + 1},{n}.jpg\n" for n in range(5)]
    (tmp_path / "result1.csv").write_text("text_id,similarity_ranking,result_image_id\n" + "".join(rows))
    files = [str(tmp_path / name) for name in ("result1.csv", "texts.csv", "images.csv")]
    assert tuwen.check(*files) is True
    assert tuwen.check(*files, k=4) is False
    assert "rank" in capsys.readouterr().out


def test_load_params_reads_the_settings_as_params() -> None:
    params = tuwen.load_params(ROOT / "params.yaml")
    assert isinstance(params, tuwen.Params)
    assert params.predict.k == 5


def test_the_snippet_of_the_readme_runs(tmp_path: Path) -> None:
    write_small_model(tmp_path / "models/finetuned")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "tuwen.load" in readme
    best, recall = run_snippets(readme, tmp_path).splitlines()
    assert set(best.split()) <= {"cat.jpg", "sea.jpg"}
    assert recall in {f"text → image R@1: {share}%" for share in ("0.0", "50.0", "100.0")}
