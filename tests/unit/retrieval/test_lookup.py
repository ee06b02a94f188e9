"""A text or a picture asked of a set or of a folder of pictures."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.support.broken import encode, landscape
from tests.support.reranker_world import build_reranked, move_towers, score_all, write_choices
from tests.support.retrieval import make_set
from tests.support.small_model import write_small_model
from tests.support.vectors import unit
from tuwen.core.errors import UserError
from tuwen.data.formats import manifest, pairs, shards
from tuwen.data.formats.json_file import write_json
from tuwen.retrieval.lookup import find_answers
from tuwen.retrieval.retriever import load_retriever

MODEL, RERANKED = Path("models/finetuned"), Path("models/reranked")
CHOICES = {"t2i": (6, 0.5), "i2t": (4, 0.0)}  # depth and weight of the cosine


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model that has embedded a set, where a text lies just on the picture of its own number."""
    monkeypatch.chdir(tmp_path)
    write_small_model(MODEL)
    manifest.write_manifest(MODEL, {}, {})
    found = make_set(Path("data"), "clean/bank")
    texts = load_retriever(MODEL).encode_texts(found.texts["caption"].to_pylist())
    image, text = pairs.find_true_rows(found)
    images = np.zeros((len(found.images), texts.shape[1]))
    np.add.at(images, image, texts[text])
    folder = Path("embeddings/finetuned/bank")
    folder.mkdir(parents=True)
    np.save(folder / "images.npy", unit(images).astype(np.float32))
    np.save(folder / "texts.npy", texts)
    manifest.write_manifest(folder, {"model": MODEL, "set": Path("data/clean/bank")}, {})
    return tmp_path


def test_a_text_finds_pictures_and_a_picture_texts(project: Path) -> None:
    found = find_answers("一个红色的圆形", MODEL, "bank", 3)
    bank = pairs.read_pair_set(project / "data/clean/bank")
    vectors = np.load("embeddings/finetuned/bank/images.npy")
    cosines = load_retriever(MODEL).encode_texts(["一个红色的圆形"]) @ vectors.T
    order = np.argsort(-cosines[0], kind="stable")[:3].tolist()
    assert [one.id for one in found] == [bank.images["image_id"][row].as_py() for row in order]
    assert [one.score for one in found] == pytest.approx(cosines[0][order].tolist(), abs=1e-6)
    captions = dict(zip(bank.texts["text_id"].to_pylist(), bank.texts["caption"].to_pylist(), strict=True))
    assert found[0].caption == captions[found[0].id.replace("图", "name-").removesuffix(".png")]

    Path("风景.jpg").write_bytes(encode(landscape(), "JPEG"))
    texts = find_answers("风景.jpg", MODEL, "bank", 2)
    assert [captions[one.id] for one in texts] == [one.caption for one in texts]


def test_a_folder_of_pictures_answers_both(project: Path) -> None:
    for name in ("甲/一.JPG", "乙.png", ".隐藏.png", "文.txt"):
        path = project / "图片" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(landscape(), "PNG"))
    found = find_answers("海边的日落", MODEL, "图片", 5)
    assert sorted(one.id for one in found) == ["乙.png", "甲/一.JPG"]
    again = find_answers("图片/乙.png", MODEL, "图片", 5)
    assert [one.score for one in again] == pytest.approx([1, 1], abs=1e-5)
    assert again[0].file == str(Path("图片", again[0].id))


def test_what_cannot_be_asked_is_named_with_its_remedy(project: Path) -> None:
    for query, gallery, message in (
        (" ", "bank", r"the query is empty"),
        ("猫.jpg", "bank", r"^猫\.jpg: no such file; mend the path"),
        ("data", "bank", r"^data: a folder"),
        (
            "一只橘猫",
            "test",
            r"embeddings/finetuned/test/images\.npy is missing.*has embedded bank: .*embed@finetuned-test",
        ),
        ("一只橘猫", "models", r"--gallery models: no picture in this folder"),
    ):
        with pytest.raises(UserError, match=message):
            find_answers(query, MODEL, gallery, 5)


def test_vectors_of_another_model_are_no_answer(project: Path) -> None:
    manifest.write_manifest(MODEL, {}, {"another": True})
    with pytest.raises(UserError, match="made from another model"):
        find_answers("一只橘猫", MODEL, "bank", 5)


@pytest.fixture(scope="module")
def ranked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a re-ranker over its fine-tuned model, measured, and a folder of the bank's pictures."""
    root = tmp_path_factory.mktemp("ranked")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        build_reranked(root)
    write_choices(root, CHOICES)
    (root / "图片").mkdir()
    for row in pairs.read_pair_set(root / "data/clean/bank").images.to_pylist():
        (root / "图片" / row["image_id"]).write_bytes(shards.read_member(root / "data", shards.Place.of(row)))
    return root


def sort_plainly(cosine: np.ndarray, match: np.ndarray, direction: str | None) -> list[int]:
    """The rows of a gallery by cosine, and where a direction is given its first ones by the whole score."""
    order = np.argsort(-cosine, kind="stable").tolist()
    if direction is None:
        return order
    depth, weight = CHOICES[direction]
    return [*sorted(order[:depth], key=lambda row: -(match[row] + weight * cosine[row])), *order[depth:]]


@pytest.mark.parametrize("towers", ["frozen", "trained"])
def test_a_re_ranker_reorders_as_deep_as_valid_chose(
    ranked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, towers: str
) -> None:
    root = ranked
    if towers == "trained":
        root = Path(shutil.copytree(ranked, tmp_path / "trained"))
        move_towers(root)
    monkeypatch.chdir(root)
    cosine, match = score_all(root, "bank")
    bank = pairs.read_pair_set(Path("data/clean/bank"))
    images, texts = bank.images["image_id"].to_pylist(), bank.texts["text_id"].to_pylist()
    caption = bank.texts["caption"][5].as_py()
    for query, gallery, scores, ids, direction in (
        (caption, "bank", (cosine[5], match[5]), images, "t2i"),
        (caption, "图片", (cosine[5], match[5]), images, "t2i"),
        ("图片/图03.png", "bank", (cosine[:, 3], match[:, 3]), texts, "i2t"),
    ):
        due = sort_plainly(*scores, direction)
        assert due[:3] != sort_plainly(*scores, None)[:3]
        found = find_answers(query, RERANKED, gallery, 8, rerank=True)
        assert [one.id for one in found] == [ids[row] for row in due[:8]]
        assert [one.score for one in found] == pytest.approx(scores[0][due[:8]], abs=1e-3)
        depth = CHOICES[direction][0]
        assert [one.match for one in found[:depth]] == pytest.approx(scores[1][due[:depth]], abs=1e-3)
        assert [one.match for one in found[depth:]] == [None] * (8 - depth)
        assert find_answers(query, RERANKED, gallery, 2, rerank=True) == found[:2]  # it reads deeper than is shown


def test_without_being_asked_a_re_ranked_model_answers_as_the_dual_encoder(
    ranked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ranked)
    assert find_answers("一个红色的圆形", RERANKED, "bank", 5) == find_answers("一个红色的圆形", MODEL, "bank", 5)


def test_what_cannot_re_rank_is_named_with_its_remedy(ranked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ranked)
    for query, model, gallery, message in (
        ("一只橘猫", MODEL, "bank", r"^--rerank: models/finetuned holds no re-ranker .*evaluate@reranked"),
        ("图片/图03.png", RERANKED, "图片", r"^--rerank: a picture asked of a folder of pictures"),
        ("一只橘猫", RERANKED, "test2", r"embeddings/finetuned/test2/.*embed@finetuned-test2"),
    ):
        with pytest.raises(UserError, match=message):
            find_answers(query, model, gallery, 5, rerank=True)
    details = Path("results/reranked/details.json")
    kept = details.read_bytes()
    write_json(details, {})  # as of a re-ranker that was switched off
    with pytest.raises(UserError, match=r"details\.json: does not say how to re-rank"):
        find_answers("一只橘猫", RERANKED, "bank", 5, rerank=True)
    details.write_bytes(kept)
    place = Path("models/reranked/manifest.json")
    kept = place.read_bytes()
    manifest.write_manifest(RERANKED, {"finetuned": "0" * 64}, {"rerank": {"k": 6}})
    with pytest.raises(UserError, match="made from another model: it names"):
        find_answers("一只橘猫", RERANKED, "bank", 5, rerank=True)
    place.write_bytes(kept)
