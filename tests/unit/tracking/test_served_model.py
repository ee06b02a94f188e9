"""The served model without a server; test_registry.py has it answer from MLflow's registry."""

import base64
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.support.broken import encode, landscape
from tests.support.reranker_world import build_reranked, move_towers, score_all, write_choices
from tests.support.small_model import write_small_model
from tuwen.data.formats import pairs, shards
from tuwen.retrieval.retriever import load_retriever
from tuwen.tracking import registry
from tuwen.tracking.served_model import ServedModel

CAPTIONS = ["一只橘猫趴在窗台上", "大熊猫", "海边的日落"]
HILLS = ["darkgreen", "crimson", "navy", "orange"]
PICTURES = [encode(landscape(hills=hills)) for hills in HILLS]
# The packages that MLflow brings along are hidden once it is there.
ANSWER_ALONE = """
import sys
from types import SimpleNamespace
import mlflow.pyfunc, pandas
for name in ("pyarrow", "pydantic", "rich", "ruamel", "albumentations", "great_expectations", "typer"):
    for loaded in [module for module in sys.modules if module.partition(".")[0] == name]:
        del sys.modules[loaded]
    sys.modules[name] = None
from tuwen.tracking.served_model import ServedModel
model = ServedModel()
model.load_context(SimpleNamespace(artifacts={"model": sys.argv[1], "gallery": sys.argv[2]}))
print(*model.predict(None, pandas.DataFrame([{"text": "大熊猫"}]), {"k": 1})["ids"][0])
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A model, and a gallery that it has embedded: the artifacts of a registered model."""
    root = tmp_path_factory.mktemp("registered")
    retriever = load_retriever(write_small_model(root / "model"))
    (root / "gallery").mkdir()
    np.save(root / "gallery/images.npy", retriever.encode_images(PICTURES))
    np.save(root / "gallery/texts.npy", retriever.encode_texts(CAPTIONS))
    ids = {"images": [f"{hills}.png" for hills in HILLS], "texts": CAPTIONS}
    (root / "gallery/ids.json").write_text(json.dumps(ids, ensure_ascii=False), encoding="utf-8")
    return {name: str(root / name) for name in ("model", "gallery")}


@pytest.fixture(scope="module")
def served(folders: dict[str, str]) -> ServedModel:
    model = ServedModel()
    model.load_context(SimpleNamespace(artifacts=folders))
    return model


def in_base64(number: int) -> str:
    return base64.b64encode(PICTURES[number]).decode()


def ask(served: ServedModel, rows: list[dict[str, Any]], **params: Any) -> pd.DataFrame:
    return served.predict(None, pd.DataFrame(rows, index=[f"r{n}" for n in range(len(rows))]), params)


def test_texts_get_images_and_images_get_texts_in_the_order_of_the_rows(
    served: ServedModel, folders: dict[str, str]
) -> None:
    images, texts = (np.load(Path(folders["gallery"]) / f"{kind}.npy") for kind in ("images", "texts"))
    rows = [{"image": in_base64(3)}, {"text": CAPTIONS[1]}, {"image": in_base64(0)}]
    answers = ask(served, rows, k=2)
    assert list(answers.index) == ["r0", "r1", "r2"]
    assert list(answers.columns) == ["ids", "scores"]
    queries = [(images[3], texts, CAPTIONS), (texts[1], images, [f"{hills}.png" for hills in HILLS])]
    queries.append((images[0], texts, CAPTIONS))
    for answer, (vector, gallery, ids) in zip(answers.itertuples(), queries, strict=True):
        cosines = gallery @ vector
        best = np.argsort(-cosines, kind="stable")[:2]
        assert answer.ids == [ids[row] for row in best]
        np.testing.assert_allclose(answer.scores, cosines[best], atol=1e-5)


def test_embeddings_come_with_the_answers_where_they_are_wanted(
    served: ServedModel, folders: dict[str, str]
) -> None:
    answers = ask(served, [{"text": CAPTIONS[2]}], k=1, embeddings=True)
    texts = np.load(Path(folders["gallery"]) / "texts.npy")
    np.testing.assert_allclose(answers["embedding"].iloc[0], texts[2], atol=1e-5)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "大熊猫", "image": "aGk="}, "row 1: either text or image expected, got both"),
        ({"text": None, "image": None}, "row 1: either text or image expected, got neither"),
        ({"image": "/etc/passwd.png"}, r"row 1: image must be a picture file in base64 \("),
        ({"image": "图"}, r"row 1: image must be a picture file in base64 \("),
        ({"image": "aGk="}, r"row 1: image: cannot be read as an image \("),
    ],
)
def test_a_row_that_cannot_be_answered_is_named(served: ServedModel, row: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        ask(served, [{"text": "大熊猫"}, row], k=1)


def test_answering_needs_only_what_the_registered_model_requires(folders: dict[str, str]) -> None:
    command = [sys.executable, "-c", ANSWER_ALONE, folders["model"], folders["gallery"]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.stdout.removesuffix(".png\n") in HILLS, done.stderr


def test_exact_search_serves_one_thread_at_a_time(served: ServedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Search sets flags of the whole process, and a server's threads share one model."""
    gallery, held = served.galleries["images"], list[bool]()

    def search(queries: Any, k: int) -> Any:
        held.append(served.turn.locked())
        return gallery.search(queries, k)

    monkeypatch.setitem(served.galleries, "images", SimpleNamespace(search=search))
    served.predict(None, pd.DataFrame([{"text": "大熊猫"}]), {"k": 1})
    assert held == [True]
    assert not served.turn.locked()


@pytest.fixture(scope="module", params=["frozen", "trained"])
def reranked(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> dict[str, str]:
    """A re-ranker with the test set as its gallery, as `tuwen track register models/reranked` packs them.

    Once over the fine-tuned model's towers, once with its own.
    """
    root = tmp_path_factory.mktemp("reranked")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        build_reranked(root)
        if request.param == "trained":
            move_towers(root)
        write_choices(root, {"t2i": (6, 0.5), "i2t": (4, 0.0)})
        registry.pack(Path("models/reranked"), "test", root / "gallery")
    return {"model": str(root / "models/reranked"), "gallery": str(root / "gallery")}


def test_a_re_ranker_answers_in_its_order_where_it_is_asked_to(reranked: dict[str, str]) -> None:
    model = ServedModel()
    model.load_context(SimpleNamespace(artifacts=reranked))
    root = Path(reranked["gallery"]).parent
    cosine, match = score_all(root, "test")
    tables = pairs.read_pair_set(root / "data/clean/test")
    captions, names = tables.texts["caption"].to_pylist(), tables.images["image_id"].to_pylist()
    places = [shards.Place.of(row) for row in tables.images.to_pylist()]
    encoded = base64.b64encode(shards.read_member(root / "data", places[3])).decode()
    asked = [{"text": captions[5], "image": None}, {"text": None, "image": encoded}]
    plain, ordered = (ask(model, asked, k=5, rerank=wanted) for wanted in (False, True))
    text_ids = tables.texts["text_id"].to_pylist()
    cases = [(cosine[5], match[5], names, (6, 0.5)), (cosine[:, 3], match[:, 3], text_ids, (4, 0.0))]
    for row, (by_cosine, by_match, ids, (k, weight)) in enumerate(cases):
        order = np.argsort(-by_cosine, kind="stable").tolist()
        assert plain["ids"].iloc[row] == [ids[item] for item in order[:5]]
        score = by_match + weight * by_cosine
        new = [*sorted(order[:k], key=lambda item, score=score: -score[item]), *order[k:]][:5]
        assert ordered["ids"].iloc[row] == [ids[item] for item in new]
        assert ordered["scores"].iloc[row] == pytest.approx(by_cosine[new], abs=1e-5)
    assert plain["ids"].tolist() != ordered["ids"].tolist()


def test_a_version_without_a_re_ranker_says_so(served: ServedModel) -> None:
    with pytest.raises(ValueError, match="rerank: this version has no re-ranker"):
        ask(served, [{"text": "大熊猫"}], rerank=True)
