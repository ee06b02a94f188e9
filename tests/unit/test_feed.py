import io

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from tuwen import pairs, shards, text
from tuwen.augment import augment
from tuwen.feed import OnlineViews, StoredViews, batches
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
    text=["shuffle_list"],
)
CAPTIONS = ["一只大熊猫", "动物、熊、黑白", "红色的苹果", "水果、红色", "蓝色的帽子"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three pictures; the first two have two captions each."""
    folder = tmp_path_factory.mktemp("data")
    images, texts, rows = [], [], []
    with shards.ShardWriter(folder, "raw/labelled/shards") as writer:
        for n, colour in enumerate(["black", "red", "blue"]):
            drawn = Image.new("RGB", (48, 48), "white")
            drawn.paste(colour, (12, 8, 30, 40))
            out = io.BytesIO()
            drawn.save(out, "PNG")
            member = writer.add(f"i{n}.png", out.getvalue())
            known = {"image_id": f"i{n}", "positive_id": f"i{n}", "group": None, "category": None}
            images.append(known | member._asdict())
    for n, caption in enumerate(CAPTIONS):
        texts.append({"text_id": f"t{n}", "caption": caption})
        rows.append({"pair_id": f"p{n}", "image_id": f"i{n // 2}", "text_id": f"t{n}"})
    tables = zip((images, texts, rows), (pairs.IMAGES, pairs.TEXTS, pairs.PAIRS), strict=True)
    made = pairs.PairSet(*(pa.Table.from_pylist(r, s) for r, s in tables))
    pairs.write(folder / "clean/train", made)
    params = Augment(seed=0, views=2, jpeg_quality=95, policy=POLICY)
    augment(folder / "clean/train", folder / "augmented", params, ImageParams(size_px=32))
    (folder / "vocab.txt").write_text("\n".join(text.build_vocabulary(CAPTIONS)) + "\n", encoding="utf-8")
    return folder


def epoch(views, data, number: int, batch_size: int = 3) -> list:
    tokenizer = text.load_tokenizer(data / "vocab.txt")
    return list(batches(views, tokenizer, max_tokens=12, batch_size=batch_size, seed=0, epoch=number))


def rows_seen(made: list) -> list:
    """What tells one row from another: its pixels and its caption's tokens."""
    return [
        (pixels.sum().item(), tuple(ids[ids > 0].tolist()))
        for b in made
        for pixels, ids in zip(b.pixels, b.ids, strict=True)
    ]


def test_online_views_are_new_in_each_epoch_and_the_same_in_each_run(data) -> None:
    views = OnlineViews(data / "clean/train", POLICY, 32, seed=0)
    assert len(views) == 5
    again = OnlineViews(data / "clean/train", POLICY, 32, seed=0)
    assert np.array_equal(views.item(0, 1)[0], again.item(0, 1)[0])
    assert not np.array_equal(views.item(0, 1)[0], views.item(0, 2)[0])
    assert views.item(2, 1)[1:] == ("红色的苹果", "i1")


def test_stored_views_are_what_augment_wrote(data) -> None:
    views = StoredViews(data / "augmented")
    assert len(views) == 10
    pixels, caption, positive = views.item(0, 1)
    assert pixels.shape == (32, 32, 3)
    assert (caption, positive) == ("一只大熊猫", "i0")
    assert np.array_equal(pixels, views.item(0, 7)[0])


def test_an_epoch_sees_each_row_at_most_once_and_drops_what_fills_no_batch(data) -> None:
    views = StoredViews(data / "augmented")
    made = epoch(views, data, 1)
    assert [len(batch.ids) for batch in made] == [3, 3, 3]
    assert all(batch.pixels.shape == (3, 3, 32, 32) for batch in made)
    orders = [rows_seen(epoch(views, data, n)) for n in (1, 1, 2)]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert len(set(orders[0])) == 9


def test_rows_of_one_picture_and_equal_captions_share_their_ids(data) -> None:
    (batch,) = epoch(OnlineViews(data / "clean/train", POLICY, 32, seed=0), data, 1, batch_size=5)
    sizes = sorted(torch.bincount(batch.positive_id).tolist())
    assert sizes == [1, 2, 2]
    assert len(set(batch.caption_id.tolist())) == 5
