"""An index is of one model and of its sets, all of them, whoever embedded them."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.support.reranker_world import move_towers
from tests.support.search_project import CURVES, EMBED, INDEX, build_index, build_search_project, read_manifest
from tuwen.core.errors import UserError
from tuwen.data.formats import manifest, pairs
from tuwen.data.formats.manifest import hash_path
from tuwen.retrieval.retriever import load_retriever
from tuwen.service.index.build import choose_answering_model
from tuwen.service.index.exact import ExactStore
from tuwen.service.index.item_index import ItemIndex
from tuwen.service.index.store import ItemFilter


def test_the_vectors_are_those_of_the_sets_one_after_another(built: Path) -> None:
    index = ItemIndex(built / "index")
    for side, count in (("images", 12), ("texts", 28)):
        parts = [np.load(built / f"embeddings/finetuned/{name}/{side}.npy") for name in ("test", "bank")]
        assert np.array_equal(index.codes[side].values[: 2 * count], np.concatenate(parts))
        assert index.codes[side].values.shape == (3 * count, 16)
    captions = index.tables["texts"]["caption"].to_pylist()
    own = load_retriever(built / "models/reranked").encode_texts(captions)
    assert np.allclose(index.codes["texts"].values, own, atol=1e-5)  # the corpus too, which no stage embeds


def test_the_manifest_says_whose_vectors_of_what_they_are(built: Path) -> None:
    body = read_manifest(built / "index")
    clean = built / "data/clean"
    assert body["inputs"] == {"model": hash_path(built / "models/reranked")} | {
        f"set-{name}": hash_path(clean / name) for name in ("test", "bank", "corpus")
    }
    assert set(body["params"].pop("growth")) == {"t2i", "i2t"}  # test_growth.py
    assert body["params"] == {
        **{
            "dimension": 16,
            "dtype": "float32",
            "metric": "cosine",
            "model": "reranked",
            "images": 36,
            "texts": 84,
        },
        **INDEX.model_dump(),
        "reranking": {"t2i": {"k": 6, "weight": 0.5}, "i2t": {"k": 4, "weight": 0.0}},
        "calibration": dict.fromkeys(("t2i", "i2t"), CURVES["reranked"]),
    }


@pytest.mark.parametrize("dtype", ["float16", "int8", "binary"])
def test_an_index_is_kept_and_searched_in_fewer_bytes(built: Path, tmp_path: Path, dtype: str) -> None:
    small = EMBED.model_copy(update={"dtype": dtype})
    root = Path(shutil.copytree(built, tmp_path / "small", ignore=shutil.ignore_patterns("index")))
    index, whole = ItemIndex(build_index(root, embed=small)), ItemIndex(built / "index")
    kept = sum(path.stat().st_size for path in index.folder.glob("images*.npy"))
    assert kept < (built / "index/images.npy").stat().st_size
    rows = np.arange(36)
    ours, theirs = index.read_vectors("images", rows), whole.read_vectors("images", rows)
    assert np.allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-6)
    assert (ours * theirs).sum(axis=1).min() > 0.999
    hits = ExactStore(index).search("images", theirs, 1, ItemFilter())
    assert [whole.read_row("images", int(one.rows[0]))["caption"] for one in hits] == [
        whole.read_row("images", row)["caption"] for row in range(36)
    ]  # the three sets hold the same twelve pictures


def test_the_same_inputs_give_the_same_bytes(built: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(built, tmp_path / "other"))
    assert manifest.hash_path(build_index(other)) == manifest.hash_path(built / "index")
    assert not (other / ".cache/index").exists()


def test_without_a_re_ranker_the_fine_tuned_model_answers(tmp_path: Path) -> None:
    root = build_search_project(tmp_path, reranked=False)
    assert choose_answering_model(root / "models") == root / "models/finetuned"
    body = read_manifest(build_index(root, INDEX.model_copy(update={"sets": ["bank"]})))
    assert body["params"]["reranking"] is None
    assert body["inputs"]["model"] == hash_path(root / "models/finetuned")


def test_towers_of_its_own_embed_all_sets_anew(built: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(built, tmp_path / "own"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        move_towers(Path())
    index = ItemIndex(build_index(root))
    assert np.allclose(
        index.codes["images"].values[:12], np.load(root / "embeddings/own/test/images.npy"), atol=1e-6
    )
    assert not np.allclose(index.codes["images"].values[:12], np.load(built / "index/images.npy")[:12], atol=1e-2)


def test_vectors_of_another_model_or_set_are_refused(built: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(built, tmp_path / "other"))
    (root / "data/clean/bank/note.txt").write_text("改过", encoding="utf-8")
    with pytest.raises(UserError, match="made from another set"):
        build_index(root)
    (root / "data/clean/bank/note.txt").unlink()
    manifest.write_manifest(
        root / "models/reranked", {"finetuned": "0" * 64}, {"rerank": {"k": 6, "towers": "frozen"}}
    )
    with pytest.raises(UserError, match="made from another model"):
        build_index(root)


def test_sets_that_hold_nothing_are_named(tmp_path: Path) -> None:
    root = build_search_project(tmp_path, reranked=False)
    none = pairs.PairSet(*(schema.empty_table() for schema in (pairs.IMAGES, pairs.TEXTS, pairs.PAIRS)))
    pairs.write_pair_set(root / "data/clean/corpus", none)
    with pytest.raises(UserError, match=r"index\.sets: corpus hold no images"):
        build_index(root, INDEX.model_copy(update={"sets": ["corpus"]}))
