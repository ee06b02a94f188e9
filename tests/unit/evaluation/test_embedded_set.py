import numpy as np

from tests.support.vectors import unit
from tuwen.data.formats.directions import DIRECTIONS
from tuwen.evaluation.embedded_set import EmbeddedSet, score_pairs

NONE = np.zeros(0, np.int64)
IMAGES, TEXTS = unit(np.eye(3) + 0.1), unit(np.ones((4, 3)) + np.eye(4, 3))
EMBEDDED = EmbeddedSet(
    images=IMAGES,
    texts=TEXTS,
    image=np.array([2, 0, 1, 0]),
    text=np.array([0, 1, 1, 3]),
    image_groups=np.array(["甲", "乙", "丙"], object),
    unfit=(NONE, NONE),
    ids={"images": ["图0", "图1", "图2"], "texts": ["文0", "文1", "文2", "文3"]},
)


def test_a_direction_says_what_searches_what():
    t2i, i2t = (EMBEDDED.make_task(direction) for direction in DIRECTIONS.values())
    assert t2i.queries is i2t.gallery is TEXTS
    assert i2t.queries is t2i.gallery is IMAGES
    assert list(zip(t2i.query.tolist(), t2i.item.tolist(), strict=True)) == [(0, 2), (1, 0), (1, 1), (3, 0)]
    assert list(zip(i2t.query.tolist(), i2t.item.tolist(), strict=True)) == [(2, 0), (0, 1), (1, 1), (0, 3)]


def test_a_text_belongs_to_the_group_of_its_first_image():
    groups = EMBEDDED.list_groups(DIRECTIONS["t2i"])
    assert groups[[0, 1, 3]].tolist() == ["丙", "甲", "甲"]  # text 1 shows images 0 and 1, text 2 shows none
    assert EMBEDDED.list_groups(DIRECTIONS["i2t"]).tolist() == ["甲", "乙", "丙"]


def test_pairs_are_scored_in_portions_as_at_once(monkeypatch):
    image, text = np.array([0, 1, 2, 2]), np.array([3, 0, 0, 1])
    expected = [float(IMAGES[i].astype(np.float64) @ TEXTS[t]) for i, t in zip(image, text, strict=True)]
    monkeypatch.setattr("tuwen.evaluation.embedded_set.PAIRS_AT_ONCE", 3)
    np.testing.assert_allclose(score_pairs(IMAGES, TEXTS, image, text), expected, atol=1e-15)
