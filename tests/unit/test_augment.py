import io

import numpy as np
import pytest
from PIL import Image

from tuwen import pairs, shards
from tuwen.augment import VIEWS, Viewer, augment, rows_of
from tuwen.images import decode, square
from tuwen.params import Augment, Policy
from tuwen.params import Image as ImageParams

POLICY = Policy(
    crop_scale=[0.7, 1.0],
    crop_ratio=[0.8, 1.25],
    flip=True,
    rotate_degrees=15.0,
    zoom=[0.7, 1.1],
    colour=0.2,
    grey=0.1,
    outline=0.5,
    text=["shuffle_list", "drop_from_list"],
)
STILL = Policy(
    crop_scale=[1.0, 1.0],
    crop_ratio=[1.0, 1.0],
    flip=True,
    rotate_degrees=0.0,
    zoom=[1.0, 1.0],
    colour=0.0,
    grey=0.0,
    outline=0.0,
    text=[],
)


@pytest.fixture
def picture() -> Image.Image:
    """Left half red, right half blue, a green band below: every change shows."""
    drawn = Image.new("RGB", (96, 96), "red")
    drawn.paste("blue", (48, 0, 96, 96))
    drawn.paste("green", (0, 80, 96, 96))
    return drawn


def test_view_0_is_the_picture_rule_alone(picture) -> None:
    pixels, caption, flipped = Viewer(POLICY, 32, 0).view(picture, "动物、熊、黑白", "p1", 0, sided=False)
    assert np.array_equal(pixels, square(picture, 32))
    assert caption == "动物、熊、黑白"
    assert not flipped


def test_a_view_depends_on_pair_view_and_seed_alone(picture) -> None:
    viewer = Viewer(POLICY, 32, 0)
    first = [viewer.view(picture, "动物、熊、黑白", "p1", view, sided=False) for view in range(1, 8)]
    viewer.view(picture, "一只大熊猫", "other", 3, sided=False)  # what came before must not matter
    fresh = Viewer(POLICY, 32, 0)
    again = [fresh.view(picture, "动物、熊、黑白", "p1", view, sided=False) for view in range(7, 0, -1)][::-1]
    for (pixels, caption, flipped), (pixels2, caption2, flipped2) in zip(first, again, strict=True):
        assert np.array_equal(pixels, pixels2)
        assert (caption, flipped) == (caption2, flipped2)
    assert len({pixels.tobytes() for pixels, _, _ in first}) == 7
    other = Viewer(POLICY, 32, 1).view(picture, "动物、熊、黑白", "p1", 1, sided=False)[0]
    assert not np.array_equal(other, first[0][0])


def test_a_flip_mirrors_about_half_of_the_views_and_nothing_else(picture) -> None:
    views = [Viewer(STILL, 32, 0).view(picture, "一只大熊猫", f"p{n}", 1, sided=False) for n in range(60)]
    flipped = [pixels for pixels, _, was in views if was]
    assert 15 < len(flipped) < 45
    assert all(pixels[4, 4].tolist() == [0, 0, 255] for pixels in flipped)
    assert all(pixels[4, 4].tolist() == [255, 0, 0] for pixels, _, was in views if not was)


def test_a_sided_picture_is_never_flipped(picture) -> None:
    views = [Viewer(STILL, 32, 0).view(picture, "跑步者", f"p{n}", 1, sided=True) for n in range(60)]
    assert not any(flipped for _, _, flipped in views)
    assert all(pixels[4, 4].tolist() == [255, 0, 0] for pixels, _, _ in views)


def test_outlines_are_black_where_colours_meet(picture) -> None:
    policy = STILL.model_copy(update={"flip": False, "outline": 1.0})
    pixels, _, _ = Viewer(policy, 96, 0).view(picture, "一只大熊猫", "p1", 1, sided=False)
    assert pixels[40, 48].max() < 100
    assert pixels[40, 20].tolist() == [255, 0, 0]


def test_a_picture_is_sided_for_all_its_pairs_when_one_caption_tells_left_from_right(tmp_path, picture) -> None:
    write_train(tmp_path, picture, 2)
    train = pairs.read(tmp_path / "clean/train")
    texts = [{"text_id": "t0", "caption": "跑步者面向右边"}, {"text_id": "t1", "caption": "赛跑、运动"}]
    rows = [
        {"pair_id": f"p{n}", "image_id": image, "text_id": text}
        for n, (image, text) in enumerate([("i0", "t0"), ("i0", "t1"), ("i1", "t1")])
    ]
    tables = (pairs.pa.Table.from_pylist(texts, pairs.TEXTS), pairs.pa.Table.from_pylist(rows, pairs.PAIRS))
    sided = {row["pair_id"]: row["sided"] for row in rows_of(pairs.PairSet(train.images, *tables))}
    assert sided == {"p0": True, "p1": True, "p2": False}


def write_train(data, picture: Image.Image, rows: int) -> None:
    images, texts, true = [], [], []
    with shards.ShardWriter(data, "raw/labelled/shards") as writer:
        for n in range(rows):
            out = io.BytesIO()
            picture.rotate(n * 7).save(out, "PNG")
            member = writer.add(f"i{n}.png", out.getvalue())
            known = {"image_id": f"i{n}", "positive_id": f"i{n}", "group": None, "category": None}
            images.append(known | member._asdict())
            texts.append({"text_id": f"t{n}", "caption": f"第{n}只大熊猫"})
            true.append({"pair_id": f"p{n}", "image_id": f"i{n}", "text_id": f"t{n}"})
    tables = zip((images, texts, true), (pairs.IMAGES, pairs.TEXTS, pairs.PAIRS), strict=True)
    pairs.write(data / "clean/train", pairs.PairSet(*(pairs.pa.Table.from_pylist(r, s) for r, s in tables)))


def test_the_stored_views_are_eight_per_pair_whatever_the_workers(tmp_path, picture, monkeypatch) -> None:
    monkeypatch.setattr("tuwen.augment.PAIRS_PER_SHARD", 2)
    params = Augment(seed=0, views=8, jpeg_quality=95, policy=POLICY)
    for workers in ("1", "2"):
        data = tmp_path / workers
        write_train(data, picture, 5)
        monkeypatch.setenv("TUWEN_WORKERS", workers)
        augment(data / "clean/train", data / "augmented", params, ImageParams(size_px=32))
    one, two = tmp_path / "1" / "augmented", tmp_path / "2" / "augmented"
    names = sorted(str(path.relative_to(one)) for path in one.rglob("*") if path.is_file())
    assert names == [
        "manifest.json",
        "shards/000000.tar",
        "shards/000001.tar",
        "shards/000002.tar",
        "views.parquet",
    ]
    for name in names:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    views = pairs.read_table(one / "views.parquet", VIEWS).to_pylist()
    assert [(row["pair_id"], row["view"]) for row in views] == [(f"p{n}", v) for n in range(5) for v in range(8)]
    assert {row["positive_id"] for row in views} == {f"i{n}" for n in range(5)}
    row = views[8]  # view 0 of the second pair, through JPEG
    stored = decode(shards.read(tmp_path / "1", row["shard"], row["offset"], row["size"]))
    difference = np.asarray(stored, int) - square(picture.rotate(7), 32)
    assert np.abs(difference).mean() < 8
