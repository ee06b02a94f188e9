"""What the words of shown queries read: which pair is read, and what is drawn of it."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.reranker import write_small_reranker
from tuwen.core.params import load_params
from tuwen.data.formats import pairs, shards
from tuwen.data.formats.picture_rule import PictureRule
from tuwen.evaluation.results import read_results
from tuwen.report.attention import WORDS_SHOWN, collect_attention
from tuwen.report.examples import Examples, collect_examples
from tuwen.report.heat import draw_heat
from tuwen.report.html.page import decode_thumbnail
from tuwen.retrieval.attention.entity_maps import load_attention_reader, map_entities
from tuwen.retrieval.encode import read_images
from tuwen.retrieval.vectors import read_set_vectors


@pytest.fixture(scope="module")
def test_set(world: Path) -> pairs.PairSet:
    return pairs.read_pair_set(world / "data/clean/test")


@pytest.fixture(scope="module")
def shown(world: Path, test_set: pairs.PairSet) -> Examples:
    folder, names = world / "data/clean/test", ("baseline", "finetuned")
    ks = load_params(world / "params.yaml").evaluate.ks
    ranks = {name: own.ranks for name, own in read_results(world / "results", ks).items()}
    vectors = {name: read_set_vectors(world / "embeddings" / name / "test", folder, test_set) for name in names}
    return collect_examples(world / "data", test_set, vectors, ranks, 2, 0)


def test_a_query_is_read_with_its_true_picture_or_caption(
    world: Path, test_set: pairs.PairSet, shown: Examples, tmp_path: Path
) -> None:
    model = write_small_reranker(tmp_path / "reranked")
    section = collect_attention(world / "data", test_set, shown, model)
    reader, squares = load_attention_reader(model), read_images(world / "data", test_set, PictureRule(16))
    image, text = pairs.find_true_rows(test_set)
    true_pairs = set(zip(image.tolist(), text.tolist(), strict=True))
    captions = test_set.texts["caption"].to_pylist()
    drawn = 0
    for direction, kinds in shown.queries.items():
        for example in (one for examples in kinds.values() for one in examples):
            if direction == "t2i":
                best = next(answer for answer in example.answers["finetuned"] if answer.is_true)
                pair = (best.row, example.row)
            else:
                pair = (example.row, captions.index(shown.first_captions[example.row]))
            assert pair in true_pairs
            read = map_entities(reader, squares[pair[0]], captions[pair[1]])
            found = section.words[direction][example.row]
            assert found.match == read.match
            assert [word for word, _ in found.tiles] == [one.word for one in read.maps[:WORDS_SHOWN]]
            place = shards.Place.of(test_set.images.slice(pair[0], 1).to_pylist()[0])
            picture = decode_thumbnail(shards.read_member(world / "data", place))
            for (_, uri), one in zip(found.tiles, read.maps, strict=False):
                tile = Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))))
                assert tile.size == picture.size
                expected = np.asarray(draw_heat(picture, one.patches), float)
                assert np.abs(np.asarray(tile, float) - expected).mean() < 4  # of 255: it is a JPEG
                drawn += 1
    assert drawn > 10
    assert collect_attention(world / "data", test_set, shown, model) == section


def test_without_maps_the_reason_stands_there(
    world: Path, test_set: pairs.PairSet, shown: Examples, tmp_path: Path
) -> None:
    model = write_small_reranker(tmp_path / "reranked", layers=1)
    section = collect_attention(world / "data", test_set, shown, model)
    assert section.reason.startswith("a map needs a re-ranker of two layers or more")
    assert not any(section.words.values())
