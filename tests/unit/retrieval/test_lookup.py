"""A text or a picture asked of a set or of a folder of pictures."""

from pathlib import Path

import numpy as np
import pytest

from tests.support.broken import encode, landscape
from tests.support.retrieval import make_set
from tests.support.small_model import write_small_model
from tests.support.vectors import unit
from tuwen.core.errors import UserError
from tuwen.data.formats import manifest, pairs
from tuwen.retrieval.lookup import find_answers
from tuwen.retrieval.retriever import load_retriever

MODEL = Path("models/finetuned")


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
